"""The routine calendar: three months as they will be, then closed days, odd months, and what is refused."""

from __future__ import annotations

import csv
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from broadcaster import almanac, manuscript
from broadcaster.almanac import WEEKDAYS, Almanac, OnClosedDay, Rule, Run
from broadcaster.clock import JST
from broadcaster.problems import Refused
from broadcaster.settings import Settings
from broadcaster.slots import fill
from tests.makers import MEDIA, NOW

DATA = Path(__file__).parent / "data"
TEXT = {"title": "{month}月{day}日号", "summary": "発行しました", "body": "{year}年{month}月{day}日号を発行しました。"}

# ---- the plain case: winter 2026/27, every rule as shipped ---------------------------------------------------------

EVERY_DAY = {"12": list(range(1, 32)), "01": list(range(1, 32)), "02": list(range(1, 29))}
MONDAY_TO_FRIDAY = """
    12-01 12-02 12-03 12-04  12-07 12-08 12-09 12-10 12-11  12-14 12-15 12-16 12-17 12-18  12-21 12-22 12-23 12-24 12-25
    12-28 12-29 12-30 12-31 01-01  01-04 01-05 01-06 01-07 01-08  01-11 01-12 01-13 01-14 01-15
    01-18 01-19 01-20 01-21 01-22  01-25 01-26 01-27 01-28 01-29  02-01 02-02 02-03 02-04 02-05
    02-08 02-09 02-10 02-11 02-12  02-15 02-16 02-17 02-18 02-19  02-22 02-23 02-24 02-25 02-26
"""
# `12-28(01-01)` is the run of 1 January, made on 28 December.
WINTER = {
    "koho_regular": ("07:00", "12-01 12-11 12-21 01-01 01-11 01-21 02-01 02-11 02-21"),
    "koho_english": ("09:00", "12-10 01-10 02-10"),
    "weekend_events": (
        "12:00",
        "12-04 12-11 12-18 12-25 12-28(01-01) 01-08 01-15 01-22 01-29 02-05 02-12 02-19 02-26",
    ),
    "catv_guide": (
        "10:00",
        "12-07 12-14 12-21 12-28 01-04 01-08(01-11) 01-18 01-25 02-01 02-08 02-15 02-22",
    ),
    "catv_program": ("00:00", " ".join(f"{month}-{day:02}" for month, days in EVERY_DAY.items() for day in days)),
    "shinagawa_info_radio": ("00:00", MONDAY_TO_FRIDAY),
    "community_fm": ("11:00", MONDAY_TO_FRIDAY),
    "community_fm_rerun": ("22:00", MONDAY_TO_FRIDAY),
    "poster_flyer": ("00:00", "12-01 01-01 02-01"),
    "voice_koho": ("07:00", "12-01 12-11 12-21 01-01 01-11 01-21 02-01 02-11 02-21"),
}


@pytest.fixture(scope="module")
def shipped(settings: Settings) -> Almanac:
    return almanac.load(settings.schedule)


@pytest.mark.parametrize("id", WINTER)
def test_a_winter_of_runs_is_as_written_down(shipped: Almanac, id: str) -> None:
    rule = shipped.rule(id)
    assert rule is not None
    runs = list(shipped.runs(rule, just_before(2026, 12, 1), just_before(2027, 3, 1)))
    clock, days = WINTER[id]
    assert [as_written(run) for run in runs] == days.split()
    assert {f"{run.planned_at:%H:%M}" for run in runs} == {clock}
    assert all(run.planned_at.utcoffset() == timedelta(hours=9) for run in runs)


def test_the_winter_names_every_rule(shipped: Almanac) -> None:
    assert [rule.id for rule in shipped.rules] == list(WINTER)


def test_no_item_of_the_sources_was_dropped(shipped: Almanac, settings: Settings) -> None:
    items = yaml.safe_load((DATA / "routine_schedule.yaml").read_text(encoding="utf-8"))["items"]
    for item in items:
        rule = shipped.rule(item["id"])
        assert rule is not None, item["id"]
        assert (rule.title, rule.channels) == (item["title"], tuple(item["channels"]))
        assert rule.known_time == item["known_time"]
        if "category" in item:
            category = settings.ward.category(item["category"])
            assert category is not None
            assert rule.category == category.id


