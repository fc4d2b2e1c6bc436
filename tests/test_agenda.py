"""The calendar's days: whole weeks, the right holidays, and what collides."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pytest

from broadcaster import agenda
from broadcaster.almanac import Almanac
from broadcaster.lifecycle import State
from broadcaster.settings import Settings
from broadcaster.store.messages import Kept
from tests.makers import NOW, a_notice


def kept(settings: Settings, name: str, *, after: timedelta, state: State = State.SCHEDULED, lasts: int = 2) -> Kept:
    message = a_notice(settings, identifier=name, now=NOW + after, lasts=timedelta(days=lasts), channels=("x",))
    return Kept(
        id=1,
        message=replace(message, sent_at=None),
        state=state,
        version=1,
        created_at=NOW,
        created_by="writer",
        approved_by=None,
        approved_hash="h" * 64,
        issued_as=None,
    )


@pytest.mark.parametrize(
    ("day", "first", "last", "weeks"),
    [
        (date(2026, 12, 4), date(2026, 11, 30), date(2027, 1, 3), 5),
        (date(2027, 2, 1), date(2027, 2, 1), date(2027, 2, 28), 4),
        (date(2028, 2, 29), date(2028, 1, 31), date(2028, 3, 5), 5),
        (date(2026, 8, 31), date(2026, 7, 27), date(2026, 9, 6), 6),
    ],
)
def test_a_month_is_whole_weeks_from_monday(day: date, first: date, last: date, weeks: int) -> None:
    found = agenda.month_of(day, [], Almanac())
    assert len(found) == weeks
    assert {len(week) for week in found} == {7}
    assert (found[0][0].date, found[-1][-1].date) == (first, last)


def test_holidays_and_closed_days_are_said() -> None:
    days = {each.date: each for week in agenda.month_of(date(2026, 11, 1), [], Almanac()) for each in week}
    assert days[date(2026, 11, 23)].holiday == "勤労感謝の日"
    assert not days[date(2026, 11, 23)].is_open
    assert not days[date(2026, 11, 22)].is_open
    assert days[date(2026, 11, 24)].is_open


def test_the_next_month_of_december_is_january() -> None:
    assert agenda.next_of("month", date(2026, 12, 31), 1) == date(2027, 1, 1)
    assert agenda.next_of("month", date(2027, 1, 31), -1) == date(2026, 12, 1)
    assert agenda.next_of("week", date(2026, 12, 31), 1) == date(2027, 1, 7)


def test_two_posts_in_one_minute_collide_and_a_long_stay_is_pointed_out(settings: Settings) -> None:
    notices = [
        kept(settings, "a", after=timedelta(hours=1)),
        kept(settings, "b", after=timedelta(hours=1, seconds=30)),
        kept(settings, "c", after=timedelta(hours=1, seconds=90), lasts=61),
    ]
    found = {entry.link.rpartition("/")[2]: entry.collides for entry in agenda.entries_of(notices, [], "ja", NOW)}
    assert found == {
        "a": ("same_minute", "same_category"),
        "b": ("same_minute", "same_category"),
        "c": ("stays_long", "same_category"),
    }
    alone = agenda.entries_of([kept(settings, "a", after=timedelta(hours=1))], [], "ja", NOW)
    assert alone[0].collides == ()


def test_a_notice_leads_to_where_it_stands(settings: Settings) -> None:
    states = {State.SUBMITTED: "approvals", State.SCHEDULED: "messages", State.ISSUED: "sent"}
    for state, place in states.items():
        [entry] = agenda.entries_of([kept(settings, "a", after=timedelta(0), state=state)], [], "ja", NOW)
        assert entry.link == f"/desk/{place}/a"
