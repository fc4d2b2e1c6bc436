"""The one button: what is seen is what is sent, once; a drill never goes out live; alone only with a reason."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from broadcaster.clock import SystemClock
from broadcaster.lifecycle import State
from broadcaster.message import Mode
from broadcaster.roles import Right, Role, may
from broadcaster.store import audit, notes, people, sessions
from broadcaster.store.tables import staff_mails
from tests.desk import DeskUnderTest, Person, a_desk

E04 = {
    "slot-river": "目黒川",
    "slot-area": "西五反田一・二丁目、大崎一丁目",
    "slot-shelters": "第一日野小学校、芳水小学校",
}


class Ahead(SystemClock):
    """The machine's clock, and some minutes."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def now(self) -> Any:
        return super().now() + self.ahead


def form_of(answer: Any) -> dict[str, str]:
    """What the form of the last page would send."""
    form = answer.text[answer.text.index('id="send"') :]
    return {
        unescape(name): unescape(value)
        for name, value in re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', form)
    }


async def confirmed(person: Person, preset: str, mode: str = "live", **slots: str) -> dict[str, str]:
    answer = (
        await person.post(f"/desk/emergency/{mode}/{preset}/confirm", **slots)
        if slots
        else await person.get(f"/desk/emergency/{mode}/{preset}/confirm")
    )
    assert answer.status_code == 200, answer.text
    return form_of(answer)


def issued(desk: DeskUnderTest, mode: Mode = Mode.LIVE) -> list[str]:
    return [message.identifier for message in desk.messages() if message.mode is mode]