def test_what_no_medium_of_ours_carries_is_marked_by_hand(shipped: Almanac, settings: Settings) -> None:
    for rule in shipped.rules:
        assert rule.by_hand == (set(rule.channels) <= set(settings.ward.by_hand)), rule.id


def test_a_run_says_who_it_is_when_it_is_due_and_why_it_moved(shipped: Almanac) -> None:
    rule = shipped.rule("weekend_events")
    assert rule is not None
    (run,) = shipped.runs(rule, just_before(2026, 12, 28), just_before(2026, 12, 29))
    assert run.key == "weekend_events/2027-01-01"
    assert run.planned_at == datetime(2026, 12, 28, 12, 0, tzinfo=JST)
    assert run.latest_at == datetime(2026, 12, 28, 18, 0, tzinfo=JST)
    assert run.shifted is not None
    assert run.shifted.ja == "1月1日（金）は年末年始なので、12月28日（月）に早めます。"
    assert run.shifted.in_("en") == "2027-01-01 is closed (the year-end closure): moved earlier, to 2026-12-28."


# ---- closed days ----------------------------------------------------------------------------------------------------


def test_the_holidays_are_those_of_the_official_table() -> None:
    with (DATA / "holidays.csv").open(encoding="utf-8", newline="") as file:
        listed = {date.fromisoformat(row["date"]): row["name"] for row in csv.DictReader(file)}
    first, last = min(listed).replace(month=1, day=1), max(listed).replace(month=12, day=31)
    days = [date.fromordinal(n) for n in range(first.toordinal(), last.toordinal() + 1)]
    assert {day: name for day in days if (name := almanac.holiday_name(day))}.keys() == listed.keys()
    assert all(almanac.holiday_name(day) for day in listed)


def test_the_year_ends_on_29_december_and_begins_on_4_january() -> None:
    days = [date(2026, 12, 28) + timedelta(days=n) for n in range(8)]
    assert [Almanac().closed(day) is None for day in days] == [True, *[False] * 6, True]


def test_a_closed_day_says_why() -> None:
    reasons = [Almanac().closed(day) for day in (date(2027, 5, 1), date(2027, 5, 3), date(2027, 12, 31))]
    assert [reason.ja for reason in reasons if reason] == ["土曜日", "祝日（憲法記念日）", "年末年始"]
    assert [reason.en for reason in reasons if reason] == ["a Saturday", "a national holiday", "the year-end closure"]


def test_staff_can_close_a_day_and_open_another() -> None:
    calendar = loaded(
        a_rule(weekdays=["wed", "sat"], on_closed_day="skip"), closed={"extra": ["2027-01-06"], "open": ["2027-01-09"]}
    )
    runs = runs_of(calendar, just_before(2027, 1, 6), just_before(2027, 1, 10))
    assert [(run.date.day, run.skipped is None) for run in runs] == [(6, False), (9, True)]
    assert runs[0].skipped is not None
    assert runs[0].skipped.ja == "1月6日（水）は臨時の閉庁日なので出しません。"


def test_a_skipped_run_is_told_and_not_dropped() -> None:
    runs = runs_of(
        loaded(a_rule(weekdays=["mon"], on_closed_day="skip")), just_before(2027, 1, 11), just_before(2027, 1, 12)
    )
    assert [run.key for run in runs] == ["a_rule/2027-01-11"]
    assert runs[0].skipped is not None
    assert runs[0].skipped.en == "Not sent: 2027-01-11 is closed (a national holiday)."


def test_a_run_can_wait_for_the_next_open_day() -> None:
    runs = runs_of(
        loaded(a_rule(monthdays=[1], on_closed_day="next_business_day")),
        just_before(2027, 1, 1),
        just_before(2027, 1, 9),
    )
    assert [as_written(run) for run in runs] == ["01-04(01-01)"]
    assert runs[0].shifted is not None
    assert runs[0].shifted.ja == "1月1日（金）は年末年始なので、1月4日（月）に遅らせます。"


def test_two_nominal_dates_on_one_day_both_run_each_once() -> None:
    calendar = loaded(a_rule(daily=True, on_closed_day="previous_business_day"))
    runs = runs_of(calendar, just_before(2027, 1, 8), just_before(2027, 1, 12))
    assert [run.key[-5:] for run in runs] == ["01-08", "01-09", "01-10", "01-11"]
    assert {run.planned_at.day for run in runs} == {8}


