"""The clock: every run once, at its hour, or skipped with its reason."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broadcaster.almanac import Almanac
from broadcaster.clock import FrozenClock, local
from broadcaster.lifecycle import State as Life
from broadcaster.scheduler import Scheduler
from broadcaster.settings import Settings
from broadcaster.store import issues, messages, plans
from tests.house import House, a_house
from tests.makers import a_notice

MEDIA = ("noticeboard", "carrier", "billboard")
BEGIN = datetime(2026, 11, 30, 15, 0, tzinfo=UTC)  # midnight of 1 December in the ward


@pytest.fixture
def house(settings: Settings, tmp_path: Path, database_url: str) -> Iterator[House]:
    with a_house(settings, tmp_path, clock=FrozenClock(BEGIN), url=database_url) as house:
        yield house


def scheduler(house: House) -> Scheduler:
    """With the ward's own rules, sent by the channels of the house."""
    settings = replace(house.settings, enabled=MEDIA)
    made = Scheduler(house.pipeline, settings)
    rules = tuple(replace(rule, channels=MEDIA if not rule.by_hand else rule.channels) for rule in made.almanac.rules)
    made.almanac = replace(made.almanac, rules=rules)
    return made


def later(house: House, after: timedelta, **changes: object) -> str:
    at = house.clock.now() + after
    notice = replace(
        a_notice(house.settings, now=house.clock.now(), channels=MEDIA),
        sent_at=None,
        effective_at=at,
        expires_at=at + timedelta(hours=2),
        **changes,
    )
    return house.issues(notice).message.identifier


def state(house: House, identifier: str) -> Life:
    with house.database.read() as connection:
        kept = messages.get(connection, identifier)
    assert kept is not None
    return kept.state


def move(house: House, by: timedelta) -> None:
    assert isinstance(house.clock, FrozenClock)
    house.clock.move(by)


def test_a_scheduled_notice_goes_out_at_its_hour_and_leaves_at_its_end(house: House) -> None:
    identifier = later(house, timedelta(hours=1))
    clock = scheduler(house)
    clock.carry_out()
    assert state(house, identifier) is Life.SCHEDULED
    move(house, timedelta(hours=1))
    clock.carry_out()
    assert state(house, identifier) is Life.ISSUED
    move(house, timedelta(hours=2))
    clock.carry_out()
    assert state(house, identifier) is Life.EXPIRED


def test_what_fell_due_while_nobody_was_there_is_sent_when_it_still_holds(house: House) -> None:
    identifier = later(house, timedelta(hours=1))
    move(house, timedelta(hours=2))
    scheduler(house).carry_out()
    assert state(house, identifier) is Life.ISSUED


def test_nothing_is_sent_after_its_end(house: House) -> None:
    identifier = later(house, timedelta(hours=1))
    move(house, timedelta(hours=4))
    scheduler(house).carry_out()
    assert state(house, identifier) is Life.SKIPPED
    with house.database.read() as connection:
        plan = next(p for p in plans.newest(connection) if p.key == f"issue/{identifier}")
        assert issues.get(connection, identifier) is None
    assert "過ぎたため" in plan.reason


def test_two_schedulers_give_one_run(house: House) -> None:
    identifier = later(house, timedelta(hours=1))
    move(house, timedelta(hours=1))
    one, two = scheduler(house), scheduler(house)
    due = one._due()
    assert [plan.key for plan in due] == [plan.key for plan in two._due()]
    results = [who._carry_out(plan) for plan in due for who in (one, two) if plan.key == f"issue/{identifier}"]
    assert sorted(results) == [False, True]
    with house.database.read() as connection:
        assert sum(1 for issue in issues.newest(connection) if issue.message.identifier == identifier) == 1


def test_a_thousand_notices_due_together_are_all_settled(house: House) -> None:
    with house.database.write() as connection:
        for number in range(300):
            plans.add(connection, key=f"expire/{number}", kind="routine", due_at=BEGIN, rule="gone")
    assert scheduler(house).carry_out() >= 300
    with house.database.read() as connection:
        assert plans.due(connection, house.clock.now()) == []


def test_the_ward_s_routine_replayed_over_three_months(house: House) -> None:
    """Every run of every rule once; shifted and skipped ones with their reason; a restart every day."""
    assert isinstance(house.clock, FrozenClock)
    end = datetime(2027, 2, 28, 15, 0, tzinfo=UTC)
    while house.clock.now() < end:
        scheduler(house).carry_out()
        with house.database.read() as connection:
            due = plans.next_due_at(connection)
        house.clock.move_to(min(due or end, house.clock.now() + timedelta(days=1)))
    with house.database.read() as connection:
        rules = {rule.id: plans.of_rule(connection, rule.id) for rule in scheduler(house).almanac.rules}
    weekend = [plan for plan in rules["weekend_events"] if plan.due_at < end]
    assert len(weekend) == 13, "a Friday each week"
    by_day = {str(local(plan.due_at).date()): plan for plan in weekend}
    assert "1月1日（金）は" in by_day["2026-12-28"].reason, "New Year's Friday moved before the year-end closure"
    koho = [f"{local(plan.due_at):%m-%d %H:%M}" for plan in rules["koho_regular"] if plan.due_at < end]
    assert koho == [f"{m:02}-{d:02} 07:00" for m in (12, 1, 2) for d in (1, 11, 21)]
    for id, planned in rules.items():
        for plan in planned:
            if plan.due_at < end:
                assert plan.state in ("done", "skipped"), (id, plan)
                assert plan.state == "done" or plan.reason, (id, plan)
    assert len({plan.key for planned in rules.values() for plan in planned}) == sum(map(len, rules.values()))


def test_a_run_missed_by_too_much_is_skipped_with_its_reason(house: House) -> None:
    clock = scheduler(house)
    clock.carry_out()
    move(house, timedelta(days=1, hours=20))
    clock.carry_out()
    with house.database.read() as connection:
        first = plans.of_rule(connection, "koho_regular")[0]
    assert first.state == "skipped"
    assert re.search("動いていなかった", first.reason)


def test_the_rules_name_only_categories_and_media_that_exist(settings: Settings) -> None:
    from broadcaster import almanac

    table: Almanac = almanac.load(settings.schedule)
    for rule in table.rules:
        if not rule.by_hand:
            assert settings.ward.category(rule.category), rule.id
            for name in rule.channels:
                assert name in settings.enabled or name in settings.ward.by_hand, (rule.id, name)
