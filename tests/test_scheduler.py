"""The clock: every run once, at its hour, or skipped with its reason."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broadcaster.almanac import Almanac
from broadcaster.clock import FrozenClock, SystemClock, local
from broadcaster.lifecycle import State as Life
from broadcaster.scheduler import Scheduler
from broadcaster.settings import Settings
from broadcaster.signals import LocalSignals
from broadcaster.store import deliveries, issues, messages, plans
from broadcaster.store.database import Database
from broadcaster.store.plans import Plan
from tests.house import House, a_house
from tests.makers import a_notice
from tests.town import STAFF, Town, a_town

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


# On time, by the ledger's own instants

ACCURACY = timedelta(seconds=1)
"""What is promised."""

NOISE = timedelta(seconds=6)
"""What a busy machine may add: who is not woken is late by for ever."""


@pytest.fixture
def real_house(settings: Settings, tmp_path: Path, database_url: str) -> Iterator[House]:
    """With the time of day."""
    with a_house(settings, tmp_path, clock=SystemClock(), url=database_url) as house:
        yield house


@asynccontextmanager
async def at_work(*schedulers: Scheduler) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one.run()) for one in schedulers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def settled(database: Database, identifiers: Sequence[str], *, within_s: float = 60) -> dict[str, Plan]:
    """The plans of these sendings, once each is settled."""
    async with asyncio.timeout(within_s):
        while True:
            with database.read() as connection:
                found = {plan.key.removeprefix("issue/"): plan for plan in plans.newest(connection, 1_000)}
            mine = {identifier: found[identifier] for identifier in identifiers}
            if all(plan.settled_at for plan in mine.values()):
                return mine
            await asyncio.sleep(0.02)


def lateness(plan: Plan) -> timedelta:
    assert plan.state == "done", plan
    assert plan.settled_at is not None
    return plan.settled_at - plan.due_at


async def test_every_notice_goes_out_within_a_second_of_its_hour_and_never_before(real_house: House) -> None:
    async with at_work(scheduler(real_house)):
        after = [timedelta(milliseconds=500 + 230 * n) for n in range(12)]
        due = await asyncio.to_thread(
            lambda: [later(real_house, wait, identifier=f"13109-{n}") for n, wait in enumerate(after)]
        )
        done = await settled(real_house.database, due)
    late = sorted(lateness(plan) for plan in done.values())
    assert late[0] >= timedelta(0)
    assert late[len(late) // 2] <= ACCURACY
    assert late[-1] <= ACCURACY + NOISE
    with real_house.database.read() as connection:
        for identifier in due:
            issue = issues.get(connection, identifier)
            assert issue is not None
            assert timedelta(0) <= issue.sent_at - done[identifier].due_at <= ACCURACY + NOISE
            for delivery in deliveries.of_issue(connection, issue.id):
                assert timedelta(0) <= delivery.created_at - done[identifier].due_at <= ACCURACY + NOISE


async def test_what_somebody_planned_who_could_not_ring_is_on_time_too(real_house: House) -> None:
    """Killed between the transaction and the wake-up, or on another machine while Redis is dead."""
    dumb = replace(real_house, signals=LocalSignals())
    async with at_work(scheduler(real_house)):
        for number in range(3):
            identifier = await asyncio.to_thread(later, dumb, timedelta(milliseconds=100), identifier=f"13109-{number}")
            (plan,) = (await settled(real_house.database, [identifier])).values()
            assert lateness(plan) <= ACCURACY + NOISE


async def test_two_schedulers_at_work_give_one_run(real_house: House) -> None:
    other = replace(real_house, signals=LocalSignals())
    async with at_work(scheduler(real_house), scheduler(other)):
        due = await asyncio.to_thread(
            lambda: [later(real_house, timedelta(seconds=1), identifier=f"13109-{n}") for n in range(20)]
        )
        await settled(real_house.database, due)
    assert_one_run(real_house.database, due)


def assert_one_run(database: Database, identifiers: Sequence[str]) -> None:
    with database.read() as connection:
        sent = [issue.message.identifier for issue in issues.newest(connection, 1_000)]
        for identifier in identifiers:
            assert sent.count(identifier) == 1
            issue = issues.get(connection, identifier)
            assert issue is not None
            keys = [delivery.key for delivery in deliveries.of_issue(connection, issue.id)]
            assert len(keys) == len(set(keys))
            kept = messages.get(connection, identifier)
            assert kept is not None
            assert kept.state is Life.ISSUED


# Real processes


@pytest.fixture
def town(tmp_path: Path, database_url: str) -> Iterator[Town]:
    with a_town(tmp_path, url=database_url, BROADCASTER_LOG="INFO") as town:
        yield town


async def goes_to_work(town: Town, name: str) -> None:
    """A scheduler of this name, until it looks at the plan."""
    log = town.home / f"{name}.log"
    before = log.read_text().count("scheduler.started") if log.exists() else 0
    town.start(name, "schedule")
    await town.until(lambda: log.read_text().count("scheduler.started") > before)


def planned(town: Town, number: int, after: timedelta) -> str:
    """A notice for the boards, in so long."""
    now = town.app.clock.now()
    notice = replace(
        a_notice(town.app.settings, now=now, identifier=f"13109-{number}", channels=("rss", "dial")),
        sent_at=None,
        effective_at=now + after,
        expires_at=now + after + timedelta(hours=2),
    )
    return town.app.pipeline.hand_in(notice, STAFF).message.identifier


@pytest.mark.timeout(240)
async def test_two_real_schedulers_of_which_one_is_killed_in_the_due_second_give_one_run_on_time(town: Town) -> None:
    await asyncio.gather(*(goes_to_work(town, name) for name in ("one", "other")))
    identifiers = []
    for number in range(4):
        identifiers.append(planned(town, number, timedelta(seconds=1)))
        at = town.app.clock.now() + timedelta(seconds=1)
        await town.until(lambda at=at: town.app.clock.now() >= at)
        name = ("one", "other")[number % 2]
        town.kill(name)
        await goes_to_work(town, name)
    done = await settled(town.app.database, identifiers)
    assert_one_run(town.app.database, identifiers)
    for plan in done.values():
        assert timedelta(0) <= lateness(plan) <= ACCURACY + NOISE


@pytest.mark.timeout(240)
async def test_a_restart_in_the_due_second_gives_one_run(town: Town) -> None:
    """The only one is killed as they fall due: each was carried out before, or is by the next."""
    await goes_to_work(town, "only")
    waits = [timedelta(seconds=1, milliseconds=20 * n) for n in range(5)]
    identifiers = [planned(town, number, wait) for number, wait in enumerate(waits)]
    at = town.app.clock.now() + timedelta(seconds=1)
    await town.until(lambda: town.app.clock.now() >= at)
    town.kill("only")
    await goes_to_work(town, "only")
    await settled(town.app.database, identifiers)
    assert_one_run(town.app.database, identifiers)
