"""The calendar's days: whole weeks, the right holidays, and what collides."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pytest

from broadcaster import agenda
from broadcaster.almanac import Almanac, Reason, Rule, Run
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
        "c": ("same_category", "outlives"),
    }
    alone = agenda.entries_of([kept(settings, "a", after=timedelta(hours=1))], [], "ja", NOW)
    assert alone[0].collides == ()


def test_a_notice_leads_to_where_it_stands(settings: Settings) -> None:
    states = {State.SUBMITTED: "approvals", State.SCHEDULED: "messages", State.ISSUED: "sent"}
    for state, place in states.items():
        [entry] = agenda.entries_of([kept(settings, "a", after=timedelta(0), state=state)], [], "ja", NOW)
        assert entry.link == f"/desk/{place}/a"


def a_run(*, after: timedelta, category: str = "notice", channels: tuple[str, ...] = ("x",), **rule: object) -> Run:
    at = NOW + after
    made = Rule(id="rule", title="定例", category=category, channels=channels, time=timedelta(hours=9), late_minutes=10)
    return Run(rule=replace(made, **rule), nominal_date=at.date(), date=at.date(), planned_at=at)


def test_what_a_rule_will_send_collides_as_well(settings: Settings) -> None:
    notice = kept(settings, "a", after=timedelta(hours=1))
    beside = a_run(after=timedelta(hours=1, seconds=20))
    found = {entry.key: entry.collides for entry in agenda.entries_of([notice], [beside], "ja", NOW)}
    assert found == dict.fromkeys(("a", beside.key), ("same_minute", "same_category"))
    elsewhere = [
        a_run(after=timedelta(hours=1), category="weekend", channels=("email",)),
        a_run(after=timedelta(hours=1), by_hand=True),
        replace(beside, skipped=Reason(ja="祝日", en="a holiday")),
    ]
    assert not any(entry.collides for entry in agenda.entries_of([notice], elsewhere, "ja", NOW))


def test_rules_of_one_category_on_one_day_were_put_so(settings: Settings) -> None:
    runs = [a_run(after=timedelta(hours=1)), a_run(after=timedelta(hours=3), id="other")]
    assert [entry.collides for entry in agenda.entries_of([], runs, "ja", NOW)] == [(), ()]


@pytest.mark.parametrize(
    ("words", "lasts", "collides"),
    [
        ("12月5日（土）に朝市を開きます。", 4, ()),  # until the 5th
        ("12月5日に朝市を開きます。", 8, ("outlives",)),
        ("12月5日と12月8日に開きます。", 8, ()),
        ("11月20日に決まりました。", 8, ()),  # what has been is no event to come
        ("窓口は1/2に減ります。", 30, ()),
        ("12月5日に開きます。", 70, ("outlives",)),
        ("毎週開きます。", 70, ("stays_long",)),
    ],
)
def test_a_notice_that_outlives_its_event(
    settings: Settings, words: str, lasts: int, collides: tuple[str, ...]
) -> None:
    one = kept(settings, "a", after=timedelta(hours=1), lasts=lasts)
    info = replace(one.message.info, description=words)
    told = replace(one, message=replace(one.message, infos=(info,)))
    assert agenda.entries_of([told], [], "ja", NOW)[0].collides == collides


def test_a_week_has_the_hours_of_the_office_and_those_that_are_used(settings: Settings) -> None:
    entries = agenda.entries_of([kept(settings, "a", after=timedelta(hours=12, minutes=30))], [], "ja", NOW)
    days = agenda.week_of(date(2026, 12, 1), entries, Almanac())
    assert agenda.hours_of(days) == [*range(8, 19), 21]
    assert [entry.key for entry in days[1].at(21)] == ["a"]
    assert agenda.hours_of(agenda.week_of(date(2026, 12, 1), [], Almanac())) == list(range(8, 19))
