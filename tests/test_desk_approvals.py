"""Approving: exactly what was seen, never one's own, one winner; and thirty seconds to think again."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from broadcaster.lifecycle import State
from broadcaster.message import content_hash
from broadcaster.scheduler import Scheduler
from broadcaster.store import audit, notes, plans
from broadcaster.store.audit import Actor
from broadcaster.store.tables import staff_mails
from tests.desk import DeskUnderTest, Person, a_desk
from tests.makers import a_notice
from tests.test_desk_emergency import Ahead

WRITER = Actor(name="writer", via="desk")


def proposed(desk: DeskUnderTest, *, after: timedelta = timedelta(hours=2), identifier: str = "13109-a") -> str:
    now = desk.app.clock.now()
    message = a_notice(desk.app.settings, now=now, identifier=identifier, channels=("email", "x", "rss"))
    message = replace(message, sent_at=None, effective_at=now + after, expires_at=now + after + timedelta(days=2))
    return desk.app.pipeline.propose(message, WRITER).message.identifier


async def seen(person: Person, identifier: str) -> str:
    page = await person.get(f"/desk/approvals/{identifier}")
    assert page.status_code == 200
    return Person.hidden(page, "seen")


async def test_what_was_seen_is_approved_and_goes_out_at_its_hour(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        desk.readers(7)
        identifier = proposed(desk)
        approver = await desk.person("approver")
        assert identifier in (await approver.get("/desk/approvals")).text
        page = await approver.get(f"/desk/approvals/{identifier}")
        assert "メール 7人" in page.text
        hash = Person.hidden(page, "seen")
        answer = await approver.post(f"/desk/approvals/{identifier}/approve", seen=hash)
        assert answer.headers["location"] == f"/desk/messages/{identifier}"
        kept = desk.kept(identifier)
        assert (kept.state, kept.approved_by, kept.approved_hash) == (State.SCHEDULED, "approver", hash)
        assert "予約済み" in (await approver.get(f"/desk/messages/{identifier}")).text


async def test_twenty_approvers_at_once_and_one_wins(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        identifier = proposed(desk)
        names = ("approver", "approver2", "admin", "admin2") * 5
        people = [await desk.person(name) for name in names]
        hashes = [await seen(person, identifier) for person in people]
        answers = await asyncio.gather(
            *(p.post(f"/desk/approvals/{identifier}/approve", seen=h) for p, h in zip(people, hashes, strict=True))
        )
        winner = desk.kept(identifier).approved_by
        told = {(name, answer.status_code) for name, answer in zip(names, answers, strict=True)}
        # Whoever won reads no conflict at a second window; everybody else does at each.
        assert told == {(name, 303 if name == winner else 409) for name in names}
        with desk.app.database.read() as connection:
            acts = Counter(entry.act for entry in audit.about(connection, identifier))
        assert acts["message.approved"] == 1
        late = next(answer for answer in answers if answer.status_code == 409)
        assert "あなたの操作は要りません" in late.text


async def test_words_that_changed_since_are_not_approved(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        identifier = proposed(desk)
        approver = await desk.person("approver")
        hash = await seen(approver, identifier)
        message = desk.kept(identifier).message
        info = replace(message.info, description="直した文")
        desk.app.pipeline.propose_again(identifier, replace(message, infos=(info,)), WRITER)
        answer = await approver.post(f"/desk/approvals/{identifier}/approve", seen=hash)
        assert answer.status_code == 409
        assert "直した文" in answer.text
        assert desk.kept(identifier).state is State.SUBMITTED
        again = await approver.post(f"/desk/approvals/{identifier}/approve", seen=Person.hidden(answer, "seen"))
        assert again.status_code == 303


async def test_nobody_approves_what_they_wrote(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        now = desk.app.clock.now()
        message = replace(a_notice(desk.app.settings, now=now), sent_at=None)
        identifier = desk.app.pipeline.propose(message, Actor(name="approver", via="desk")).message.identifier
        approver = await desk.person("approver")
        page = await approver.get(f"/desk/approvals/{identifier}")
        assert "自分の書いたものは承認できません。" in page.text
        assert "承認する</button>" not in page.text
        answer = await approver.post(f"/desk/approvals/{identifier}/approve", seen=content_hash(message))
        assert answer.status_code == 422
        assert desk.kept(identifier).state is State.SUBMITTED


@pytest.mark.parametrize("name", ["viewer", "writer2", "duty"])
async def test_who_may_not_approve_cannot(tmp_path: Path, name: str) -> None:
    async with a_desk(tmp_path) as desk:
        identifier = proposed(desk)
        person = await desk.person(name)
        hash = content_hash(desk.kept(identifier).message)
        for act in ("approve", "return"):
            assert (await person.post(f"/desk/approvals/{identifier}/{act}", seen=hash, reason="x")).status_code == 403
        assert desk.kept(identifier).state is State.SUBMITTED


async def test_it_is_returned_with_a_reason_and_comes_again(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        identifier = proposed(desk)
        approver, writer = await desk.person("approver"), await desk.person("writer")
        hash = await seen(approver, identifier)
        answer = await approver.post(f"/desk/approvals/{identifier}/return", reason="  ")
        assert answer.status_code == 422
        assert "理由を書いてください" in answer.text
        await approver.post(f"/desk/approvals/{identifier}/return", reason="時刻を確かめてください。")
        assert desk.kept(identifier).state is State.RETURNED
        assert "時刻を確かめてください。" in (await writer.get(f"/desk/messages/{identifier}")).text
        with desk.app.database.read() as connection:
            [mail] = connection.execute(staff_mails.select()).all()
            assert [note.kind for note in notes.of(connection, identifier)] == [notes.RETURNED]
        assert mail.subject.startswith("[差し戻し]")
        opened = await writer.post(f"/desk/messages/{identifier}/edit")
        page = await writer.get(opened.headers["location"])
        assert "差し戻しました。理由：時刻を確かめてください。" in page.text
        fields = {
            "title": "図書館の休館", "body": "12月3日は休館します。", "where": "whole", "channels": "email",
            "category": "notice", "expires_at": "2027-12-05 17:00", "section.name": "図書館", "section.phone": "03-3471-4667",
        }  # fmt: skip
        asked = await writer.post(
            opened.headers["location"], **fields, version=Person.hidden(page, "version"), act="ask", read_remarks="1"
        )
        assert asked.headers["location"] == f"/desk/approvals/{identifier}"
        late = await approver.post(f"/desk/approvals/{identifier}/approve", seen=hash)
        assert late.status_code == 409  # the hash of the words before
        assert desk.kept(identifier).message.info.headline == "図書館の休館"


async def test_approving_what_was_withdrawn_says_so(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        identifier = proposed(desk)
        approver, writer = await desk.person("approver"), await desk.person("writer")
        hash = await seen(approver, identifier)
        await writer.post(f"/desk/messages/{identifier}/withdraw")
        answer = await approver.post(f"/desk/approvals/{identifier}/approve", seen=hash)
        assert answer.status_code == 409
        assert "ほかの人が先に決めました" in answer.text
        assert desk.kept(identifier).state is State.WITHDRAWN
        other = await desk.person("writer2")
        second = proposed(desk, identifier="13109-b")
        assert (await other.post(f"/desk/messages/{second}/withdraw")).status_code == 403


async def test_a_routine_notice_waits_thirty_seconds_and_can_be_stopped(tmp_path: Path) -> None:
    clock = Ahead()
    async with a_desk(tmp_path, clock=clock) as desk:
        identifier = proposed(desk, after=timedelta(0))
        approver = await desk.person("approver")
        hash = await seen(approver, identifier)
        await approver.post(f"/desk/approvals/{identifier}/approve", seen=hash)
        page = await approver.get(f"/desk/messages/{identifier}")
        assert "秒で出ます" in page.text
        assert "やめる" in page.text
        await approver.post(f"/desk/messages/{identifier}/withdraw")
        assert desk.kept(identifier).state is State.WITHDRAWN
        clock.ahead = timedelta(minutes=1)
        await scheduled(desk)
        assert desk.kept(identifier).state is State.WITHDRAWN

        second = proposed(desk, after=timedelta(0), identifier="13109-b")
        await approver.post(f"/desk/approvals/{second}/approve", seen=await seen(approver, second))
        clock.ahead = timedelta(minutes=1, seconds=29)
        assert desk.kept(second).state is State.SCHEDULED
        clock.ahead = timedelta(minutes=1, seconds=31)
        await scheduled(desk)
        assert desk.kept(second).state is State.ISSUED
        moved = await approver.get(f"/desk/messages/{second}")
        assert moved.headers["location"] == f"/desk/sent/{second}"
        late = await approver.post(f"/desk/messages/{second}/withdraw")
        assert late.status_code == 409  # it is out: there is 訂正 and 取消


async def scheduled(desk: DeskUnderTest) -> None:
    """The scheduler looks once, as it does when something is due."""
    await asyncio.to_thread(Scheduler(desk.app.pipeline, desk.app.settings).carry_out)


async def test_an_alert_waits_for_nobody_once_it_is_approved(tmp_path: Path) -> None:
    from tests.makers import an_alert

    async with a_desk(tmp_path) as desk:
        alert = replace(an_alert(desk.app.settings, now=desk.app.clock.now()), sent_at=None)
        identifier = desk.app.pipeline.propose(alert, Actor(name="duty", via="desk")).message.identifier
        approver = await desk.person("approver")
        answer = await approver.post(f"/desk/approvals/{identifier}/approve", seen=await seen(approver, identifier))
        assert answer.headers["location"] == f"/desk/sent/{identifier}"
        assert desk.kept(identifier).state is State.ISSUED


async def test_it_is_moved_to_another_hour_by_whoever_may_approve(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        identifier = proposed(desk)
        approver = await desk.person("approver")
        await approver.post(f"/desk/approvals/{identifier}/approve", seen=await seen(approver, identifier))
        page = await approver.get(f"/desk/messages/{identifier}/move")
        hash = Person.hidden(page, "seen")
        for at, says in (("きのう", "日時として読めません"), ("2020-01-01 9:00", "これからの日時")):
            answer = await approver.post(f"/desk/messages/{identifier}/move", at=at, seen=hash)
            assert answer.status_code == 422
            assert says in answer.text
        wrong = await approver.post(f"/desk/messages/{identifier}/move", at="2027-12-08 9:00", seen="0" * 64)
        assert wrong.status_code == 409
        await approver.post(f"/desk/messages/{identifier}/move", at="2027-12-08 9:00", seen=hash)
        kept = desk.kept(identifier)
        assert kept.message.effective_at.isoformat() == "2027-12-08T09:00:00+09:00"
        assert kept.is_approved_as_it_stands
        writer = await desk.person("writer")
        assert (await writer.get(f"/desk/messages/{identifier}/move")).status_code == 403


async def test_a_day_on_which_the_office_is_closed_is_said_before_anything_is_moved(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        identifier = proposed(desk)
        approver = await desk.person("approver")
        await approver.post(f"/desk/approvals/{identifier}/approve", seen=await seen(approver, identifier))
        address, says = f"/desk/messages/{identifier}/move", "祝日（勤労感謝の日）"
        dropped = await approver.get(f"{address}?at=2027-11-23 9:00")  # in the month, on that day
        assert (dropped.status_code, says in dropped.text) == (200, True)
        hash, before = Person.hidden(dropped, "seen"), desk.kept(identifier).message.effective_at
        typed = await approver.post(address, at="2027-11-23 9:00", seen=hash)
        assert (typed.status_code, says in typed.text) == (422, True)
        other = await approver.post(address, at="2027-11-28 9:00", seen=hash, said_of=Person.hidden(typed, "said_of"))
        assert (other.status_code, "日曜日" in other.text) == (422, True)
        assert desk.kept(identifier).message.effective_at == before
        meant = await approver.post(address, at="2027-11-23 9:00", seen=hash, said_of=Person.hidden(typed, "said_of"))
        assert meant.status_code == 303
        assert desk.kept(identifier).message.effective_at.isoformat() == "2027-11-23T09:00:00+09:00"


async def test_comments_stand_below_and_are_words(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        identifier = proposed(desk)
        writer = await desk.person("writer2")
        await writer.get(f"/desk/approvals/{identifier}")
        assert (await writer.post(f"/desk/approvals/{identifier}/comment", text="")).status_code == 422
        await writer.post(f"/desk/approvals/{identifier}/comment", text="<b>電話番号</b>を足しました")
        assert "&lt;b&gt;電話番号&lt;/b&gt;を足しました" in (await writer.get(f"/desk/approvals/{identifier}")).text


FIELDS = {
    "title": "図書館の休館", "body": "一つめの文。", "where": "whole", "channels": "email", "category": "notice",
    "expires_at": "2027-12-05 17:00", "section.name": "図書館", "section.phone": "03-3471-4667",
}  # fmt: skip


async def asked(person: Person, **changes: str) -> str:
    """A notice written at the desk, for which approval is asked; gives where it stands."""
    await person.get("/desk/messages/new")
    answer = await person.post("/desk/drafts", **{**FIELDS, **changes}, act="ask", read_remarks="1")
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"])


async def test_whoever_rewrote_it_cannot_approve_it_either(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        writer, approver, other = [await desk.person(name) for name in ("writer", "approver", "approver2")]
        page = await asked(writer)
        identifier = page.rpartition("/")[2]
        opened = await approver.post(f"/desk/messages/{identifier}/edit")
        draft = await approver.get(opened.headers["location"])
        fields = {**FIELDS, "body": "承認する人の文。"}
        version = Person.hidden(draft, "version")
        await approver.post(opened.headers["location"], **fields, version=version, act="ask", read_remarks="1")
        shown = await approver.get(page)
        assert "自分の書いたものは承認できません。" in shown.text
        hash = content_hash(desk.kept(identifier).message)
        assert (await approver.post(f"{page}/approve", seen=hash)).status_code == 422
        assert desk.kept(identifier).state is State.SUBMITTED
        assert (await other.post(f"{page}/approve", seen=await seen(other, identifier))).status_code == 303


async def test_the_difference_is_to_what_was_opened(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        writer, approver = await desk.person("writer"), await desk.person("approver")
        page = await asked(writer)
        identifier = page.rpartition("/")[2]
        first = await approver.get(page)
        for body in ("二つめの文。", "二つめの文。続き。"):
            opened = (await writer.post(f"/desk/messages/{identifier}/edit")).headers["location"]
            version = Person.hidden(await writer.get(opened), "version")
            await writer.post(opened, **{**FIELDS, "body": body}, version=version, act="ask", read_remarks="1")
        late = await approver.post(
            f"{page}/approve", seen=Person.hidden(first, "seen"), asked_version=Person.hidden(first, "asked_version")
        )
        assert late.status_code == 409
        removed = late.text.partition("<del>")[2].partition("</del>")[0]
        added = late.text.partition("<ins>")[2].partition("</ins>")[0]
        assert removed.endswith("一つめの文。")
        assert added.endswith("二つめの文。続き。")


async def test_another_s_planned_notice_is_not_stopped_by_editing_it(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        identifier = proposed(desk)
        approver, stranger, writer = [await desk.person(name) for name in ("approver", "writer2", "writer")]
        assert (await stranger.post(f"/desk/messages/{identifier}/edit")).status_code == 403
        await approver.post(f"/desk/approvals/{identifier}/approve", seen=await seen(approver, identifier))
        assert (await stranger.post(f"/desk/messages/{identifier}/edit")).status_code == 403
        assert desk.kept(identifier).state is State.SCHEDULED
        await writer.post(f"/desk/messages/{identifier}/edit")
        assert desk.kept(identifier).state is State.WITHDRAWN
        assert "図書館の休館のお知らせ" in (await writer.get("/desk/drafts")).text  # its words are kept


async def test_thirty_seconds_are_thirty_also_right_before_the_hour(tmp_path: Path) -> None:
    clock = Ahead()
    async with a_desk(tmp_path, clock=clock) as desk:
        identifier = proposed(desk, after=timedelta(seconds=6))
        approver = await desk.person("approver")
        await approver.post(f"/desk/approvals/{identifier}/approve", seen=await seen(approver, identifier))
        with desk.app.database.read() as connection:
            due_at = plans.due_of(connection, f"issue/{identifier}")
        assert due_at is not None
        assert timedelta(seconds=28) < due_at - clock.now() <= timedelta(seconds=30)


async def test_the_remarks_that_the_writer_ticked_are_shown_to_whoever_approves(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        writer, approver = await desk.person("writer"), await desk.person("approver")
        page = await asked(writer, body="避難勧告の周知について。")
        shown = (await approver.get(page)).text
        told = shown.partition("そのままにしたもの")[2].partition("</section>")[0]
        assert "避難勧告" in told
        assert "周知" in told
        plain = (await approver.get(await asked(writer, body="休館します。"))).text
        assert "そのままにしたもの" not in plain


async def test_what_was_approved_once_is_compared_with_what_is_asked_now(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        writer, approver, other = [await desk.person(name) for name in ("writer", "approver", "approver2")]
        first = await asked(writer, issued_at="2027-12-01 9:00")
        identifier = first.rpartition("/")[2]
        assert "承認した文との違い" not in (await approver.get(first)).text
        await approver.post(f"{first}/approve", seen=await seen(approver, identifier))
        await writer.post(f"/desk/messages/{identifier}/edit")  # taken from its hour
        [opened] = set(re.findall(r"/desk/drafts/[0-9]+", (await writer.get("/desk/drafts")).text)) - {"/desk/drafts/1"}
        version = Person.hidden(await writer.get(opened), "version")
        fields = {**FIELDS, "issued_at": "2027-12-01 9:00", "body": "書き直した文。"}
        again = await writer.post(opened, **fields, version=version, act="ask", read_remarks="1")
        shown = (await other.get(again.headers["location"])).text
        told = shown.partition("承認した文との違い")[2].partition("</section>")[0]
        assert "一つめの文。" in told.partition("<del>")[2].partition("</del>")[0]
        assert "書き直した文。" in told.partition("<ins>")[2].partition("</ins>")[0]
        assert told.count("<h3>") == 1, "nothing else has changed"


async def test_the_duty_officer_may_say_something_too_and_a_viewer_may_not(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        page = f"/desk/approvals/{proposed(desk)}"
        duty, viewer = await desk.person("duty"), await desk.person("viewer")
        assert "/comment" in (await duty.get(page)).text
        await duty.post(f"{page}/comment", text="夜の電話番号も書いてください。")
        assert "夜の電話番号も書いてください。" in (await viewer.get(page)).text
        assert "/comment" not in (await viewer.get(page)).text
        assert (await viewer.post(f"{page}/comment", text="x")).status_code == 403
