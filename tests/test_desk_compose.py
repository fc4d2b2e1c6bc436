"""Writing a notice: saved with its gaps, seen as residents will see it, and nobody's words lost."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from broadcaster.lifecycle import State
from broadcaster.store import audit, drafts
from broadcaster.store.tables import staff_mails
from tests.desk import DeskUnderTest, Person, a_desk
from tests.makers import GOLDEN

PICTURES = GOLDEN.parent.parent / "config" / "rehearsal" / "images"

NOTICE = {
    "title": "荒川の清掃のお知らせ",
    "body": "清掃のため、通行止めになります。",
    "where": "whole",
    "channels": "email",
    "category": "notice",
    "expires_at": "2027-12-05 17:00",
    "section.name": "環境課",
    "section.phone": "03-3777-1111",
}


def number_of(answer: Any) -> int:
    found = re.fullmatch(r"/desk/drafts/(\d+)\?saved=1", answer.headers["location"])
    assert found, answer.headers
    return int(found[1])


def draft_of(desk: DeskUnderTest, number: int) -> drafts.Draft:
    with desk.app.database.read() as connection:
        found = drafts.get(connection, number)
    assert found is not None
    return found


async def written(person: Person, **fields: str) -> int:
    await person.get("/desk/messages/new")
    return number_of(await person.post("/desk/drafts", **{**NOTICE, **fields}, act="save"))


async def test_a_notice_is_written_seen_and_handed_over(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        desk.readers(3)
        writer = await desk.person("writer")
        number = await written(writer)
        page = await writer.get(f"/desk/drafts/{number}")
        assert "荒川の清掃のお知らせ" in page.text
        assert "2027年12月5日（日）17:00 と読みました。" in page.text
        answer = await writer.post(f"/desk/drafts/{number}", **NOTICE, version="1", act="ask")
        assert answer.status_code == 303, answer.text
        kept = desk.newest()
        assert kept is not None
        assert kept.state is State.SUBMITTED
        assert answer.headers["location"] == f"/desk/approvals/{kept.message.identifier}"
        assert draft_of(desk, number).identifier == kept.message.identifier
        with desk.app.database.read() as connection:
            mails = connection.execute(staff_mails.select()).all()
        assert len(mails) == 4
        assert all(mail.subject.startswith("[要承認]") for mail in mails)


async def test_a_draft_with_gaps_is_saved_and_its_faults_are_said_when_approval_is_asked_for(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        writer = await desk.person("writer")
        number = await written(writer, body="", where="", expires_at="")
        page = await writer.get(f"/desk/drafts/{number}")
        assert "まだ書いていないもの：本文・どこへ・いつまで" in page.text
        answer = await writer.post(
            f"/desk/drafts/{number}", title="荒川の清掃", channels="email", version="1", act="ask", read_remarks="1"
        )
        assert answer.status_code == 422
        assert "どこへ出すかを選んでください。" in answer.text
        assert 'href="#area"' in answer.text
        assert "荒川の清掃" in answer.text
        assert desk.newest() is None


async def test_no_area_is_never_the_whole_ward(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        writer = await desk.person("writer")
        for where, more in (
            ("", {}),
            ("districts", {}),
            ("districts", {"district": "火星"}),
            ("towns", {"towns": "  "}),
        ):
            number = await written(writer, where=where, **more)
            assert "area" not in draft_of(desk, number).manuscript


async def test_remarks_must_be_read_before_approval_is_asked_for(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        writer = await desk.person("writer")
        fields = {**NOTICE, "body": "避難勧告のお知らせ。2027年12月5日（金）に①番窓口へ。"}
        await writer.get("/desk/messages/new")
        answer = await writer.post("/desk/drafts", **fields, act="ask")
        assert answer.status_code == 422
        for said in ("「避難勧告」は廃止された言葉です。", "12月5日は日曜日です。", "「①」は読めない機種があります。"):
            assert said in answer.text
        number = int(re.search(r"/desk/drafts/(\d+)", answer.text)[1])  # type: ignore[index]
        answer = await writer.post(f"/desk/drafts/{number}", **fields, version="1", act="ask", read_remarks="1")
        assert answer.status_code == 303
        with desk.app.database.read() as connection:
            acts = {entry.act: entry for entry in audit.entries(connection)}
        assert "errors.weekday" in acts["message.remarks_read"].detail


async def test_two_people_never_overwrite_each_other(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        one, other = await desk.person("writer"), await desk.person("writer2")
        number = await written(one)
        await other.get(f"/desk/drafts/{number}")
        assert "書く人その二さんも開いています" in (await one.get(f"/desk/drafts/{number}")).text
        await other.post(f"/desk/drafts/{number}", **{**NOTICE, "body": "相手の文"}, version="1", act="save")
        answer = await one.post(f"/desk/drafts/{number}", **{**NOTICE, "body": "自分の文"}, version="1", act="save")
        assert answer.status_code == 409
        assert "書く人その二さんが直しました" in answer.text
        assert "自分の文" in answer.text
        assert "相手の文" in answer.text
        assert draft_of(desk, number).manuscript["body"] == "相手の文"
        version = Person.hidden(answer, "version")
        saved = await one.post(f"/desk/drafts/{number}", **{**NOTICE, "body": "自分の文"}, version=version, act="save")
        assert saved.status_code == 303
        with desk.app.database.read() as connection:
            bodies = [version.manuscript["body"] for version in drafts.versions(connection, number)]
        assert bodies == ["自分の文", "相手の文", NOTICE["body"]]  # every version is kept


async def test_it_is_saved_by_itself_and_says_when(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        writer = await desk.person("writer")
        number = await written(writer)
        answer = await writer.post(f"/desk/drafts/{number}/autosave", **{**NOTICE, "body": "続き"}, version="1")
        assert "に保存しました" in answer.text
        assert 'data-version="2"' in answer.text
        again = await writer.post(f"/desk/drafts/{number}/autosave", **{**NOTICE, "body": "遅い"}, version="1")
        assert "先に直しました" in again.text
        assert draft_of(desk, number).manuscript["body"] == "続き"


async def test_an_earlier_version_comes_back(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        writer = await desk.person("writer")
        number = await written(writer)
        await writer.post(f"/desk/drafts/{number}", **{**NOTICE, "body": "まちがい"}, version="1", act="save")
        page = await writer.get(f"/desk/drafts/{number}/history")
        assert "<del>" in page.text
        assert "<ins>" in page.text
        await writer.post(f"/desk/drafts/{number}/back", to="1")
        assert draft_of(desk, number).manuscript["body"] == NOTICE["body"]


async def test_a_draft_that_was_discarded_comes_back(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        writer = await desk.person("writer")
        number = await written(writer)
        await writer.post(f"/desk/drafts/{number}/discard")
        assert "捨てた下書き" in (await writer.get("/desk/drafts")).text
        await writer.post(f"/desk/drafts/{number}/discard", restore="1")
        assert draft_of(desk, number).discarded_at is None


async def test_previews_follow_what_is_typed(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        writer = await desk.person("writer")
        answer = await writer.post("/desk/previews", **{**NOTICE, "channels": "x", "summary": "通行止め"})
        assert answer.status_code == 200
        assert 'data-medium="x"' in answer.text
        assert "通行止め" in answer.text
        assert "／280" in answer.text
        assert "<html" not in answer.text


async def test_hostile_words_stay_words(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'{{7*7}}"
    async with a_desk(tmp_path) as desk:
        writer = await desk.person("writer")
        fields = {
            **NOTICE,
            "title": hostile,
            "body": hostile,
            "section.name": hostile,
            "towns": hostile,
            "where": "towns",
        }
        page = await writer.post("/desk/previews", **fields)
        assert "<script>alert" not in page.text
        assert "<img src=x" not in page.text
        number = await written(writer, title=hostile, body=hostile)
        assert "<script>alert" not in (await writer.get(f"/desk/drafts/{number}")).text
        answer = await writer.post("/desk/previews", **{**NOTICE, "title": "\u202e右から左", "body": "あ" * 30_000})
        assert answer.status_code == 200
        assert "使えない文字" in answer.text
        answer = await writer.post("/desk/previews", **{**NOTICE, "body": "あ" * 400_000})
        assert answer.status_code == 400
        assert "短く、小さくしてから" in answer.text


async def test_a_picture_is_drawn_anew_and_needs_words(tmp_path: Path) -> None:
    picture = next(PICTURES.glob("*.jpg")).read_bytes()
    async with a_desk(tmp_path) as desk:
        writer = await desk.person("writer")
        await writer.get("/desk/messages/new")
        files = {"image": ("IMG_0001.JPG", picture, "image/jpeg")}
        answer = await writer.post("/desk/drafts", **NOTICE, act="save", files=files)
        number = number_of(answer)
        [entry] = draft_of(desk, number).manuscript["images"]
        assert (await writer.client.get(f"/media/{entry['digest']}.jpg")).status_code == 200
        answer = await writer.post(f"/desk/drafts/{number}", **NOTICE, version="1", act="ask")
        assert answer.status_code == 422
        assert "画像の説明を書いてください" in answer.text
        alt = {f"image.{entry['digest']}.alt": "朝市の店先"}
        answer = await writer.post(f"/desk/drafts/{number}", **NOTICE, **alt, version="1", act="ask")
        assert answer.status_code == 303, answer.text
        kept = desk.newest()
        assert kept is not None
        assert [image.alt for image in kept.message.images] == ["朝市の店先"]
        broken = {"image": ("x.jpg", b"<svg onload=alert(1)>", "image/jpeg")}
        answer = await writer.post("/desk/drafts", **NOTICE, act="save", files=broken)
        assert answer.status_code == 422
        assert NOTICE["title"] in answer.text


async def test_an_earlier_notice_is_a_beginning_without_its_dates(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        writer = await desk.person("writer")
        number = await written(writer)
        await writer.post(f"/desk/drafts/{number}", **NOTICE, version="1", act="ask")
        kept = desk.newest()
        assert kept is not None
        page = await writer.get(f"/desk/messages/new?from={kept.message.identifier}")
        assert NOTICE["title"] in page.text
        assert "2027-12-05" not in page.text
        assert (await writer.get("/desk/messages/new?from=nothing")).status_code == 404


@pytest.mark.parametrize("name", ["viewer", "duty"])
async def test_who_may_not_write_reaches_none_of_it(tmp_path: Path, name: str) -> None:
    async with a_desk(tmp_path) as desk:
        number = await written(await desk.person("writer"))
        person = await desk.person(name)
        for path in ("/desk/messages/new", "/desk/drafts", f"/desk/drafts/{number}", f"/desk/drafts/{number}/history"):
            assert (await person.get(path)).status_code == 403, path
        for path in ("/desk/drafts", "/desk/previews", f"/desk/drafts/{number}", f"/desk/drafts/{number}/autosave"):
            assert (await person.post(path, **NOTICE)).status_code == 403, path
        assert draft_of(desk, number).version == 1