def test_a_date_left_out_is_skipped_with_its_reason() -> None:
    calendar = loaded(a_rule(monthdays=[1, 11, 21], skip_dates=["01-11", "2027-02-21"]))
    runs = runs_of(calendar, just_before(2027, 1, 1), just_before(2028, 3, 1))
    left_out = [run for run in runs if run.skipped]
    assert [run.nominal_date for run in left_out] == [date(2027, 1, 11), date(2027, 2, 21), date(2028, 1, 11)]
    assert left_out[0].skipped is not None
    assert left_out[0].skipped.ja == "1月11日（月）は出さない日（skip_dates）です。"


def test_a_date_left_out_is_not_moved_first() -> None:
    calendar = loaded(a_rule(monthdays=[11], skip_dates=["01-11"], on_closed_day="previous_business_day"))
    (run,) = runs_of(calendar, just_before(2027, 1, 1), just_before(2027, 2, 1))
    assert run.skipped is not None
    assert run.shifted is None


def test_where_no_day_is_open_the_run_is_skipped() -> None:
    shut = [(date(2027, 3, 1) + timedelta(days=n)).isoformat() for n in range(92)]
    calendar = loaded(a_rule(monthdays=[15], on_closed_day="next_business_day"), closed={"extra": shut})
    (run,) = runs_of(calendar, just_before(2027, 4, 1), just_before(2027, 5, 1))
    assert run.skipped is not None
    assert "31日以内に開庁日がない" in run.skipped.ja


# ---- odd months and odd times ---------------------------------------------------------------------------------------


def test_29_february_comes_in_leap_years_only() -> None:
    calendar = loaded(a_rule(monthdays=[29], months=[2]))
    runs = runs_of(calendar, just_before(2027, 1, 1), just_before(2037, 1, 1))
    assert [str(run.nominal_date) for run in runs] == ["2028-02-29", "2032-02-29", "2036-02-29"]


def test_the_next_leap_day_is_found_across_the_year_2100() -> None:
    calendar = loaded(a_rule(monthdays=[29], months=[2]))
    run = calendar.next_run(calendar.rules[0], datetime(2096, 3, 1, tzinfo=JST))
    assert run is not None
    assert run.nominal_date == date(2104, 2, 29)


def test_the_31st_comes_in_seven_months() -> None:
    runs = runs_of(loaded(a_rule(monthdays=[31])), just_before(2027, 1, 1), just_before(2028, 1, 1))
    assert [run.nominal_date.month for run in runs] == [1, 3, 5, 7, 8, 10, 12]


def test_24_o_clock_is_the_next_midnight() -> None:
    calendar = loaded(a_rule(monthdays=[31], months=[12], time="24:00"))
    (run,) = runs_of(calendar, just_before(2026, 12, 1), just_before(2027, 2, 1))
    assert run.planned_at == datetime(2027, 1, 1, 0, 0, tzinfo=JST)
    assert run.key == "a_rule/2026-12-31"


def test_a_weekday_is_the_day_of_that_name() -> None:
    for name, day in zip(WEEKDAYS, range(7, 14), strict=True):  # 7 December 2026 is a Monday
        runs = runs_of(loaded(a_rule(weekdays=[name])), just_before(2026, 12, 7), just_before(2026, 12, 14))
        assert [run.nominal_date.day for run in runs] == [day]


def test_a_run_due_at_the_end_of_an_interval_belongs_to_it_and_not_to_the_next() -> None:
    calendar = loaded(a_rule(daily=True, time="09:00"))
    nine = datetime(2026, 12, 2, 0, 0, tzinfo=UTC)  # 9 o'clock in Tokyo
    hour = timedelta(hours=1)
    assert [run.key for run in runs_of(calendar, nine - hour, nine)] == ["a_rule/2026-12-02"]
    assert runs_of(calendar, nine, nine + hour) == []


def test_the_next_run_passes_over_skipped_ones() -> None:
    calendar = loaded(a_rule(weekdays=["mon"], on_closed_day="skip"))
    run = calendar.next_run(calendar.rules[0], just_before(2027, 1, 11))
    assert run is not None
    assert run.nominal_date == date(2027, 1, 18)


