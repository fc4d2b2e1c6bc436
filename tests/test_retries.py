"""Trying again: how often and until when, and what a change does to whatever is being tried."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from broadcaster import worker
from broadcaster.channel import (
    ChannelClosed,
    Outcome,
    OutcomeUnknown,
    PermanentFailure,
    Receipt,
    TemporaryFailure,
)
from broadcaster.clock import FrozenClock, minutes, seconds
from broadcaster.delivery import Lane, State, Tried
from broadcaster.lifecycle import MoveNotAllowed
from broadcaster.message import Change, Message, Mode
from broadcaster.problems import Refused
from broadcaster.settings import Settings
from broadcaster.store import deliveries, issues, workers
from broadcaster.store.messages import ChangedMeanwhile
from tests.house import STAFF, House, a_house, alert, notice
from tests.makers import NOW

NOT_NOW = TemporaryFailure("not now")


@pytest.fixture
def house(settings: Settings, tmp_path: Path, database_url: str) -> Iterator[House]:
    with a_house(settings, tmp_path, url=database_url) as house:
        yield house


@pytest.fixture
def frozen(settings: Settings, tmp_path: Path, database_url: str) -> Iterator[House]:
    with a_house(settings, tmp_path, url=database_url, clock=FrozenClock(NOW)) as house:
        yield house


def move(house: House, by: timedelta) -> None:
    assert isinstance(house.clock, FrozenClock)
    house.clock.move(by)
    house.signals.notify()


async def tried(house: House, identifier: str, number: int) -> timedelta:
    """Wait until the post's `number`-th attempt is written down; gives how long it waits for the next."""

    def is_written() -> bool:
        post = house.delivery(identifier, "billboard")
        return post.attempts >= number and post.state is not State.IN_FLIGHT

    await house.until(is_written)
    return house.delivery(identifier, "billboard").due_at - house.clock.now()


# How often, and until when


async def test_an_alert_is_tried_after_1_2_4_8_and_then_15_seconds_until_it_arrives(frozen: House) -> None:
    frozen.billboard.fails = NOT_NOW
    kept = frozen.issues(alert(frozen))
    waits = []
    async with frozen.sender():
        for number in range(1, 8):
            waits.append(await tried(frozen, kept.message.identifier, number))
            move(frozen, waits[-1])
        frozen.billboard.fails = None
        move(frozen, seconds(15))
        await frozen.until_settled(kept.message.identifier)
    for wait, longest in zip(waits, (1, 2, 4, 8, 15, 15, 15), strict=True):
        assert seconds(longest / 2) <= wait <= seconds(longest)
    assert frozen.states(kept.message.identifier)["billboard/1"] is State.DELIVERED
    assert len(frozen.billboard.shown) == 1


@pytest.mark.parametrize("failure", [NOT_NOW, OutcomeUnknown("no answer"), KeyError("reader@mail-1.example")])
async def test_a_routine_post_is_tried_eight_times_and_then_a_person_decides(frozen: House, failure: Exception) -> None:
    frozen.billboard.fails = failure
    kept = frozen.issues(notice(frozen, expires_at=NOW + timedelta(days=9)))
    async with frozen.sender():
        for number in range(1, 9):
            wait = await tried(frozen, kept.message.identifier, number)
            assert wait <= minutes(30)
            move(frozen, max(wait, minutes(3)))
        await frozen.until_settled(kept.message.identifier)
    post = frozen.delivery(kept.message.identifier, "billboard")
    assert post.state is (State.FAILED if failure is NOT_NOW else State.UNKNOWN)
    assert post.attempts == 8
    assert "mail-1" not in post.detail
    with frozen.database.read() as connection:
        assert [d.id for d in deliveries.to_decide(connection)] == [post.id]


