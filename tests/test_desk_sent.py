"""After sending: the board, the changes, what was not delivered once more, decisions, the report. In process."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from broadcaster.channel import Outcome, PermanentFailure, Receipt
from broadcaster.clock import FrozenClock
from broadcaster.delivery import Counts, State
from broadcaster.differences import ADDED, REMOVED, SAME, runs
from broadcaster.lifecycle import State as Life
from broadcaster.message import Change, Mode
from broadcaster.problems import Refused
from broadcaster.settings import Settings
from broadcaster.store import audit, deliveries, issues, notes, recipients
from broadcaster.store.audit import Actor
from broadcaster.store.messages import ChangedMeanwhile
from broadcaster.store.tables import deliveries as delivery_rows
from broadcaster.store.tables import recipients as recipient_rows
from tests.desk import DeskUnderTest, Person, a_day, a_desk
from tests.house import a_house, alert, notice
from tests.makers import NOW, a_notice, an_alert

DUTY = Actor(name="duty", via="desk")
ALERT, NOTICE, DRILL = "13109-E04", "13109-a-notice", "13109-drill"


@asynccontextmanager
async def an_evening(folder: Path) -> AsyncIterator[DeskUnderTest]:
    """An order, a notice and a drill were sent; nobody has delivered anything yet."""
    clock = FrozenClock(NOW)
    async with a_desk(folder, clock=clock) as desk:
        desk.readers(12)
        desk.readers(3, is_drill=True)
        app = desk.app
        app.pipeline.hand_in(replace(an_alert(app.settings, now=NOW), sent_at=None), DUTY)
        app.pipeline.hand_in(replace(a_notice(app.settings, now=NOW), sent_at=None), DUTY)
        drill = replace(an_alert(app.settings, now=NOW, mode=Mode.DRILL), sent_at=None, identifier=DRILL)
        app.pipeline.hand_in(drill, DUTY)
        clock.move(timedelta(seconds=3))
        yield desk


def of(desk: DeskUnderTest, identifier: str) -> list[deliveries.Delivery]:
    with desk.app.database.read() as connection:
        issue = issues.get(connection, identifier)
        assert issue is not None
        return list(deliveries.of_issue(connection, issue.id))


def one_of(desk: DeskUnderTest, identifier: str, channel: str) -> deliveries.Delivery:
    """The first with somebody to get it."""
    return next(
        d for d in of(desk, identifier) if d.channel == channel and (d.kind != deliveries.MAILING or d.counts.total)
    )


def ends(
    desk: DeskUnderTest, delivery: deliveries.Delivery, state: State, detail: str = "", evidence: str = ""
) -> None:
    """As a sender writes it down."""
    with desk.app.database.write() as connection:
        values = {"state": int(state), "detail": detail, "evidence": evidence, "attempts": 1}
        now = desk.app.clock.now()
        connection.execute(
            update(delivery_rows)
            .where(delivery_rows.c.id == delivery.id)
            .values(**values, settled_at=now, first_attempt_at=now)
        )


def letters_end(desk: DeskUnderTest, delivery: deliveries.Delivery, **numbers: int) -> None:
    """So many letters of a mailing end so, in the order of their readers."""
    now, r = desk.app.clock.now(), recipient_rows.c
    with desk.app.database.write() as connection:
        deliveries.note_first_attempt(connection, delivery.id, now)
        readers = [one.subscriber_id for one in recipients.evidence(connection, delivery.id, limit=1_000)]
        at = 0
        for name, number in numbers.items():
            for reader in readers[at : at + number]:
                connection.execute(
                    update(recipient_rows)
                    .where(r.delivery_id == delivery.id, r.subscriber_id == reader)
                    .values(state=int(State[name.upper()]), settled_at=now, reply="550 no such user")
                )
            at += number
        deliveries.count(connection, delivery.id, now, **numbers)


def everything_arrives(desk: DeskUnderTest, identifier: str) -> None:
    for delivery in of(desk, identifier):
        if delivery.kind == deliveries.MAILING:
            if delivery.counts.total:
                letters_end(desk, delivery, delivered=delivery.counts.total)
        else:
            ends(desk, delivery, State.DELIVERED, evidence="1234" if delivery.kind == "push" else '3 pages, "abcdef"')


def words_of(answer: Any) -> str:
    """What is read on the page."""
    text = re.sub(r"<(script|style)\b.*?</\1>", " ", answer.text, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))


def title(answer: Any) -> str:
    found = re.search(r"<title>(.*?)</title>", answer.text, re.DOTALL)
    assert found
    return found[1].strip()


async def press(person: Person, path: str, **fields: str) -> Any:
    """Open a form and send it as it stands, with these fields filled in."""
    answer = await person.get(path)
    hidden = {name: Person.hidden(answer, name) for name in ("key", "seen") if f'name="{name}"' in answer.text}
    return await person.post(path, **{**_typed(answer.text), **hidden, **fields})


def _typed(html: str) -> dict[str, str]:
    """What stands in the fields of the form."""
    form = re.search(r'<form method="post" action="/desk/sent/.*?</form>', html, re.DOTALL)
    assert form
    inputs = re.findall(r'<input id="[^"]+" name="([^"]+)" type="text" value="([^"]*)"', form[0])
    areas = re.findall(r'<textarea id="[^"]+" name="([^"]+)"[^>]*>(.*?)</textarea>', form[0], re.DOTALL)
    import html as markup

    return {name: markup.unescape(value) for name, value in [*inputs, *areas]}


# The board


async def test_the_board_says_how_it_stands_in_one_sentence(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        viewer = await desk.person("viewer")
        answer = await viewer.get(f"/desk/sent/{ALERT}")
        assert "まだ、どの媒体にも届いていません。" in words_of(answer)
        assert title(answer).startswith("◔ 0/6")
        everything_arrives(desk, ALERT)
        ends(desk, one_of(desk, ALERT, "x"), State.UNKNOWN, "12秒待って返事なし")
        answer = await viewer.get(f"/desk/sent/{ALERT}")
        assert "6媒体のうち5つに届きました。Xは届いたかわかりません。" in words_of(answer)
        assert title(answer).startswith("? 5/6 警戒レベル４　避難指示（目黒川）")
        assert "12秒待って返事なし" in words_of(answer)
        assert "中継に渡した" in words_of(answer)
        assert "12／12人" in words_of(answer)


async def test_green_only_with_evidence(tmp_path: Path) -> None:
    """What the relay took is not called delivered; a medium without readers is not called anything."""
    async with an_evening(tmp_path) as desk:
        everything_arrives(desk, ALERT)
        viewer = await desk.person("viewer")
        said = words_of(await viewer.get(f"/desk/sent/{ALERT}"))
        assert "6媒体すべてに出ました。メールは中継に渡しました。" in said
        assert "すべてに届きました" not in said
        assert title(await viewer.get(f"/desk/sent/{ALERT}")).startswith("✓ 6/6")
    async with a_desk(tmp_path / "another", clock=FrozenClock(NOW)) as desk:
        desk.app.pipeline.hand_in(replace(a_notice(desk.app.settings, now=NOW), sent_at=None), DUTY)
        said = words_of(await (await desk.person("viewer")).get(f"/desk/sent/{NOTICE}"))
        assert "– 宛先なし" in said
        assert "◔ 0/5" in title(await (await desk.person("viewer")).get(f"/desk/sent/{NOTICE}"))


async def test_some_people_who_were_not_reached_are_counted(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        everything_arrives(desk, NOTICE)
        mailing = one_of(desk, ALERT, "email")
        letters_end(desk, mailing, delivered=7, failed=2)
        duty = await desk.person("duty")
        answer = await duty.get(f"/desk/sent/{ALERT}")
        assert "届かなかった 2" in words_of(answer)
        assert "届かなかった2件だけ再送" in words_of(answer)
        assert "7／12人" in words_of(answer)
        assert "毎秒" not in words_of(answer), "no rate before a second has passed"
        desk.app.clock.move(timedelta(seconds=4))  # type: ignore[attr-defined]
        assert "毎秒 2.2通 あと約" in words_of(await duty.get(f"/desk/sent/{ALERT}"))


async def test_an_unsettled_board_renews_itself_and_can_be_stopped(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        viewer = await desk.person("viewer")
        page = (await viewer.get(f"/desk/sent/{ALERT}")).text
        assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in page
        assert 'data-hx-trigger="every 5s"' in page
        still = (await viewer.get(f"/desk/sent/{ALERT}?still=1")).text
        assert "http-equiv" not in still
        assert "hx-trigger" not in still
        everything_arrives(desk, ALERT)
        page = (await viewer.get(f"/desk/sent/{ALERT}")).text
        assert "http-equiv" not in page
        assert "every 5s" not in page
        parts = await viewer.get(f"/desk/sent/{ALERT}/parts")
        assert title(parts).startswith("✓ 6/6")
        assert "<html" not in parts.text


async def test_no_address_stands_on_any_page(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        letters_end(desk, one_of(desk, ALERT, "email"), delivered=3, failed=4, unknown=5)
        duty = await desk.person("duty")
        for path in ("", "/parts", "/where", "/report", "/resend", "/cancel"):
            text = (await duty.get(f"/desk/sent/{ALERT}{path}")).text
            assert "reader-" not in text
            assert "@" not in re.sub(r"<(script|meta|link)[^>]*>", "", text), path
        where = words_of(await duty.get(f"/desk/sent/{ALERT}/where"))
        assert "mail.example 3 0 4 5 0" in where
        assert "550 no such user" in where


async def test_what_was_not_sent_has_no_board(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        later = replace(
            a_notice(desk.app.settings, now=NOW),
            sent_at=None,
            identifier="13109-later",
            effective_at=NOW + timedelta(days=1),
        )
        desk.app.pipeline.hand_in(later, DUTY)
        viewer = await desk.person("viewer")
        answer = await viewer.get("/desk/sent/13109-later")
        assert (answer.status_code, answer.headers["location"]) == (303, "/desk/messages/13109-later")
        for nobody in ("nothing", "%00", "あ", "x" * 200):
            assert (await viewer.get(f"/desk/sent/{nobody}")).status_code == 404


async def test_live_and_drill_do_not_look_alike(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        duty = await desk.person("duty")
        live, drill = [(await duty.get(f"/desk/sent/{id}")).text for id in (ALERT, DRILL)]
        assert '<body class="of-live">' in live
        assert '<body class="of-drill">' in drill
        assert "live-word" not in drill
        for page in ("", "/cancel", "/correction", "/report", "/resend"):
            said = words_of(await duty.get(f"/desk/sent/{DRILL}{page}"))
            assert "訓練" in said
            assert "本番" not in said, page
        for page in ("/cancel", "/correction", "/update", "/all_clear"):
            assert '<body class="drill">' in (await duty.get(f"/desk/sent/{DRILL}{page}")).text
            assert '<body class="live">' in (await duty.get(f"/desk/sent/{ALERT}{page}")).text
            assert "訓練で" in words_of(await duty.get(f"/desk/sent/{DRILL}{page}"))
            assert "本番（練習）で" in words_of(await duty.get(f"/desk/sent/{ALERT}{page}"))


# Changes


async def test_a_cancel_is_one_screen_away_and_says_whom_it_reaches(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        letters_end(desk, one_of(desk, ALERT, "email"), delivered=7)
        duty = await desk.person("duty")
        asked = await duty.get(f"/desk/sent/{ALERT}/cancel")
        assert "取り消します。すでに 7人に届いています。残り 5人には送りません。" in words_of(asked)
        for lang in ("ja", "en", "zh-Hans", "zh-Hant", "ko", "tl"):
            assert f'lang="{lang}"' in asked.text
        answer = await press(duty, f"/desk/sent/{ALERT}/cancel", line="川はあふれていません。")
        assert answer.status_code == 409, "what was typed is seen before it goes out"
        assert "まだ出していません。" in words_of(answer)
        assert "川はあふれていません。" in words_of(answer)
        typed = {"line": "川はあふれていません。", "key": Person.hidden(answer, "key")}
        answer = await duty.post(f"/desk/sent/{ALERT}/cancel", **typed, seen=Person.hidden(answer, "seen"))
        assert answer.status_code == 303
        board = await duty.get(answer.headers["location"])
        assert "これは前のものの取消です。" in words_of(board)
        assert desk.kept(ALERT).state is Life.CANCELLED
        before = await duty.get(f"/desk/sent/{ALERT}")
        assert "これは取消に替わっています。" in words_of(before)
        assert f'href="{answer.headers["location"]}"' in before.text
        assert f"/desk/sent/{ALERT}/cancel" not in before.text
        cancel = desk.kept(answer.headers["location"].rpartition("/")[2]).message
        assert (cancel.change, cancel.mode) == (Change.CANCEL, Mode.LIVE)
        assert "川はあふれていません。" in cancel.info.description


async def test_to_look_again_sends_nothing(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        duty = await desk.person("duty")
        answer = await press(duty, f"/desk/sent/{ALERT}/cancel", look="1")
        assert answer.status_code == 200
        assert desk.kept(ALERT).state is Life.ISSUED


async def test_what_is_typed_is_shown_in_the_texts_at_once(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        duty = await desk.person("duty")
        await duty.get(f"/desk/sent/{ALERT}/cancel")
        answer = await duty.post(f"/desk/sent/{ALERT}/cancel/preview", line="川はあふれていません。")
        assert "川はあふれていません。" in words_of(answer)
        assert "<html" not in answer.text
        assert len(Person.hidden(answer, "seen")) == 64
        wrong = await duty.post(f"/desk/sent/{ALERT}/cancel/preview", line="{埋める}")
        assert "埋めていない欄" in words_of(wrong)
        assert 'name="seen"' not in wrong.text
        assert desk.kept(ALERT).state is Life.ISSUED


async def test_what_is_seen_is_what_goes_out(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        duty = await desk.person("duty")
        asked = words_of(await duty.get(f"/desk/sent/{ALERT}/all_clear"))
        answer = await press(duty, f"/desk/sent/{ALERT}/all_clear")
        sent = desk.kept(answer.headers["location"].rpartition("/")[2]).message
        for info in sent.infos:
            assert re.sub(r"\s+", " ", info.headline) in asked
            for line in filter(None, info.description.split("\n")):
                assert re.sub(r"\s+", " ", line) in asked


async def test_a_correction_fills_the_blanks_anew_in_every_language(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        duty = await desk.person("duty")
        path = f"/desk/sent/{ALERT}/correction"
        assert "同じ 12人と同じ媒体に、訂正がほかより先に出ます。" in words_of(await duty.get(path))
        nothing = await press(duty, path)
        assert nothing.status_code == 422
        assert "何を直すか" in words_of(nothing)
        shown = await press(duty, path, **{"slot-area": "大崎二丁目"})
        assert shown.status_code == 409
        desk.app.clock.move(timedelta(seconds=50))  # type: ignore[attr-defined]  # somebody reads it first
        answer = await duty.post(
            path,
            **{**_typed(shown.text), "key": Person.hidden(shown, "key"), "seen": Person.hidden(shown, "seen")},
        )
        assert answer.status_code == 303
        sent = desk.kept(answer.headers["location"].rpartition("/")[2]).message
        assert sent.change is Change.CORRECTION
        assert all("大崎二丁目" in info.description for info in sent.infos)
        assert sent.geocodes == ("D04",)


async def test_a_wrong_blank_is_said_at_its_field_and_what_was_typed_stays(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        duty = await desk.person("duty")
        answer = await press(duty, f"/desk/sent/{ALERT}/correction", **{"slot-area": "ないない町"})
        assert answer.status_code == 422
        assert title(answer).startswith("エラー：")
        assert 'value="ないない町"' in answer.text
        assert "「ないない町」という地区・町丁目はありません。" in words_of(answer)
        assert desk.kept(ALERT).state is Life.ISSUED


async def test_a_notice_is_corrected_in_its_own_words(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        approver = await desk.person("approver")
        path = f"/desk/sent/{NOTICE}/correction"
        fields = {"text-ja-description": "12月4日は、設備の点検のため休館します。", "expires": "2026-12-06 17:00"}
        shown = await press(approver, path, **fields)
        assert shown.status_code == 409
        again = {"key": Person.hidden(shown, "key"), "seen": Person.hidden(shown, "seen")}
        answer = await approver.post(path, **{**_typed(shown.text), **again})
        assert answer.status_code == 303, words_of(answer)
        sent = desk.kept(answer.headers["location"].rpartition("/")[2]).message
        assert "12月4日は" in sent.info.description
        assert sent.info.headline == "【訂正】図書館の休館のお知らせ"
        assert sent.expires_at == datetime(2026, 12, 6, 8, 0, tzinfo=UTC)
        for wrong in ({"expires": "きのう"}, {"expires": "2020-01-01 00:00"}, {"text-ja-headline": ""}):
            other = f"/desk/sent/{sent.identifier}/update"
            assert (await press(approver, other, **wrong)).status_code == 422


async def test_a_corrected_drill_carries_its_mark_once(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        duty = await desk.person("duty")
        shown = await press(duty, f"/desk/sent/{DRILL}/update", line="続いています。")
        answer = await duty.post(
            f"/desk/sent/{DRILL}/update",
            **{**_typed(shown.text), "key": Person.hidden(shown, "key"), "seen": Person.hidden(shown, "seen")},
        )
        identifier = answer.headers["location"].rpartition("/")[2]
        with desk.app.database.read() as connection:
            issue = issues.get(connection, identifier)
        assert issue is not None
        assert issue.message.mode is Mode.DRILL
        assert issue.message.info.headline.count("訓練") == 1
        assert issue.message.info.description.count("これは訓練です") == 2, "at its head and its foot"


async def test_a_double_press_is_one_change(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        duty = await desk.person("duty")
        asked = await duty.get(f"/desk/sent/{ALERT}/cancel")
        fields = {"key": Person.hidden(asked, "key"), "seen": Person.hidden(asked, "seen"), "line": ""}
        answers = await asyncio.gather(*(duty.post(f"/desk/sent/{ALERT}/cancel", **fields) for _ in range(4)))
        assert {answer.status_code for answer in answers} == {303}
        assert len({answer.headers["location"] for answer in answers}) == 1
        changes = [message for message in desk.messages() if message.change is Change.CANCEL]
        assert len(changes) == 1


async def test_of_two_who_cancel_one_wins_and_the_other_is_told_who(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        first, second = await desk.person("duty"), await desk.person("approver")
        pages = [await person.get(f"/desk/sent/{ALERT}/cancel") for person in (first, second)]
        answers = await asyncio.gather(
            *(
                person.post(
                    f"/desk/sent/{ALERT}/cancel",
                    key=Person.hidden(page, "key"),
                    seen=Person.hidden(page, "seen"),
                    line="",
                )
                for person, page in zip((first, second), pages, strict=True)
            )
        )
        assert sorted(answer.status_code for answer in answers) == [303, 409]
        late = next(answer for answer in answers if answer.status_code == 409)
        assert re.search(r"(当直|承認する人).*が \d\d:\d\d:\d\d に取消を出しました。", words_of(late)), words_of(late)
        assert "あなたの操作では何も出していません。" in words_of(late)
        assert len([message for message in desk.messages() if message.change is Change.CANCEL]) == 1


async def test_what_one_was_writing_is_not_lost_to_somebody_else(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        duty = await desk.person("duty")
        await duty.get(f"/desk/sent/{ALERT}/update")
        desk.app.pipeline.change(ALERT, Change.ALL_CLEAR, Actor(name="approver", via="desk"))
        answer = await duty.post(f"/desk/sent/{ALERT}/update", line="大事な一文です。", seen="x", key="k")
        assert answer.status_code == 409
        assert "大事な一文です。" in words_of(answer)
        assert "解除を出しました。" in words_of(answer)


async def test_what_is_over_is_neither_changed_nor_sent_again(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        letters_end(desk, one_of(desk, NOTICE, "email"), failed=12)
        duty = await desk.person("duty")
        asked = await duty.get(f"/desk/sent/{NOTICE}/cancel")
        fields = {"key": Person.hidden(asked, "key"), "seen": Person.hidden(asked, "seen"), "line": ""}
        desk.app.clock.move(timedelta(days=3))  # type: ignore[attr-defined]
        await (await desk.person("viewer")).get("/desk")
        duty = await desk.person("duty")
        for path in ("cancel", "correction"):
            assert (await duty.get(f"/desk/sent/{NOTICE}/{path}")).status_code == 409
        answer = await duty.post(f"/desk/sent/{NOTICE}/cancel", **fields)
        assert answer.status_code == 409
        assert "掲載はもう終わりました" in words_of(answer)
        assert desk.kept(NOTICE).state is Life.ISSUED
        answer = await duty.post(f"/desk/sent/{NOTICE}/resend", key="k")
        assert answer.status_code == 409
        assert one_of(desk, NOTICE, "email").counts.failed == 12
        board = words_of(await duty.get(f"/desk/sent/{NOTICE}"))
        assert "訂正を出す" not in board
        assert "件だけ再送" not in board


@pytest.mark.parametrize("name", ["viewer", "writer"])
async def test_whoever_may_not_change_cannot(tmp_path: Path, name: str) -> None:
    async with an_evening(tmp_path) as desk:
        letters_end(desk, one_of(desk, ALERT, "email"), failed=12)
        delivery = one_of(desk, ALERT, "email")
        person = await desk.person(name)
        board = await person.get(f"/desk/sent/{ALERT}")
        assert board.status_code == 200
        assert "訂正を出す" not in words_of(board)
        assert "再送" not in words_of(board)
        seen = f"{int(delivery.state)}.0"
        for path in (f"sent/{ALERT}/cancel", f"sent/{ALERT}/resend", f"decisions/{delivery.id}"):
            assert (await person.post(f"/desk/{path}", key="k", seen=seen, how="again")).status_code == 403
        for path in ("cancel", "correction", "update", "all_clear", "resend"):
            assert (await person.get(f"/desk/sent/{ALERT}/{path}")).status_code == 403
        assert desk.kept(ALERT).state is Life.ISSUED


async def test_a_form_from_elsewhere_does_nothing(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        duty = await desk.person("duty")
        asked = await duty.get(f"/desk/sent/{ALERT}/cancel")
        fields = {"key": Person.hidden(asked, "key"), "seen": Person.hidden(asked, "seen"), "line": ""}
        duty.origin = "https://www.city.shinagawa.example.jp"
        assert (await duty.post(f"/desk/sent/{ALERT}/cancel", **fields)).status_code == 403
        duty.origin = "http://127.0.0.1"
        assert (await duty.post(f"/desk/sent/{ALERT}/cancel", **fields, csrf="x")).status_code == 403
        assert desk.kept(ALERT).state is Life.ISSUED


# What was not delivered, once more


async def test_only_the_failed_get_it_again_and_once(tmp_path: Path, settings: Settings, database_url: str) -> None:
    """With a real sender: nobody who has it gets it twice, and the counts add up all the way."""
    with a_house(settings, tmp_path, url=database_url) as house:
        house.readers(40)
        refused = {f"reader-{n}@mail-{n % 5}.example" for n in range(0, 40, 4)}
        house.carrier.outcome = lambda letter: (
            Outcome(failure=PermanentFailure("550 no such user"))
            if letter.address in refused
            else Outcome(receipt=Receipt(evidence="250 ok"))
        )
        house.billboard.fails = PermanentFailure("the wall is gone")
        message = alert(house)
        house.issues(message)
        await house.sends(message.identifier)
        assert house.counts(message.identifier) == Counts(total=40, delivered=30, failed=10)
        house.carrier.outcome, house.billboard.fails = lambda letter: Outcome(receipt=Receipt(evidence="250")), None
        assert house.pipeline.resend_failed(message.identifier, DUTY) == 11
        assert house.counts(message.identifier).adds_up
        await house.sends(message.identifier)
        assert house.counts(message.identifier) == Counts(total=40, delivered=40)
        landed = [letter.subscriber for letter in house.carrier.landed]
        assert len(house.billboard.shown) == 1
        times = {reader: landed.count(reader) for reader in set(landed)}
        assert sorted(times.values())[-1] <= 2, "once refused, once taken"
        assert sum(number == 2 for number in times.values()) <= 10
        assert house.pipeline.resend_failed(message.identifier, DUTY) == 0
        with house.database.read() as connection:
            acts = [entry.act for entry in audit.about(connection, message.identifier)]
        assert acts.count("delivery.resent") == 2


async def test_a_thread_that_broke_goes_on_where_it_broke(
    tmp_path: Path, settings: Settings, database_url: str
) -> None:
    with a_house(settings, tmp_path, url=database_url) as house:
        message = notice(house)
        house.issues(message)
        first = house.delivery(message.identifier, "billboard")
        with house.database.write() as connection:
            common: dict[str, Any] = {
                "issue_id": first.issue_id,
                "channel": "billboard",
                "kind": deliveries.PUSH,
                "mode": first.mode,
                "lane": first.lane,
                "due_at": first.due_at,
                "expires_at": first.expires_at,
                "payload": first.payload,
            }
            second = deliveries.add(connection, key="second", part="2", after_id=first.id, **common)
            deliveries.add(connection, key="third", part="3", after_id=second, **common)
        house.billboard.fails = PermanentFailure("gone")
        await house.sends(message.identifier)
        assert {state for key, state in house.states(message.identifier).items() if "billboard" in key} == {
            State.FAILED
        }
        house.billboard.fails = None
        assert house.pipeline.resend_failed(message.identifier, DUTY) == 1, "the later parts go with the first"
        await house.sends(message.identifier)
        assert house.billboard.shown == [first.key, "second", "third"]


async def test_what_was_replaced_is_not_sent_again(tmp_path: Path, settings: Settings, database_url: str) -> None:
    with a_house(settings, tmp_path, url=database_url) as house:
        house.readers(5)
        house.carrier.outcome = lambda letter: Outcome(failure=PermanentFailure("550"))
        message = alert(house)
        house.issues(message)
        await house.sends(message.identifier)
        house.pipeline.change(message.identifier, Change.CANCEL, DUTY)
        with pytest.raises(Refused):
            house.pipeline.resend_failed(message.identifier, DUTY)
        mailing = next(house.delivery(message.identifier, "carrier", part) for part in ("ja.text",))
        with pytest.raises(Refused):
            house.pipeline.send_again(mailing, DUTY)
        assert house.counts(message.identifier).failed == 5


_SPLITS = st.lists(st.sampled_from(["delivered", "failed", "unknown"]), min_size=1, max_size=12)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(how=_SPLITS)
def test_however_it_ended_the_counts_are_those_of_the_letters(
    tmp_path_factory: pytest.TempPathFactory, how: list[str]
) -> None:
    async def run() -> None:
        async with a_desk(tmp_path_factory.mktemp("counts"), clock=FrozenClock(NOW)) as desk:
            desk.readers(len(how))
            desk.app.pipeline.hand_in(replace(an_alert(desk.app.settings, now=NOW), sent_at=None), DUTY)
            mailing = one_of(desk, ALERT, "email")
            letters_end(desk, mailing, **{name: how.count(name) for name in ("delivered", "failed", "unknown")})
            number = desk.app.pipeline.resend_failed(ALERT, DUTY)
            after = one_of(desk, ALERT, "email")
            with desk.app.database.read() as connection:
                rows = recipients.counted(connection, mailing.id)
            assert after.counts.adds_up
            assert (rows.delivered, rows.failed, rows.unknown) == (how.count("delivered"), 0, how.count("unknown"))
            assert (after.counts.delivered, after.counts.failed) == (rows.delivered, 0)
            assert after.counts.queued == rows.queued == how.count("failed")
            x = one_of(desk, ALERT, "x")
            assert number == how.count("failed") + (x.state is State.FAILED)

    asyncio.run(run())


async def test_the_page_asks_with_the_number_and_a_second_press_does_nothing(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        letters_end(desk, one_of(desk, ALERT, "email"), delivered=9, failed=3)
        ends(desk, one_of(desk, ALERT, "x"), State.FAILED, "断られました")
        duty = await desk.person("duty")
        asked = await duty.get(f"/desk/sent/{ALERT}/resend")
        assert "届いた人には送りません。4件だけに送ります。" in words_of(asked)
        key = Person.hidden(asked, "key")
        answers = await asyncio.gather(*(duty.post(f"/desk/sent/{ALERT}/resend", key=key) for _ in range(3)))
        assert [answer.headers["location"] for answer in answers] == [f"/desk/sent/{ALERT}"] * 3
        other = await duty.post(f"/desk/sent/{ALERT}/resend", key="another")
        assert other.status_code == 409
        assert "届かなかった先はありません。" in words_of(other)
        assert one_of(desk, ALERT, "email").counts == Counts(total=12, delivered=9, queued=3)
        assert one_of(desk, ALERT, "x").state is State.QUEUED
        board = words_of(await duty.get(f"/desk/sent/{ALERT}"))
        assert (
            "当直（防災課）が届かなかった4件を再送しました" in board or "当直が届かなかった4件を再送しました" in board
        )


# Decisions


async def test_a_person_decides_what_nobody_knows(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        ends(desk, one_of(desk, ALERT, "x"), State.UNKNOWN, "12秒待って返事なし")
        duty = await desk.person("duty")
        page = await duty.get("/desk/decisions")
        assert "12秒待って返事なし" in words_of(page)
        x = one_of(desk, ALERT, "x")
        answer = await duty.post(
            f"/desk/decisions/{x.id}", seen=Person.hidden(page, "seen"), how="delivered", number="987"
        )
        assert answer.status_code == 303
        after = one_of(desk, ALERT, "x")
        assert (after.state, after.evidence) == (State.DELIVERED, "987")
        assert after.detail == "duty が届いたとみなしました。"
        assert "人が決めることはありません。" in words_of(await duty.get("/desk/decisions"))
        assert "が届いたとみなしました（X）" in words_of(await duty.get(f"/desk/sent/{ALERT}"))


async def test_again_puts_it_back_and_leaving_it_ends_it(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        duty = await desk.person("duty")
        for how, state in (("again", State.QUEUED), ("left", State.STOPPED)):
            ends(desk, one_of(desk, ALERT, "x"), State.FAILED, "断られました")
            x = one_of(desk, ALERT, "x")
            page = await duty.get("/desk/decisions")
            assert (
                await duty.post(f"/desk/decisions/{x.id}", seen=Person.hidden(page, "seen"), how=how)
            ).status_code == 303
            assert one_of(desk, ALERT, "x").state is state
        assert (await duty.post("/desk/decisions/99999", seen="3.0", how="again")).status_code == 404
        assert (await duty.post("/desk/decisions/x", seen="3.0", how="again")).status_code == 404


async def test_of_two_who_decide_one_is_told_what_the_other_did(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        ends(desk, one_of(desk, ALERT, "x"), State.UNKNOWN, "返事なし")
        x = one_of(desk, ALERT, "x")
        first, second = await desk.person("duty"), await desk.person("admin")
        seen = Person.hidden(await first.get("/desk/decisions"), "seen")
        await second.get("/desk/decisions")
        answers = await asyncio.gather(
            first.post(f"/desk/decisions/{x.id}", seen=seen, how="left"),
            second.post(f"/desk/decisions/{x.id}", seen=seen, how="left"),
        )
        assert sorted(answer.status_code for answer in answers) == [303, 409]
        late = next(answer for answer in answers if answer.status_code == 409)
        assert "が送らないことにしました（X）" in words_of(late)
        assert "ほかの人が先に決めました" in words_of(late)


def test_deciding_is_compared_with_what_was_seen(tmp_path: Path, settings: Settings, database_url: str) -> None:
    with a_house(settings, tmp_path, url=database_url) as house:
        house.readers(3)
        message = alert(house)
        house.issues(message)
        seen = house.delivery(message.identifier, "billboard")
        stale = replace(seen, state=State.UNKNOWN)
        for decide in (house.pipeline.send_again, house.pipeline.deem_delivered, house.pipeline.leave_unsent):
            with pytest.raises(ChangedMeanwhile):
                decide(stale, DUTY)
        assert house.delivery(message.identifier, "billboard").state is State.QUEUED


async def test_letters_that_nobody_knows_of_can_be_called_delivered(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        letters_end(desk, one_of(desk, ALERT, "email"), delivered=9, unknown=3)
        mailing = one_of(desk, ALERT, "email")
        assert mailing.state is State.UNKNOWN
        duty = await desk.person("duty")
        page = await duty.get("/desk/decisions")
        answer = await duty.post(f"/desk/decisions/{mailing.id}", seen=Person.hidden(page, "seen"), how="delivered")
        assert answer.status_code == 303
        after = one_of(desk, ALERT, "email")
        assert (after.state, after.counts) == (State.DELIVERED, Counts(total=12, delivered=12))
        with desk.app.database.read() as connection:
            assert recipients.counted(connection, mailing.id).delivered == 12


async def test_a_post_that_was_out_after_all_is_taken_back_when_something_replaced_it(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        ends(desk, one_of(desk, ALERT, "x"), State.UNKNOWN, "返事なし")
        x = one_of(desk, ALERT, "x")
        cancel = desk.app.pipeline.change(ALERT, Change.CANCEL, DUTY)
        desk.app.pipeline.deem_delivered(x, DUTY, evidence="4711")
        retractions = [d for d in of(desk, cancel.message.identifier) if d.kind == deliveries.RETRACT]
        assert [retraction.evidence for retraction in retractions] == ["4711"]


# The report


async def test_the_report_tells_who_did_what_and_how_fast(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        everything_arrives(desk, ALERT)
        desk.app.pipeline.change(ALERT, Change.CORRECTION, Actor(name="approver", via="desk"), line="大崎も含みます。")
        viewer = await desk.person("viewer")
        answer = await viewer.get(f"/desk/sent/{ALERT}/report")
        said = words_of(answer)
        for part in (
            "時の流れ",
            "かかわった人",
            "版と違い",
            "媒体ごとの速さ",
            "うまくいかなかったこと",
            "どこまで届いたか",
        ):
            assert part in said
        assert "承認する人" in said
        assert re.search(r"<ins><span[^>]*>追加: </span>[^<]*大崎も含みます。", answer.text)
        paper = await viewer.get(f"/desk/sent/{ALERT}/report.pdf")
        assert paper.headers["content-type"] == "application/pdf"
        assert paper.content.startswith(b"%PDF-1.7")
        assert (await viewer.get(f"/desk/sent/{ALERT}/report?lang=en")).status_code == 200
        assert (await viewer.get(f"/desk/sent/{ALERT}/report.pdf?lang=en")).status_code == 200


async def test_the_numbers_of_every_chart_are_there_as_a_file(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        everything_arrives(desk, ALERT)
        viewer = await desk.person("viewer")
        for page in ("report", "where"):
            shown = (await viewer.get(f"/desk/sent/{ALERT}/{page}")).text
            charts = re.findall(r'<svg\b[^>]*\bclass="chart', shown)
            files = re.findall(r'href="(/desk/sent/[^"]*\.csv)" download', shown)
            assert len(files) == len(charts) > 1, page
            for file in files:
                answer = await viewer.get(file)
                assert answer.headers["content-type"] == "text/csv; charset=utf-8"
                head, *rows = answer.text.removeprefix("\ufeff").splitlines()
                assert rows, file
                assert {row.count(",") for row in rows} == {head.count(",")}, file
        reach = (await viewer.get(f"/desk/sent/{ALERT}/numbers/reach.csv")).text
        assert "品川区,12,12," in reach
        assert (await viewer.get(f"/desk/sent/{ALERT}/numbers/people.csv")).status_code == 404
        assert (await viewer.get("/desk/sent/13109-nothing/numbers/reach.csv")).status_code == 404


async def test_the_report_shows_how_the_alert_level_went(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        viewer = await desk.person("viewer")
        assert "警戒レベルの移り変わり" not in (await viewer.get(f"/desk/sent/{NOTICE}/report")).text
        desk.app.clock.move(timedelta(minutes=30))  # type: ignore[attr-defined]
        desk.app.pipeline.change(ALERT, Change.ALL_CLEAR, DUTY)
        shown = (await viewer.get(f"/desk/sent/{ALERT}/report")).text
        assert "いちばん高い警戒レベルは4でした。" in shown
        numbers = (await viewer.get(f"/desk/sent/{ALERT}/numbers/levels.csv")).text
        assert numbers.splitlines()[1:] == ["1,0.0,4,出しました", "2,1803.0,なし,解除"]
        assert (await viewer.get(f"/desk/sent/{ALERT}/report.pdf")).content.startswith(b"%PDF")


async def test_text_that_looks_like_markup_is_text_on_paper(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        odd = replace(
            a_notice(
                desk.app.settings,
                now=NOW,
                title="#panic() *強い* $x$ <a>",
                body='= 見出し\n#read("/etc/passwd") @x `y`',
            ),
            sent_at=None,
            identifier="13109-odd",
        )
        desk.app.pipeline.hand_in(odd, DUTY)
        viewer = await desk.person("viewer")
        answer = await viewer.get("/desk/sent/13109-odd/report.pdf")
        assert answer.status_code == 200
        assert answer.content.startswith(b"%PDF")
        assert "#panic() *強い* $x$ &lt;a&gt;" in (await viewer.get("/desk/sent/13109-odd/report")).text


async def test_the_one_who_sent_alone_cannot_write_the_review(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        with desk.app.database.write() as connection:
            notes.open_review(connection, ALERT, by="duty", at=NOW, reason="夜中で、ほかにだれもいなかった。")
        duty, approver, writer = [await desk.person(name) for name in ("duty", "approver", "writer")]
        path = f"/desk/sent/{ALERT}/report"
        own = await duty.get(path)
        assert "一人で送った本人は、この報告を書けません。" in words_of(own)
        assert "夜中で、ほかにだれもいなかった。" in words_of(own)
        assert (await duty.post(path, text="必要でした。")).status_code == 403
        await writer.get(path)
        assert (await writer.post(path, text="必要でした。")).status_code == 403
        await approver.get(path)
        assert (await approver.post(path, text=" ")).status_code == 422
        assert (await approver.post(path, text="必要でした。届きました。")).status_code == 303
        assert (await approver.post(path, text="もう一度。")).status_code == 409
        said = words_of(await duty.get(path))
        assert "必要でした。届きました。" in said
        with desk.app.database.read() as connection:
            assert notes.open_reviews(connection) == []
            assert "review.written" in [entry.act for entry in audit.about(connection, ALERT)]


def test_a_difference_is_told_in_runs() -> None:
    assert runs("午後3時に", "午後4時に") == [(SAME, "午後"), (REMOVED, "3"), (ADDED, "4"), (SAME, "時に")]
    assert (
        "".join(text for kind, text in runs("あ" * 4000, "あ" * 4000 + "い") if kind != REMOVED) == "あ" * 4000 + "い"
    )


async def test_every_chart_on_a_page_is_sound(tmp_path: Path) -> None:
    async with an_evening(tmp_path) as desk:
        letters_end(desk, one_of(desk, ALERT, "email"), delivered=6, failed=3, unknown=2)
        viewer = await desk.person("viewer")
        for path in ("", "/where", "/report"):
            text = (await viewer.get(f"/desk/sent/{ALERT}{path}")).text
            charts = re.findall(r"<svg xmlns.*?</svg>", text, re.DOTALL)
            assert charts, path
            for chart in charts:
                assert ET.fromstring(chart).find("{http://www.w3.org/2000/svg}title") is not None
            ids = re.findall(r'\bid="([^"]+)"', text)
            assert len(ids) == len(set(ids)), [id for id in ids if ids.count(id) > 1]
            assert "style=" not in text


async def test_a_key_counts_for_its_own_form(tmp_path: Path) -> None:
    """Whatever was pressed elsewhere with it, this is another act, and neither is taken for the other."""
    async with an_evening(tmp_path) as desk:
        duty = await desk.person("duty")
        made = []
        for identifier in (ALERT, NOTICE):
            asked = await duty.get(f"/desk/sent/{identifier}/cancel")
            fields = {"key": "the-same", "seen": Person.hidden(asked, "seen"), "line": ""}
            answer = await duty.post(f"/desk/sent/{identifier}/cancel", **fields)
            assert answer.status_code == 303
            made.append(answer.headers["location"])
        assert len(set(made)) == 2


async def test_whoever_may_hold_a_drill_may_take_it_back_and_nothing_live(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        a_day(desk.app)
        writer = await desk.person("writer")
        board = await writer.get("/desk/sent/13109-drill")
        assert "/desk/sent/13109-drill/cancel" in board.text
        assert "/desk/sent/13109-E04/cancel" not in (await writer.get("/desk/sent/13109-E04")).text
        assert (await writer.get("/desk/sent/13109-E04/cancel")).status_code == 403
        assert (await writer.post("/desk/sent/13109-E04/cancel", seen="x", key="k")).status_code == 403
        page = await writer.get("/desk/sent/13109-drill/cancel")
        fields = {name: Person.hidden(page, name) for name in ("key", "seen")}
        assert (await writer.post("/desk/sent/13109-drill/cancel", **fields)).status_code == 303
        assert desk.kept("13109-drill").state is Life.CANCELLED
        assert desk.kept("13109-E04").state is Life.ISSUED