def test_a_rule_whose_only_day_is_left_out_has_no_next_run() -> None:
    calendar = loaded(a_rule(monthdays=[29], months=[2], skip_dates=["02-29"]))
    assert calendar.next_run(calendar.rules[0], just_before(2027, 1, 1)) is None


# ---- whatever the rule ----------------------------------------------------------------------------------------------

START = datetime(2026, 11, 1, tzinfo=JST)
moments = st.integers(0, 160 * 24 * 60).map(lambda minute: START + timedelta(minutes=minute))
whens = st.one_of(
    st.just({"daily": True}),
    st.lists(st.sampled_from(WEEKDAYS), min_size=1, max_size=4, unique=True).map(lambda days: {"weekdays": days}),
    st.lists(st.integers(1, 31), min_size=1, max_size=6, unique=True).map(lambda days: {"monthdays": days}),
)
rules = st.builds(
    lambda when, policy, clock: a_rule(**when, on_closed_day=policy, time=clock),
    whens,
    st.sampled_from([str(policy) for policy in OnClosedDay]),
    st.sampled_from(["00:00", "07:00", "23:59", "24:00"]),
)


@trials(max_examples=40, deadline=None)
@given(rules, st.tuples(moments, moments, moments).map(sorted))
def test_intervals_compose(rule: dict[str, Any], bounds: list[datetime]) -> None:
    calendar, (a, b, c) = loaded(rule), bounds
    assert runs_of(calendar, a, b) + runs_of(calendar, b, c) == runs_of(calendar, a, c)


@trials(max_examples=40, deadline=None)
@given(rules)
def test_every_nominal_date_has_one_run(rule: dict[str, Any]) -> None:
    calendar = loaded(rule)
    runs = runs_of(calendar, START - timedelta(days=40), START + timedelta(days=200))
    seen = Counter(run.nominal_date for run in runs)
    days = [date(2026, 11, 1) + timedelta(days=n) for n in range(150)]
    assert all(seen[day] == calendar.rules[0].falls_on(day) for day in days)
    assert [run.planned_at for run in runs] == sorted(run.planned_at for run in runs)


@trials(max_examples=40, deadline=None)
@given(rules)
def test_no_moved_run_lands_on_a_closed_day(rule: dict[str, Any]) -> None:
    calendar = loaded(rule)
    for run in runs_of(calendar, START, START + timedelta(days=150)):
        assert not (run.shifted and run.skipped)
        if run.shifted:
            assert calendar.closed(run.date) is None
            assert run.planned_at == run.rule.at(run.date)


# ---- the words of a rule --------------------------------------------------------------------------------------------


