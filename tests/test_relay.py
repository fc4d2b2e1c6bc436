"""Behind a slow relay: how many mails may wait there, and who is held back. The clock is the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from broadcaster.clock import FrozenClock
from broadcaster.delivery import Lane
from broadcaster.mailroom import Mailroom, Relay, Worker
from broadcaster.message import Mode
from broadcaster.rehearsal import smtp
from broadcaster.rehearsal.faults import Faults
from broadcaster.settings import Settings
from tests.house import House, a_house
from tests.makers import NOW, a_notice, an_alert, frozen_clock
from tests.test_email import a_channel

PER_S, MOST = 20.0, 20
ROUTINE, ALERTED = 300, 5
"""More than the sender keeps in hand without asking the ledger, so that nothing but time can wake it."""
LINES = 4
_NOTICE, _EMERGENCY = 8, 32  # topics of readers: bits of config/ward.toml


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


# Reckoning


def test_a_full_relay_has_room_again_when_it_has_passed_some_on() -> None:
    relay = Relay(MOST, PER_S)
    for _ in range(MOST):
        assert relay.has_room(NOW)
        relay.took(NOW)
    assert not relay.has_room(NOW)
    assert relay.has_room(NOW + seconds(0.1))
    for _ in range(2):
        relay.took(NOW + seconds(0.1))
    assert not relay.has_room(NOW + seconds(0.1))


def test_a_relay_that_stood_empty_takes_no_more_than_before() -> None:
    relay = Relay(MOST, PER_S)
    relay.took(NOW)
    later = NOW + timedelta(days=1)
    for _ in range(MOST):
        assert relay.has_room(later)
        relay.took(later)
    assert not relay.has_room(later)


@pytest.mark.parametrize("relay", [Relay(0, PER_S), Relay(MOST, 0)])
def test_a_relay_of_unknown_pace_always_has_room(relay: Relay) -> None:
    for _ in range(1_000):
        assert relay.has_room(NOW)
        relay.took(NOW)


def test_alerts_count_against_the_routine_mails() -> None:
    relay = Relay(MOST, PER_S)
    for _ in range(3 * MOST):
        relay.took(NOW)
    assert not relay.has_room(NOW + seconds(2))
    assert relay.has_room(NOW + seconds(2.1))


@given(
    most=some.integers(1, 50),
    per_s=some.floats(0.5, 500),
    lines=some.integers(1, 20),
    steps=some.lists(some.tuples(some.sampled_from(["take", "taken", "wait"]), some.floats(0, 2)), max_size=200),
)
def test_routine_mails_never_fill_a_relay_beyond_its_bound(
    most: int, per_s: float, lines: int, steps: list[tuple[str, float]]
) -> None:
    """Beside the reckoning, a relay that really passes on so many: a queue that drains by the clock."""
    relay, now, on_lines, waiting = Relay(most, per_s), NOW, 0, 0.0
    for step, size in steps:
        if step == "take" and on_lines < lines and relay.has_room(now, on_lines):
            on_lines += 1
        elif step == "taken" and on_lines:
            on_lines, waiting = on_lines - 1, waiting + 1
            relay.took(now)
        elif step == "wait":
            now += timedelta(seconds=size)
            waiting = max(0.0, waiting - (size + 1e-6) * per_s)
        assert waiting + on_lines < most + 1  # a mail that is half passed on takes a place


# In the mailroom


class Behind:
    """A sender in front of a relay that passes 20 mails a second, and a clock that stands until it is moved."""

    def __init__(self, house: House, clock: FrozenClock, folder: Path) -> None:
        self.house, self.clock, self.folder = house, clock, folder
        self._recipients: dict[str, str] = {}  # by the name of the file

    def arrived(self, domain: str) -> int:
        """Mails that the relay has taken for readers at this domain."""
        for mail in smtp.received(self.folder):
            if mail.id not in self._recipients:
                self._recipients[mail.id] = mail.recipient
        return sum(recipient.endswith(f"@{domain}") for recipient in self._recipients.values())

    @property
    def routine(self) -> int:
        return self.arrived("routine.example")

    async def until_arrived(self, number: int, domain: str) -> None:
        await self.house.until(lambda: self.arrived(domain) >= number)


@asynccontextmanager
async def a_sender_behind(settings: Settings, tmp_path: Path, relay: Relay) -> AsyncIterator[Behind]:
    clock, folder = frozen_clock(), tmp_path / "mail"
    server = await smtp.start(folder, Faults(tmp_path / "faults.json"), clock=clock)
    with a_house(settings, tmp_path, clock=clock) as house:
        channel = a_channel(settings, port=server.port, lines=LINES)
        house.channels = {Mode.LIVE: {"email": channel}, Mode.DRILL: {}}
        house.pipeline = house.another_pipeline()
        worker = Worker(id=0, role="sender", pid=1)
        await worker.beat(house.database, clock, timedelta(days=1))
        mailroom = Mailroom(
            channel=channel,
            database=house.database,
            clock=clock,
            signals=house.signals,
            worker=worker,
            lanes=list(Lane),
            relay=relay,
        )
        task = asyncio.create_task(mailroom.run())
        try:
            yield Behind(house, clock, folder)
            if task.done():
                await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await server.close()


async def test_an_alert_goes_at_once_while_routine_mails_are_held_back(settings: Settings, tmp_path: Path) -> None:
    async with a_sender_behind(settings, tmp_path, Relay(MOST, PER_S)) as behind:
        behind.house.readers(ROUTINE, domain="routine.example", topics=_NOTICE)
        behind.house.readers(ALERTED, domain="alerted.example", topics=_EMERGENCY)
        behind.house.issues(a_notice(settings, channels=("email",)))
        await behind.until_arrived(MOST, "routine.example")
        behind.house.issues(an_alert(settings, "E08", channels=("email",)))
        await behind.until_arrived(ALERTED, "alerted.example")
        assert behind.routine == MOST


async def test_a_full_relay_gets_as_many_as_it_passes_on_until_none_is_left(settings: Settings, tmp_path: Path) -> None:
    async with a_sender_behind(settings, tmp_path, Relay(MOST, PER_S)) as behind:
        behind.house.readers(ROUTINE, domain="routine.example", topics=_NOTICE)
        behind.house.issues(a_notice(settings, channels=("email",)))
        for handed_over in range(MOST, ROUTINE + 1, 20):
            # by the ledger: before the clock moves, the sender has heard that each of them was taken
            await behind.house.until(lambda n=handed_over: behind.house.counts("13109-a-notice").delivered >= n)
            assert behind.routine == handed_over
            behind.clock.move(seconds(20 / PER_S))
        await behind.house.until_settled("13109-a-notice")


async def test_without_a_known_pace_nothing_is_held_back(settings: Settings, tmp_path: Path) -> None:
    async with a_sender_behind(settings, tmp_path, Relay(0, 0)) as behind:
        behind.house.readers(ROUTINE, domain="routine.example", topics=_NOTICE)
        behind.house.issues(a_notice(settings, channels=("email",)))
        await behind.house.until_settled("13109-a-notice")
        assert behind.routine == ROUTINE