async def test_a_routine_post_that_hangs_is_given_up_as_well(frozen: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "LONGEST_TRY", seconds(0.02))
    frozen.billboard.gate = asyncio.Event()
    kept = frozen.issues(notice(frozen, expires_at=NOW + timedelta(days=9)))
    async with frozen.sender():
        for number in range(1, 9):
            move(frozen, max(await tried(frozen, kept.message.identifier, number), minutes(3)))
        await frozen.until_settled(kept.message.identifier)
    assert frozen.states(kept.message.identifier)["billboard/1"] is State.UNKNOWN
    assert frozen.billboard.looks == 7, "before each further try it was looked whether the last one had arrived"


@pytest.mark.parametrize("make", [alert, notice])
@pytest.mark.parametrize("failure", [NOT_NOW, ChannelClosed("the key was refused")])
async def test_what_cannot_be_sent_before_its_end_is_stopped_with_the_reason(
    frozen: House, make: Callable[[House], Message], failure: Exception
) -> None:
    frozen.billboard.fails = failure
    kept = frozen.issues(make(frozen))
    async with frozen.sender():
        await tried(frozen, kept.message.identifier, 1)
        move(frozen, kept.message.expires_at - NOW)
        await frozen.until_settled(kept.message.identifier)
    post = frozen.delivery(kept.message.identifier, "billboard")
    assert (post.state, post.detail) == (State.STOPPED, "掲載の終わりが来ました。")
    assert frozen.billboard.shown == []


async def test_a_closed_medium_does_not_use_up_the_tries_of_a_notice(frozen: House) -> None:
    frozen.billboard.fails = ChannelClosed("the key was refused")
    kept = frozen.issues(notice(frozen, expires_at=NOW + timedelta(days=9)))
    async with frozen.sender():
        for number in range(1, 12):
            move(frozen, max(await tried(frozen, kept.message.identifier, number), minutes(3)))
        frozen.billboard.fails = None
        move(frozen, minutes(30))
        await frozen.until_settled(kept.message.identifier)
    assert frozen.states(kept.message.identifier)["billboard/1"] is State.DELIVERED


async def test_a_medium_that_names_a_year_far_away_is_asked_again_all_the_same(frozen: House) -> None:
    frozen.billboard.fails = TemporaryFailure("429", retry_at=NOW.replace(year=2199))
    urgent = frozen.issues(alert(frozen))
    routine = frozen.issues(notice(frozen))
    async with frozen.sender():
        assert await tried(frozen, urgent.message.identifier, 1) == minutes(15)
        assert await tried(frozen, routine.message.identifier, 1) == timedelta(hours=25)


async def test_a_board_that_cannot_be_written_is_tried_until_it_is(frozen: House) -> None:
    frozen.noticeboard.fails = PermanentFailure("the folder may not be written")
    kept = frozen.issues(notice(frozen))
    number = 0
    async with frozen.sender():
        while number < 12:
            number += 1
            await frozen.until(
                lambda number=number: (
                    (board := frozen.delivery(kept.message.identifier, "noticeboard")).attempts >= number
                    and board.state is State.QUEUED
                )
            )
            move(frozen, minutes(2))
        frozen.noticeboard.fails = None
        move(frozen, minutes(2))
        await frozen.until_settled(kept.message.identifier)
    assert frozen.states(kept.message.identifier)["noticeboard/board"] is State.DELIVERED
    assert kept.message.info.headline in frozen.noticeboard.pages["noticeboard.txt"]


async def test_a_resting_medium_is_spared_by_routine_and_not_by_an_alert(frozen: House) -> None:
    frozen.billboard.fails = NOT_NOW
    first = [frozen.issues(notice(frozen, identifier=f"13109-n{n}")) for n in range(5)]
    async with frozen.sender():
        for kept in first:
            await tried(frozen, kept.message.identifier, 1)
        late = frozen.issues(notice(frozen, identifier="13109-late"))
        urgent = frozen.issues(alert(frozen))
        await tried(frozen, urgent.message.identifier, 1)
        assert frozen.delivery(late.message.identifier, "billboard").attempts == 0, "five failures have opened it"
        frozen.billboard.fails = None
        move(frozen, minutes(2))
        await frozen.until_settled(*(k.message.identifier for k in (*first, late, urgent)))
    assert len(frozen.billboard.shown) == 7