def test_the_words_of_a_rule_make_a_notice(shipped: Almanac, settings: Settings) -> None:
    for rule in (rule for rule in shipped.rules if rule.text):
        words = {key: fill(text, {"year": "2026", "month": "12", "day": "11"}) for key, text in rule.text.items()}
        message = manuscript.read(
            {
                **words,
                "category": rule.category,
                "area": "whole",
                "language": rule.language,
                "channels": list(rule.channels),
                "expires_at": (NOW + timedelta(hours=rule.lasts_hours)).isoformat(),
            },
            ward=settings.ward,
            media=MEDIA,
            now=NOW,
        )
        assert message.info.headline == words["title"]


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "where", "told"),
    [
        ({"weekdays": [0]}, "weekdays", "曜日を数字（0）で書かないでください"),
        ({"weekdays": ["1"]}, "weekdays", "曜日を数字（1）で書かないでください"),
        ({"weekdays": ["friday"]}, "weekdays", "「friday」は曜日ではありません"),
        ({"time": "7:00"}, "time", "引用符と二桁ずつ"),
        ({"time": "24:01"}, "time", "引用符と二桁ずつ"),
        ({"time": "25:00"}, "time", "引用符と二桁ずつ"),
        ({"time": 7}, "time", "引用符と二桁ずつ"),
        ({"day": "fri"}, "day", "「day」という項目はありません"),
        ({"monthdays": [1]}, "daily, weekdays, monthdays", "どれか一つだけ"),
        ({"weekdays": []}, "daily, weekdays, monthdays", "どれか一つだけ"),
        ({"weekdays": [], "monthdays": [0]}, "monthdays", "1 から 31 まで"),
        ({"weekdays": [], "monthdays": [True]}, "monthdays", "1 から 31 まで"),
        ({"weekdays": [], "monthdays": [30], "months": [2]}, "monthdays", "一年のどこにもありません"),
        ({"months": [13]}, "months", "1 から 12 まで"),
        ({"months": []}, "months", "一つ以上"),
        ({"on_closed_day": "tomorrow"}, "on_closed_day", "previous_business_day"),
        ({"skip_dates": ["1/11"]}, "skip_dates", '"01-11"'),
        ({"skip_dates": ["20270111"]}, "skip_dates", '"01-11"'),
        ({"skip_dates": ["2027-01-12"]}, "skip_dates", "もともと出す日ではありません"),
        ({"late_minutes": 0}, "late_minutes", "1 から 10080 まで"),
        ({"late_minutes": "60"}, "late_minutes", "1 から 10080 まで"),
        ({"lasts_hours": 9000}, "lasts_hours", "1 から 8784 まで"),
        ({"text": "発行しました"}, "text", "表で書いて"),
        ({"text": {**TEXT, "headline": "題"}}, "text.headline", "「headline」という項目はありません"),
        ({"text": {**TEXT, "body": ""}}, "text.body", "body を書いてください"),
        ({"text": {**TEXT, "title": "{weekday}号"}}, "text.title", "「{weekday}」という欄はありません"),
        ({"by_hand": "yes"}, "by_hand", "true か false"),
        ({"language": "fr"}, "language", "扱っていません"),
        ({"channels": []}, "channels", "媒体"),
        ({"category": ""}, "category", "category を書いてください"),
        ({"id": "a/rule"}, "id", "英小文字"),
        ({"title": 5}, "title", "引用符で囲んだ文字"),
    ],
)
def test_a_slip_of_the_pen_is_refused_with_a_sentence(change: dict[str, Any], where: str, told: str) -> None:
    rule = {**a_rule(weekdays=["fri"]), **change}
    problems = refused({"rules": [rule]})
    assert [problem.where for problem in problems] == [f"schedule.toml: rules[{rule['id']}].{where}"]
    assert told in problems[0].ja
    assert problems[0].en


def test_every_problem_is_told_at_once() -> None:
    bad = {"id": "x", "weekdays": [5], "time": "noon"}
    wheres = [problem.where.rpartition(".")[2] for problem in refused({"rules": [bad], "holidays": {}})]
    assert wheres == ["toml: holidays", "title", "category", "channels", "time", "weekdays", "late_minutes"]


def test_one_id_cannot_be_used_twice() -> None:
    (problem,) = refused({"rules": [a_rule(daily=True), a_rule(daily=True)]})
    assert problem.en == "The id 'a_rule' is used twice."


def test_closed_days_are_read_with_care() -> None:
    table = {"closed": {"extra": ["2027-05-06", "6 May"], "open": ["2027-05-06"], "shut": []}}
    assert [problem.en for problem in refused(table)] == [
        "There is no key 'shut'.",
        "'6 May' is no date; write \"2027-05-06\".",
        "2027-05-06 stands in both extra and open.",
    ]


def test_an_empty_table_is_an_empty_calendar() -> None:
    assert almanac.load({}) == Almanac()


# ---- makers ---------------------------------------------------------------------------------------------------------


def a_rule(**keys: Any) -> dict[str, Any]:
    return {
        "id": "a_rule",
        "title": "お知らせ",
        "category": "notice",
        "channels": ["email"],
        "time": "12:00",
        "late_minutes": 60,
        **keys,
    }


def loaded(rule: dict[str, Any], *, closed: dict[str, Any] | None = None) -> Almanac:
    return almanac.load({"rules": [rule], "closed": closed or {}})


def refused(table: dict[str, Any]) -> tuple[Any, ...]:
    with pytest.raises(Refused) as caught:
        almanac.load(table)
    return caught.value.problems


def runs_of(calendar: Almanac, after: datetime, until: datetime) -> list[Run]:
    rule: Rule = calendar.rules[0]
    return list(calendar.runs(rule, after, until))


def just_before(year: int, month: int, day: int) -> datetime:
    return datetime(year, month, day, tzinfo=JST) - timedelta(microseconds=1)


def as_written(run: Run) -> str:
    assert run.skipped is None
    nominal = f"({run.nominal_date:%m-%d})" if run.shifted else ""
    return f"{run.planned_at:%m-%d}{nominal}"