async def test_a_preset_without_a_blank_goes_out_in_three_acts(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        desk.readers(5)
        duty = await desk.person("duty")  # 1 sign in
        form = await confirmed(duty, "E07")  # 2 choose
        answer = await duty.post("/desk/emergency/live/E07/send", **form, checked="held")  # 3 hold
        assert answer.status_code == 303
        kept = desk.newest()
        assert kept is not None
        assert kept.state is State.ISSUED
        assert answer.headers["location"] == f"/desk/sent/{kept.message.identifier}"


async def test_what_is_seen_is_said_before_it_is_sent(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        desk.readers(48)
        duty = await desk.person("duty")
        text = (await duty.post("/desk/emergency/live/E04/confirm", **E04)).text
    assert "メール 48人" in text
    assert "西五反田一・二丁目、大崎一丁目" in text
    assert "最後の1人まで 約1秒" in text
    for language in ("日本語", "やさしい日本語", "英語", "中国語（簡体字）", "韓国語", "フィリピン語"):
        assert language in text
    assert "本番（練習）" in text
    assert "訓練" not in text.partition("<main")[2].replace("本番（練習）", "")


async def test_two_presses_are_one(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        duty = await desk.person("duty")
        form = await confirmed(duty, "E01", **{"slot-intensity": "５強"})
        answers = await asyncio.gather(
            *(duty.post("/desk/emergency/live/E01/send", **form, checked="held") for _ in range(20))
        )
        assert {answer.status_code for answer in answers} == {303}
        assert len({answer.headers["location"] for answer in answers}) == 1
        assert len(issued(desk)) == 1


async def test_without_a_tick_or_a_hold_nothing_is_sent(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        duty = await desk.person("duty")
        form = await confirmed(duty, "E07")
        answer = await duty.post("/desk/emergency/live/E07/send", **form)
        assert answer.status_code == 409
        assert "しるしを付ける" in answer.text
        assert issued(desk) == []


async def test_other_words_than_were_seen_are_not_sent(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        duty = await desk.person("duty")
        form = await confirmed(duty, "E04", **E04)
        answer = await duty.post("/desk/emergency/live/E04/send", **{**form, "slot-river": "立会川", "checked": "held"})
        assert answer.status_code == 409
        assert "立会川" in answer.text
        assert issued(desk) == []


async def test_a_page_that_stood_open_too_long_is_shown_anew(tmp_path: Path) -> None:
    clock = Ahead()
    async with a_desk(tmp_path, clock=clock) as desk:
        duty = await desk.person("duty")
        form = await confirmed(duty, "E07")
        clock.ahead = timedelta(minutes=16)
        answer = await duty.post("/desk/emergency/live/E07/send", **form, checked="held")
        assert answer.status_code == 409
        assert issued(desk) == []
        again = form_of(answer)
        assert (await duty.post("/desk/emergency/live/E07/send", **again, checked="held")).status_code == 303
        assert len(issued(desk)) == 1


@pytest.mark.parametrize(
    ("slots", "says"),
    [
        ({**E04, "slot-area": ""}, "area"),
        ({**E04, "slot-area": "どこにもない町一丁目"}, "地区・町丁目はありません"),
        ({**E04, "slot-river": "目黒川\x07"}, "使えない文字"),
        ({**E04, "slot-shelters": ""}, "shelters"),
    ],
)
async def test_what_is_missing_stops_the_page_and_keeps_what_was_typed(
    tmp_path: Path, slots: dict[str, str], says: str
) -> None:
    async with a_desk(tmp_path) as desk:
        duty = await desk.person("duty")
        answer = await duty.post("/desk/emergency/live/E04/confirm", **slots)
        assert answer.status_code == 422
        assert says in answer.text
        assert "--set" not in answer.text
        assert issued(desk) == []


async def test_districts_that_are_ticked_are_an_area(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        duty = await desk.person("duty")
        name = desk.app.settings.ward.districts[0].name
        answer = await duty.post("/desk/emergency/live/E04/confirm", **{**E04, "slot-area": "", "district": name})
        assert answer.status_code == 200
        assert name in answer.text


# Two people


async def test_a_second_person_is_asked_and_told(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        duty = await desk.person("duty")
        form = await confirmed(duty, "E04", **E04)
        answer = await duty.post("/desk/emergency/live/E04/send", **form, checked="held")
        kept = desk.newest()
        assert kept is not None
        assert kept.state is State.SUBMITTED
        assert answer.headers["location"] == f"/desk/emergency/live/waiting/{kept.message.identifier}"
        waiting = (await duty.get(answer.headers["location"])).text
        assert "まだ出ていません" in waiting
        assert "承認する人（広報広聴課）" in waiting
        with desk.app.database.read() as connection:
            mails = connection.execute(staff_mails.select()).all()
        assert len(mails) == 4  # two approvers, two administrators
        assert all("[緊急・要承認]" in mail.subject and mail.is_urgent for mail in mails)
        desk.app.pipeline.approve(kept.message.identifier, audit.Actor(name="approver", via="desk"))
        again = await duty.get(answer.headers["location"])
        assert (again.status_code, again.headers["location"]) == (303, f"/desk/sent/{kept.message.identifier}")


async def test_alone_it_goes_out_with_a_reason_and_everybody_is_told(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        duty = await desk.person("duty")
        form = await confirmed(duty, "E04", **E04)
        await duty.post("/desk/emergency/live/E04/send", **form, checked="held")
        kept = desk.newest()
        assert kept is not None
        identifier = kept.message.identifier
        path = f"/desk/emergency/live/alone/{identifier}"
        for fields, says in (
            ({"checked": "ticked"}, "理由"),
            ({"checked": "ticked", "reason": "other"}, "理由"),
            ({"checked": "ticked", "reason": "because"}, "理由"),
            ({"reason": "night"}, "しるし"),
        ):
            answer = await duty.post(path, **fields)
            assert answer.status_code == 422
            assert says in answer.text
            assert desk.kept(identifier).state is State.SUBMITTED
        answer = await duty.post(path, reason="night", text="宿直一名", checked="ticked")
        assert (answer.status_code, answer.headers["location"]) == (303, f"/desk/sent/{identifier}")
        assert desk.kept(identifier).state is State.ISSUED
        with desk.app.database.read() as connection:
            review = notes.review_of(connection, identifier)
            told = [mail for mail in connection.execute(staff_mails.select()).all() if "[一人で送信]" in mail.subject]
            acts = [entry.act for entry in audit.entries(connection)]
        assert review is not None
        assert "宿直一名" in review.reason
        assert len(told) == 4
        assert "message.sent_alone" in acts
        assert "一人で送った報告がまだです" in (await duty.get("/desk")).text
        with desk.app.database.write() as connection:
            assert not notes.write_review(connection, identifier, "自分で", by="duty", at=desk.app.clock.now())
            assert notes.write_review(connection, identifier, "確かめた", by="approver", at=desk.app.clock.now())


async def test_alone_needs_a_second_factor_that_was_shown_lately(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        duty = await desk.person("duty")
        form = await confirmed(duty, "E04", **E04)
        await duty.post("/desk/emergency/live/E04/send", **form, checked="held")
        kept = desk.newest()
        assert kept is not None
        with desk.app.database.write() as connection:  # no sample any more, and signed in ten minutes ago
            person = people.by_name(connection, "duty")
            assert person is not None
            connection.execute(people.people.update().where(people.people.c.id == person.id).values(is_sample=False))
            [(hash, *_)] = sessions.of_person(connection, person.id)
            sessions.proved(connection, hash, desk.app.clock.now() - timedelta(minutes=10))
        path = f"/desk/emergency/live/alone/{kept.message.identifier}"
        answer = await duty.post(path, reason="night", checked="ticked", code="000000")
        assert answer.status_code == 422
        assert "番号が合いません" in answer.text
        assert desk.kept(kept.message.identifier).state is State.SUBMITTED


async def test_approved_and_sent_alone_at_once_is_one_issue(tmp_path: Path) -> None:
    for number in range(5):
        folder = tmp_path / str(number)
        async with a_desk(folder) as desk:
            duty = await desk.person("duty")
            form = await confirmed(duty, "E04", **E04)
            await duty.post("/desk/emergency/live/E04/send", **form, checked="held")
            kept = desk.newest()
            assert kept is not None
            path = f"/desk/emergency/live/alone/{kept.message.identifier}"
            approve = asyncio.to_thread(
                desk.app.pipeline.approve, kept.message.identifier, audit.Actor(name="approver", via="desk")
            )
            answer, _ = await asyncio.gather(
                duty.post(path, reason="night", checked="ticked"), approve, return_exceptions=True
            )
            assert answer.status_code == 303
            with desk.app.database.read() as connection:
                acts = [entry.act for entry in audit.entries(connection)]
            assert acts.count("message.issued") == 1


# Two places


@pytest.mark.parametrize("mode", ["live", "drill"])
async def test_nothing_leads_from_one_place_into_the_other(tmp_path: Path, mode: str) -> None:
    other = "drill" if mode == "live" else "live"
    async with a_desk(tmp_path) as desk:
        admin = await desk.person("admin")
        for path in ("", "/E04/fill", "/E07/confirm"):
            text = (await admin.get(f"/desk/emergency/{mode}{path}")).text
            assert f"/desk/emergency/{other}" not in text
            assert f'<body class="{mode}">' in text
        text = (await admin.get(f"/desk/emergency/{mode}/E07/confirm")).text
        assert ("訓練で送る" in text) is (mode == "drill")
        assert ("長押し" in text) is (mode == "live")


async def test_a_drill_never_goes_out_live_whatever_is_sent(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        desk.readers(12, is_drill=True)
        writer = await desk.person("writer")  # may hold drills, and nothing live
        for preset in desk.app.settings.presets.values():
            slots = {f"slot-{name}": value for name, value in preset.fields.items() if name != "time"}
            answer = await writer.post(f"/desk/emergency/drill/{preset.id}/confirm", **slots)
            assert answer.status_code == 200, (preset.id, answer.text)
            form = form_of(answer)
            assert (
                await writer.post(f"/desk/emergency/live/{preset.id}/send", **form, checked="held")
            ).status_code == 403
            answer = await writer.post(f"/desk/emergency/drill/{preset.id}/send", **form, mode="live")
            assert answer.status_code == 303, (preset.id, answer.text)
        assert issued(desk, Mode.LIVE) == []
        drills = issued(desk, Mode.DRILL)
        assert len(drills) == len(desk.app.settings.presets)


async def test_a_drill_s_form_is_no_live_form(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        duty = await desk.person("duty")
        form = await confirmed(duty, "E07", mode="drill")
        answer = await duty.post("/desk/emergency/live/E07/send", **form, checked="held")
        assert answer.status_code == 409
        assert issued(desk) == []
        assert (await duty.get("/desk/emergency/live/E12/fill")).status_code == 404  # a drill text


@pytest.mark.parametrize("role", list(Role))
async def test_only_who_may_reaches_a_send(tmp_path: Path, role: Role) -> None:
    async with a_desk(tmp_path) as desk:
        person = await desk.person(role)
        for mode, right in (("live", Right.ALERT), ("drill", Right.DRILL)):
            for method, path in (("get", ""), ("get", "/E07/confirm"), ("post", "/E07/confirm"), ("post", "/E07/send")):
                answer = await getattr(person, method)(f"/desk/emergency/{mode}{path}")
                assert ("この操作は" in answer.text) is not may(role, right), (role, mode, path)
        assert issued(desk) == []
        assert issued(desk, Mode.DRILL) == []


# In the middle


async def test_a_session_that_ends_in_the_middle_loses_nothing_and_sends_nothing(tmp_path: Path) -> None:
    clock = Ahead()
    async with a_desk(tmp_path, clock=clock) as desk:
        duty = await desk.person("duty")
        form = await confirmed(duty, "E04", **E04)
        clock.ahead = timedelta(minutes=61)
        answer = await duty.post("/desk/emergency/live/E04/send", **form, checked="held")
        assert "/desk/sign-in?over=1&ticket=" in answer.headers["location"]
        assert issued(desk) == []
        page = await duty.get(answer.headers["location"])
        assert "まだ送っていません" in page.text
        ticket = Person.hidden(page, "ticket")
        entered = await duty.post("/desk/sign-in/as", name="duty", ticket=ticket)
        resumed = await duty.get(entered.headers["location"])
        assert "/desk/emergency/live/E04/send" in resumed.text
        fields = dict(re.findall(r'<textarea name="([^"]+)" hidden>([^<]*)</textarea>', resumed.text))
        assert fields["slot-area"] == E04["slot-area"]
        shown = await duty.post("/desk/emergency/live/E04/send", **fields, resumed="1")
        assert shown.status_code == 409
        assert E04["slot-area"] in shown.text
        assert issued(desk) == []
        answer = await duty.post("/desk/emergency/live/E04/send", **form_of(shown), checked="held")
        assert answer.status_code == 303
        assert len(issued(desk)) == 1


async def test_the_back_button_shows_the_board_again(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        duty = await desk.person("duty")
        form = await confirmed(duty, "E07")
        first = await duty.post("/desk/emergency/live/E07/send", **form, checked="held")
        page = await duty.get("/desk/emergency/live/E07/confirm")
        assert page.headers["cache-control"] == "no-store"
        again = await duty.post("/desk/emergency/live/E07/send", **form, checked="held")
        assert again.headers["location"] == first.headers["location"]
        assert "同じ文を" in page.text  # and a new one says so
        assert len(issued(desk)) == 1