# A change against a retry


@pytest.mark.parametrize("change", list(Change))
async def test_what_waits_for_its_next_try_does_not_leave_after_a_change(frozen: House, change: Change) -> None:
    frozen.billboard.failures = [NOT_NOW]
    kept = frozen.issues(alert(frozen))
    async with frozen.sender():
        await tried(frozen, kept.message.identifier, 1)
        after = frozen.pipeline.change(kept.message.identifier, change, STAFF)
        move(frozen, seconds(15))
        await frozen.until_settled(kept.message.identifier, after.message.identifier)
    assert frozen.billboard.shown == [f"{after.message.identifier}/billboard/1"]
    post = frozen.delivery(kept.message.identifier, "billboard")
    assert (post.state, post.detail) == (State.STOPPED, f"{after.message.identifier} が替わりました。")
    assert frozen.billboard.retracted == []


@pytest.mark.parametrize("change", list(Change))
async def test_what_arrives_after_a_change_is_taken_back(house: House, change: Change) -> None:
    gate = house.billboard.gate = asyncio.Event()
    kept = house.issues(alert(house))
    async with house.sender():
        await house.until(lambda: house.billboard.at_gate)
        after = house.pipeline.change(kept.message.identifier, change, STAFF)
        gate.set()
        await house.until_settled(kept.message.identifier, after.message.identifier)
    assert house.states(kept.message.identifier)["billboard/1"] is State.DELIVERED, "it did arrive: the record says so"
    assert house.billboard.retracted == ["wall 1"]
    assert house.billboard.shown[-1] == f"{after.message.identifier}/billboard/1"


@pytest.mark.parametrize(
    ("failure", "ends"), [(NOT_NOW, State.STOPPED), (PermanentFailure("never"), State.FAILED)], ids=["not now", "never"]
)
async def test_what_fails_on_the_wire_while_it_is_cancelled_is_not_tried_again(
    house: House, failure: Exception, ends: State
) -> None:
    gate = house.billboard.gate = asyncio.Event()
    house.billboard.failures = [failure]
    kept = house.issues(alert(house))
    async with house.sender():
        await house.until(lambda: house.billboard.at_gate)
        after = house.pipeline.change(kept.message.identifier, Change.CANCEL, STAFF)
        gate.set()
        await house.until_settled(kept.message.identifier, after.message.identifier)
    assert house.states(kept.message.identifier)["billboard/1"] is ends
    assert f"{kept.message.identifier}/billboard/1" not in house.billboard.shown
    assert house.billboard.retracted == []


@pytest.mark.parametrize("change", list(Change))
async def test_a_post_in_doubt_is_looked_for_after_a_change_and_taken_back(frozen: House, change: Change) -> None:
    frozen.billboard.drops = 1
    kept = frozen.issues(alert(frozen))
    async with frozen.sender():
        await tried(frozen, kept.message.identifier, 1)
        after = frozen.pipeline.change(kept.message.identifier, change, STAFF)
        move(frozen, seconds(15))
        await frozen.until_settled(kept.message.identifier, after.message.identifier)
    assert frozen.states(kept.message.identifier)["billboard/1"] is State.DELIVERED
    assert frozen.billboard.retracted == ["found"], "or it would stand for ever, and nobody know"
    assert frozen.billboard.shown.count(f"{kept.message.identifier}/billboard/1") == 1


async def test_a_post_in_doubt_that_did_not_arrive_is_stopped_by_a_cancel(frozen: House) -> None:
    frozen.billboard.failures = [OutcomeUnknown("no answer")]
    kept = frozen.issues(alert(frozen))
    async with frozen.sender():
        await tried(frozen, kept.message.identifier, 1)
        after = frozen.pipeline.change(kept.message.identifier, Change.CANCEL, STAFF)
        move(frozen, seconds(15))
        await frozen.until_settled(kept.message.identifier, after.message.identifier)
    assert frozen.states(kept.message.identifier)["billboard/1"] is State.STOPPED
    assert frozen.billboard.looks == 1
    assert frozen.billboard.retracted == []


