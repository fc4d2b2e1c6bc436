"""The clock when much falls due at one hour: made ready before, put together, and still each run once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from broadcaster import pipeline as path
from broadcaster import scheduler as clockwork
from broadcaster.channel import Payload
from broadcaster.clock import FrozenClock, SystemClock
from broadcaster.lifecycle import Move
from broadcaster.lifecycle import State as Life
from broadcaster.message import Message, Mode
from broadcaster.scheduler import Scheduler
from broadcaster.settings import Settings
from broadcaster.store import audit, database, deliveries, issues, messages, meta, plans, recipients
from broadcaster.store.database import Database, StoreError
from broadcaster.store.deliveries import Delivery
from tests.house import OWN_MEDIA, House, a_house
from tests.makers import a_notice, an_alert

BEGIN = datetime(2026, 11, 30, 15, 0, tzinfo=UTC)
HOUR = BEGIN + timedelta(hours=1)


@pytest.fixture
def house(settings: Settings, tmp_path: Path, database_url: str) -> Iterator[House]:
    with a_house(settings, tmp_path, clock=FrozenClock(BEGIN), url=database_url) as house:
        yield house


def scheduler(house: House) -> Scheduler:
    """Without rules: only what staff planned."""
    made = Scheduler(house.another_pipeline(), replace(house.settings, enabled=OWN_MEDIA))
    made.almanac = replace(made.almanac, rules=())
    return made


def notice(house: House, number: int, *, at: datetime = HOUR, mode: Mode = Mode.LIVE) -> Message:
    return replace(
        a_notice(
            house.settings,
            now=BEGIN,
            channels=OWN_MEDIA,
            mode=mode,
            identifier=f"13109-{mode.value}-{number}",
            title=f"{'【訓練】' if mode is Mode.DRILL else ''}お知らせ {number}",
        ),
        sent_at=None,
        effective_at=at,
        expires_at=at + timedelta(hours=2),
    )


def plan_many(house: House, number: int, **changes: Any) -> list[str]:
    made = [notice(house, n, **changes) for n in range(number)]
    for message in made:
        house.issues(message)
    return [message.identifier for message in made]


def at(house: House, instant: datetime) -> None:
    assert isinstance(house.clock, FrozenClock)
    house.clock.move_to(instant)


def state(house: House, identifier: str) -> Life:
    with house.database.read() as connection:
        kept = messages.get(connection, identifier)
    assert kept is not None
    return kept.state


def issued(house: House) -> list[str]:
    """In the order in which they went out."""
    with house.database.read() as connection:
        found = sorted(issues.newest(connection, 1000), key=lambda issue: issue.id)
    return [issue.message.identifier for issue in found]


def rows(house: House, identifiers: list[str]) -> list[tuple[object, ...]]:
    """Everything that was written of these, without the numbers of rows."""
    written: list[tuple[object, ...]] = []
    with house.database.read() as connection:
        for identifier in identifiers:
            issue = issues.get(connection, identifier)
            kept = messages.get(connection, identifier)
            assert issue is not None
            assert kept is not None
            assert kept.issued_as == issue.id
            written.append((kept.state, kept.version, replace(issue, id=0, message_id=0)))
            of_issue = deliveries.of_issue(connection, issue.id)
            names = {d.id: d.key for d in of_issue}
            written += [
                (replace(d, id=0, issue_id=0, after_id=None), d.after_id and names[d.after_id]) for d in of_issue
            ]
        of_these = {name for identifier in identifiers for name in (f"issue/{identifier}", f"expire/{identifier}")}
        found = sorted(plans.newest(connection, 1000), key=lambda plan: plan.key)
        written += [plan._replace(id=0, message_id=None) for plan in found if plan.key in of_these]
        written += sorted(
            (entry.act, entry.object, entry.at, entry.actor, entry.detail)
            for entry in audit.entries(connection)
            if entry.act == "message.issued"
        )
        assert audit.first_fault(connection) is None
    return written


def test_many_notices_of_one_hour_leave_what_each_alone_would_have_left(
    settings: Settings, tmp_path: Path, house: House
) -> None:
    one_by_one = tmp_path / "alone"
    one_by_one.mkdir()
    with a_house(settings, one_by_one, clock=FrozenClock(BEGIN)) as alone:
        for each in (house, alone):
            plan_many(each, 20)
            plan_many(each, 3, mode=Mode.DRILL)
        identifiers = [f"13109-live-{n}" for n in range(20)] + [f"13109-drill-{n}" for n in range(3)]
        clock, other = scheduler(house), scheduler(alone)
        at(house, HOUR - timedelta(seconds=30))
        assert clock.make_ready() == 23
        at(house, HOUR)
        at(alone, HOUR)
        assert clock.carry_out() == 23
        due = other._due()
        assert all(other._carry_out(plan) for plan in due)
        assert len(due) == 23
        assert rows(house, identifiers) == rows(alone, identifiers)


def test_a_part_goes_after_the_part_before_it(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    two = [
        Payload(part="1", content={"text": "前"}),
        Payload(part="2", content={"text": "後"}, after="1"),
    ]
    monkeypatch.setattr(type(house.billboard), "compose", lambda self, message: two)
    identifiers = plan_many(house, 2)
    at(house, HOUR)
    assert scheduler(house).carry_out() == 2
    with house.database.read() as connection:
        for identifier in identifiers:
            issue = issues.get(connection, identifier)
            assert issue is not None
            posts = {d.part: d for d in deliveries.of_issue(connection, issue.id) if d.channel == "billboard"}
            assert posts["2"].after_id == posts["1"].id
            assert posts["1"].after_id is None


async def test_every_reader_gets_every_notice_of_the_hour(house: House) -> None:
    house.readers(30)
    identifiers = plan_many(house, 4)
    at(house, HOUR)
    assert scheduler(house).carry_out() == 4
    await house.sends(*identifiers)
    for identifier in identifiers:
        counts = house.counts(identifier)
        assert (counts.delivered, counts.total) == (30, 30)


def test_a_notice_of_the_hour_was_sent_at_its_hour_and_a_late_one_when_it_went(house: House) -> None:
    on_time, late = plan_many(house, 2), [notice(house, n, at=HOUR + timedelta(minutes=1)) for n in (7, 8)]
    for message in late:
        house.issues(message)
    clock = scheduler(house)
    at(house, HOUR - timedelta(seconds=5))
    assert clock.make_ready() == 2, "the others are not due within a minute"
    at(house, HOUR + timedelta(milliseconds=400))
    clock.carry_out()
    at(house, HOUR + timedelta(seconds=50))
    assert clock.make_ready() == 2
    at(house, HOUR + timedelta(minutes=3))
    clock.carry_out()
    with house.database.read() as connection:
        sent = {issue.message.identifier: issue.sent_at for issue in issues.newest(connection)}
    assert {sent[identifier] for identifier in on_time} == {HOUR}
    assert {sent[message.identifier] for message in late} == {HOUR + timedelta(minutes=3)}


def test_what_was_made_ready_and_then_withdrawn_does_not_go(house: House) -> None:
    gone, *stay = plan_many(house, 4)
    clock = scheduler(house)
    at(house, HOUR - timedelta(seconds=30))
    assert clock.make_ready() == 4
    with house.database.write() as connection:
        kept = messages.get(connection, gone)
        assert kept is not None
        messages.move(connection, kept, Move.WITHDRAW)
    at(house, HOUR)
    clock.carry_out()
    assert issued(house) == stay
    with house.database.read() as connection:
        reasons = {plan.key: (plan.state, plan.reason) for plan in plans.newest(connection)}
    assert reasons[f"issue/{gone}"][0] == "skipped"
    assert "予約ではなく" in reasons[f"issue/{gone}"][1]


def test_words_of_another_version_are_composed_again(house: House) -> None:
    identifiers = plan_many(house, 3)
    clock = scheduler(house)
    at(house, HOUR - timedelta(seconds=30))
    clock.make_ready()
    for ready in clock._ready.values():  # as if each had been read one version earlier
        object.__setattr__(ready, "kept", replace(ready.kept, version=ready.kept.version - 1))
        object.__setattr__(ready, "issue", {**ready.issue, "document": "{}"})
    at(house, HOUR)
    assert clock.carry_out() == 3
    with house.database.read() as connection:
        found = {issue.message.identifier: issue.message.info.headline for issue in issues.newest(connection)}
    assert found == {identifier: f"お知らせ {n}" for n, identifier in enumerate(identifiers)}


def test_two_schedulers_that_both_made_ready_give_each_run_once(house: House) -> None:
    identifiers = plan_many(house, 40)
    one, two = scheduler(house), scheduler(house)
    at(house, HOUR - timedelta(seconds=30))
    one.make_ready()
    two.make_ready()
    at(house, HOUR)
    mine, theirs = one._due(), two._due()
    settled = one._carry_out_all(mine[:25]) + two._carry_out_all(theirs) + one._carry_out_all(mine[25:])
    assert settled == 40
    assert sorted(issued(house)) == sorted(identifiers)


async def test_two_schedulers_at_the_same_moment_give_each_run_once(house: House) -> None:
    identifiers = plan_many(house, 60)
    at(house, HOUR)
    settled = await asyncio.gather(*(asyncio.to_thread(scheduler(house).carry_out) for _ in range(2)))
    assert sum(settled) == 60
    assert sorted(issued(house)) == sorted(identifiers)


def test_a_scheduler_that_ended_in_the_middle_is_carried_on_by_the_next(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    identifiers = plan_many(house, 40)
    at(house, HOUR)
    bundles = 0

    def killed(_: float) -> None:
        nonlocal bundles
        bundles += 1
        if bundles == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(clockwork.time, "sleep", killed)
    with pytest.raises(KeyboardInterrupt):
        scheduler(house).carry_out()
    assert len(issued(house)) == 2 * clockwork.TOGETHER
    monkeypatch.undo()
    scheduler(house).carry_out()
    assert issued(house) == identifiers


def test_an_alert_of_the_same_hour_goes_before_the_notices(house: House) -> None:
    notices = plan_many(house, 20)
    alert = replace(
        an_alert(house.settings, now=BEGIN, channels=OWN_MEDIA),
        sent_at=None,
        effective_at=HOUR,
        expires_at=HOUR + timedelta(hours=2),
    )
    house.issues(alert)
    clock = scheduler(house)
    at(house, HOUR - timedelta(seconds=30))
    clock.make_ready()
    at(house, HOUR)
    clock.carry_out()
    assert issued(house) == [alert.identifier, *notices]


def test_nothing_that_was_made_ready_goes_out_after_its_end(house: House) -> None:
    identifiers = plan_many(house, 3)
    clock = scheduler(house)
    at(house, HOUR - timedelta(seconds=30))
    assert clock.make_ready() == 3
    at(house, HOUR + timedelta(hours=2))
    clock.carry_out()
    assert issued(house) == []
    assert {state(house, identifier) for identifier in identifiers} == {Life.SKIPPED}


def test_what_is_too_much_for_a_medium_is_skipped_with_its_reason_and_the_rest_goes(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(path, "MOST_WAITING", 7)
    identifiers = plan_many(house, 10)
    at(house, HOUR)
    scheduler(house).carry_out()
    assert issued(house) == identifiers[:7]
    with house.database.read() as connection:
        reasons = [plan.reason for plan in plans.newest(connection, 1000) if plan.state == "skipped"]
    assert len(reasons) == 3
    assert all("待っています" in reason for reason in reasons)


def test_a_bundle_that_the_database_refuses_leaves_nothing_of_itself(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    identifiers = plan_many(house, 5)
    at(house, HOUR)
    clock = scheduler(house)

    def full(*_: object, **__: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as broken:
        broken.setattr(audit, "write_together", full)
        with pytest.raises(OSError, match="disk full"):
            clock.carry_out()
    assert issued(house) == []
    assert {state(house, identifier) for identifier in identifiers} == {Life.SCHEDULED}
    assert clock.carry_out() == 5


def test_a_drill_s_mark_is_on_everything_that_goes_together(house: House) -> None:
    identifiers = plan_many(house, 3, mode=Mode.DRILL)
    at(house, HOUR)
    assert scheduler(house).carry_out() == 3
    with house.database.read() as connection:
        for identifier in identifiers:
            issue = issues.get(connection, identifier)
            assert issue is not None
            found: list[Delivery] = list(deliveries.of_issue(connection, issue.id))
            assert all(d.mode is Mode.DRILL for d in found)
            assert all("訓練" in json.dumps(dict(d.payload.content), ensure_ascii=False) for d in found if d.payload)


def test_readers_are_looked_for_as_the_fan_out_would(house: House) -> None:
    audience = {"language": "ja", "format": "text", "topic": 8, "districts": 1, "is_drill": False}

    def both(**changes: object) -> tuple[bool, bool]:
        asked = {**audience, **changes}
        with house.database.read() as connection:
            return recipients.has_readers(connection, asked), recipients.head_count(connection, asked) > 0

    assert both() == (False, False)
    house.readers(3, topics=8, districts=3)
    assert both() == (True, True)
    for other in ({"topic": 4}, {"districts": 4}, {"language": "en"}, {"format": "html"}, {"is_drill": True}):
        assert both(**other) == (False, False), other


# The tick


def test_an_idle_tick_asks_nobody(house: House) -> None:
    clock = scheduler(house)
    clock._looked_at, clock._look_at = BEGIN, BEGIN + timedelta(seconds=5)
    house.database.close()
    for seconds in range(5):
        at(house, BEGIN + timedelta(seconds=seconds))
        clock._tick()
    assert not clock._look.is_set()


@pytest.mark.parametrize("to", [timedelta(seconds=5), timedelta(hours=9), timedelta(microseconds=-1)])
def test_a_tick_looks_when_it_is_time_and_when_the_clock_has_jumped(house: House, to: timedelta) -> None:
    clock = scheduler(house)
    clock._looked_at, clock._look_at = BEGIN, BEGIN + timedelta(seconds=5)
    at(house, BEGIN + to)
    clock._tick()
    assert clock._look.is_set()


async def test_a_notice_planned_while_it_runs_goes_at_its_hour(settings: Settings, tmp_path: Path) -> None:
    """With nothing but the ring to tell of it: the next look of its own would come seconds later."""
    with a_house(settings, tmp_path, clock=SystemClock()) as house:
        clock = scheduler(house)
        clock._trusted = timedelta(hours=1)
        task = asyncio.create_task(clock.run())
        try:
            async with asyncio.timeout(20):
                while clock._look_at < house.clock.now() + timedelta(minutes=30):
                    await asyncio.sleep(0.01)
                hour = house.clock.now() + timedelta(seconds=0.5)
                for n in range(3):
                    house.issues(notice(house, n, at=hour))
                while len(issued(house)) < 3:
                    await asyncio.sleep(0.02)
            with house.database.read() as connection:
                assert all(issue.sent_at >= hour for issue in issues.newest(connection))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def test_one_notice_alone_and_what_is_far_off_are_not_made_ready(house: House) -> None:
    house.issues(notice(house, 0))
    house.issues(notice(house, 1, at=HOUR + timedelta(hours=1)))
    clock = scheduler(house)
    assert clock.make_ready() == 0
    at(house, HOUR - timedelta(seconds=30))
    assert clock.make_ready() == 0


def test_making_ready_gives_way_to_a_ring_and_still_comes_forward(house: House) -> None:
    plan_many(house, 40)
    clock = scheduler(house)
    at(house, HOUR - timedelta(seconds=30))
    clock._look.set()
    assert [clock.make_ready() for _ in range(4)] == [16, 32, 40, 40]


def test_making_ready_stops_for_what_is_due(house: House) -> None:
    plan_many(house, 5)
    clock = scheduler(house)
    at(house, HOUR)
    assert clock.make_ready() == 0


async def test_a_look_that_failed_is_repeated_with_the_next_tick(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = scheduler(house)

    def away() -> None:
        raise StoreError("the database does not answer")

    with monkeypatch.context() as broken:
        broken.setattr(clock, "carry_out", away)
        await clock._looks()
    clock._tick()
    assert clock._look.is_set()


# The lock, which the morning's notices must leave to an emergency


def test_whoever_waits_for_sqlite_s_lock_asks_for_it_every_millisecond(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'lock.sqlite3'}"
    bulk, emergency = Database(url), Database(url)
    bulk.upgrade()
    with emergency.write():
        pass
    pauses: list[float] = []
    holding = bulk.write()
    holding.__enter__()

    def sleeps(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 300:
            holding.__exit__(None, None, None)

    monkeypatch.setattr(database.time, "sleep", sleeps)
    with emergency.write() as connection:
        meta.put(connection, "who", "emergency")
    assert pauses == [database.ASK_AGAIN_S] * 300, "never longer, however long it takes"
    for each in (bulk, emergency):
        each.close()


def test_a_lock_that_is_never_given_up_ends_in_an_error_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_MS", 50)
    url = f"sqlite:///{tmp_path / 'lock.sqlite3'}"
    holder, other = Database(url), Database(url)
    holder.upgrade()
    with holder.write(), pytest.raises(StoreError, match="locked"), other.write():
        pass
    with other.write() as connection:
        meta.put(connection, "who", "other")
    for each in (holder, other):
        each.close()