@pytest.mark.parametrize("blind", [OutcomeUnknown("cannot be asked"), NOT_NOW, ChannelClosed("no key")])
async def test_a_post_in_doubt_that_cannot_be_looked_for_ends_as_unknown(frozen: House, blind: Exception) -> None:
    frozen.billboard.drops, frozen.billboard.blind = 1, blind
    kept = frozen.issues(alert(frozen))
    async with frozen.sender():
        for number in (1, 2, 3):
            wait = await tried(frozen, kept.message.identifier, number)
            move(frozen, wait)
        move(frozen, kept.message.expires_at - NOW)
        await frozen.until_settled(kept.message.identifier)
    assert frozen.states(kept.message.identifier)["billboard/1"] is State.UNKNOWN
    assert len(frozen.billboard.shown) == 1, "and was never posted twice"


async def test_letters_that_wait_for_their_next_try_are_stopped_by_a_cancel(frozen: House) -> None:
    frozen.readers(20)
    frozen.carrier.outcome = lambda letter: (
        Outcome(failure=NOT_NOW, stage="RCPT") if letter.domain == "mail-3.example" else Outcome(receipt=Receipt("250"))
    )
    kept = frozen.issues(alert(frozen))
    identifier = kept.message.identifier
    async with frozen.sender():
        await frozen.until(lambda: frozen.counts(identifier).delivered == 16 and frozen.counts(identifier).queued == 4)
        after = frozen.pipeline.change(identifier, Change.CANCEL, STAFF)
        frozen.carrier.outcome = lambda letter: Outcome(receipt=Receipt("250"))
        move(frozen, seconds(15))
        await frozen.until_settled(identifier, after.message.identifier)
    counts = frozen.counts(identifier)
    assert (counts.delivered, counts.stopped, counts.total) == (16, 4, 20)
    assert frozen.counts(after.message.identifier).delivered == 16, "who has it is told, and nobody else"


# At the same moment


def at_once(*acts: Callable[[], object]) -> list[object]:
    """Do all of these at the same moment, each in a thread of its own; gives what each gave or raised."""
    start = threading.Barrier(len(acts))
    results: list[object] = [None] * len(acts)

    def run(place: int, act: Callable[[], object]) -> None:
        start.wait(10)
        try:
            results[place] = act()
        except Exception as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


ROUNDS = 8


def test_of_two_approvals_at_the_same_moment_one_counts(house: House) -> None:
    for n in range(ROUNDS):
        kept = house.pipeline.propose(notice(house, identifier=f"13109-n{n}"), STAFF)
        results = at_once(
            *(
                partial(house.another_pipeline().approve, kept.message.identifier, replace(STAFF, name=name))
                for name in ("one", "two")
            )
        )
        losers = [result for result in results if isinstance(result, Exception)]
        assert len(losers) == 1
        assert isinstance(losers[0], ChangedMeanwhile | MoveNotAllowed), repr(losers[0])
    with house.database.read() as connection:
        assert len(issues.newest(connection)) == ROUNDS


@pytest.mark.parametrize(
    "changes",
    [
        (Change.CANCEL, Change.CANCEL),
        (Change.CANCEL, Change.UPDATE),
        (Change.CORRECTION, Change.ALL_CLEAR),
        (Change.UPDATE, Change.UPDATE, Change.CANCEL),
    ],
    ids=lambda changes: " and ".join(changes),
)
def test_of_two_changes_at_the_same_moment_one_stands_and_the_other_is_told(
    house: House, changes: tuple[Change, ...]
) -> None:
    for n in range(ROUNDS):
        kept = house.issues(alert(house, identifier=f"13109-a{n}"))
        identifier = kept.message.identifier
        results = at_once(*(partial(house.another_pipeline().change, identifier, change, STAFF) for change in changes))
        losers = [result for result in results if isinstance(result, Exception)]
        assert len(losers) == len(changes) - 1
        with house.database.read() as connection:
            first = issues.get(connection, identifier)
            standing = issues.in_force(connection, Mode.LIVE, house.clock.now())
        assert first is not None
        assert first.ended_by is not None
        assert first.ended_by in {issue.message.identifier for issue in standing}
        assert identifier not in {issue.message.identifier for issue in standing}
        for loser in losers:
            assert isinstance(loser, Refused), repr(loser)
            assert first.ended_by in loser.problems[0].ja, "with a sentence that says what to change instead"
        assert len([i for i in standing if i.message.references[-1].identifier == identifier]) == 1


@pytest.mark.parametrize("first", ["record", "cancel"])
def test_a_post_that_is_recorded_at_the_moment_of_its_cancel_is_taken_back(house: House, first: str) -> None:
    """Whichever transaction is open first: the post must not stand because each looked away from the other."""
    kept = house.issues(alert(house))
    identifier = kept.message.identifier
    with house.database.write() as connection:
        number = workers.enlist(connection, role="sender", pid=1, now=house.clock.now(), lasts=seconds(60))
        [post] = deliveries.take_due(
            connection,
            channel="billboard",
            mode=Mode.LIVE,
            lane=Lane.PRIORITY,
            worker=number,
            now=house.clock.now(),
            limit=1,
        )
    is_open, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        is_open.set()
        assert may_end.wait(30)

    def record(then: Callable[[], None]) -> None:
        with house.database.write() as connection:
            house.pipeline.settle(
                connection, post, Tried(state=State.DELIVERED, evidence="wall 7"), began_at=house.clock.now()
            )
            then()

    def cancel(then: Callable[[], None]) -> None:
        house.another_pipeline().change(identifier, Change.CANCEL, STAFF, also=lambda _connection, _id: then())

    acts = [record, cancel] if first == "record" else [cancel, record]
    one = threading.Thread(target=acts[0], args=(hold,))
    other = threading.Thread(target=acts[1], args=(lambda: None,))
    one.start()
    assert is_open.wait(30)
    other.start()
    other.join(0.3)  # it waits for the first, or does not see it
    may_end.set()
    for thread in (one, other):
        thread.join(30)
        assert not thread.is_alive()
    with house.database.read() as connection:
        ended = issues.get(connection, identifier)
        assert ended is not None
        assert ended.ended_by is not None
        after = issues.get(connection, ended.ended_by)
        assert after is not None
        rows = deliveries.of_issue(connection, after.id)
    assert [row.evidence for row in rows if row.kind == deliveries.RETRACT] == ["wall 7"]


# What a medium answers


@pytest.mark.parametrize("answer", ["250 ok \0", "half a pair \ud800", "long " * 2_000])
async def test_whatever_a_medium_answers_is_written_down_once(house: House, answer: str) -> None:
    house.billboard.failures = [TemporaryFailure(answer)]
    kept = house.issues(alert(house))
    await house.sends(kept.message.identifier)
    assert house.attempts(house.delivery(kept.message.identifier, "billboard")) == [State.QUEUED, State.DELIVERED]


async def test_a_part_behind_one_of_unknown_outcome_is_not_left_waiting(house: House) -> None:
    kept = house.issues(alert(house))
    first = house.delivery(kept.message.identifier, "billboard")
    with house.database.write() as connection:
        second = deliveries.add(
            connection,
            issue_id=first.issue_id,
            key="second",
            channel="billboard",
            part="2",
            kind=deliveries.PUSH,
            mode=Mode.LIVE,
            lane=Lane.PRIORITY,
            due_at=first.due_at,
            expires_at=first.expires_at,
            payload=first.payload,
            after_id=first.id,
        )
        deliveries.settle(
            connection,
            first,
            Tried(state=State.UNKNOWN),
            began_at=house.clock.now(),
            ended_at=house.clock.now(),
        )
        assert deliveries.get(connection, second).state is State.STOPPED
