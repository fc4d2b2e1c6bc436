"""The mailroom where something goes wrong: letters that hang, answers that cannot be written, claims nobody heard of."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from broadcaster import mailroom
from broadcaster.channel import Letter, Line, Outcome, OutcomeUnknown, Receipt, TemporaryFailure
from broadcaster.clock import FrozenClock, hours, seconds
from broadcaster.delivery import Lane, State
from broadcaster.mailroom import SILENT_S, Domain, Mailroom, Relay, Worker
from broadcaster.message import Change
from broadcaster.rehearsal.faults import Fault, Kind
from broadcaster.settings import Settings
from broadcaster.store import recipients
from broadcaster.store.tables import microseconds
from broadcaster.store.tables import recipients as recipient_rows
from tests.house import STAFF, House, Shaky, a_house, a_rehearsal, alert, notice
from tests.makers import NOW, an_alert


@pytest.fixture
def house(settings: Settings, tmp_path: Path, database_url: str) -> Iterator[House]:
    with a_house(settings, tmp_path, url=database_url, make=Shaky) as house:
        yield house


def shaky(house: House) -> Shaky:
    assert isinstance(house.database, Shaky)
    return house.database


@pytest.fixture
def put_aside(monkeypatch: pytest.MonkeyPatch) -> list[Letter]:
    """Letters that were given back to the ledger to wait there for their domain."""
    found: list[Letter] = []
    give_up = Mailroom._give_up

    def noted(room: Mailroom, letters: Sequence[Letter], until: datetime) -> None:
        found.extend(letters)
        give_up(room, letters, until)

    monkeypatch.setattr(Mailroom, "_give_up", noted)
    return found


async def test_a_relay_that_stalls_is_no_silent_domain(house: House, put_aside: list[Letter]) -> None:
    """A mail server whose disk is busy keeps every letter waiting, and then goes on."""
    house.readers(600)
    house.carrier.gate = asyncio.Event()
    house.carrier.is_gated = lambda letter: len(house.carrier.landed) >= 100
    kept = house.issues(notice(house))
    async with house.sender():
        await house.until(lambda: house.carrier.at_gate >= house.carrier.lines)
        await asyncio.sleep(SILENT_S * 1.5)
        house.carrier.gate.set()
        await house.until_settled(kept.message.identifier)
    assert house.counts(kept.message.identifier).delivered == 600
    assert not put_aside


async def test_a_letter_that_was_given_back_untried_is_no_answer_of_its_domain(house: House) -> None:
    """A session gives back the letter behind the one that hangs."""
    room = Mailroom(
        channel=house.carrier,
        database=house.database,
        clock=house.clock,
        signals=house.signals,
        worker=Worker(id=1, role="sender", pid=1),
        lanes=list(Lane),
        relay=Relay(0, 0),
    )
    domain = room._domains["mail-1.example"] = Domain(is_proven=True, most=2)
    room._left[LEASE] = 2
    for n in range(2):
        room._trays[Lane.ROUTINE].put(a_letter(n))
        room._lease_of[a_letter(n).key] = LEASE
    hanging, behind = room._take(), room._take()
    assert hanging is not None
    assert behind is not None
    domain.silent_since = 1.0
    room._settle(behind, Outcome())
    assert domain.silent_since == 1.0
    room._settle(hanging, Outcome(receipt=Receipt("250")))
    assert domain.silent_since is None


LEASE = 1


def a_letter(subscriber: int) -> Letter:
    address = f"reader-{subscriber}@mail-1.example"
    return Letter(subscriber, "ja.text", address, "mail-1.example", subscriber, 0, 1, is_drill=False, category="notice")


async def test_a_sender_that_leaves_while_its_record_is_written_holds_nothing_back(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.readers(1_000)
    claiming, claim = threading.Event(), recipients.claim

    def slow_claim(*args: Any, **kwargs: Any) -> recipients.Taken:
        claiming.set()
        time.sleep(0.3)
        return claim(*args, **kwargs)

    monkeypatch.setattr(recipients, "claim", slow_claim)
    kept = house.issues(notice(house))
    async with house.sender():
        await house.until(claiming.is_set)
    counts = house.counts(kept.message.identifier)
    assert counts.in_flight == 0, "nobody would be told of these before the sweeper comes, and then as in doubt"
    assert counts.queued + counts.delivered == 1_000
    assert counts.delivered == len(house.carrier.landed)


async def test_a_line_that_loses_its_cancel_does_not_keep_the_sender(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `wait_for` of Python 3.11 does when it is cancelled in the moment in which it is done."""
    monkeypatch.setattr(mailroom, "CLOSING_S", 0.05)
    opens, opening = house.carrier.open, asyncio.Event()

    async def deaf_open() -> Line:
        opening.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return await opens()

    monkeypatch.setattr(house.carrier, "open", deaf_open)
    async with asyncio.timeout(20):
        async with house.sender():
            await opening.wait()


async def test_letters_put_aside_come_back_when_their_domain_answers(house: House, put_aside: list[Letter]) -> None:
    """Not at the end of the time for which they were put aside: that was a guess."""
    house.readers(600)
    house.carrier.gate = asyncio.Event()
    house.carrier.is_gated = lambda letter: letter.domain == "mail-3.example" and len(house.carrier.landed) >= 100
    first = house.issues(notice(house))
    async with house.sender():
        await house.until(lambda: house.counts(first.message.identifier).delivered >= 480)
        await asyncio.sleep(SILENT_S * 1.5)
        second = house.issues(notice(house, identifier="13109-second"))
        await house.until(lambda: house.counts(second.message.identifier).delivered == 480)
        await house.until(lambda: put_aside)
        with house.database.write() as connection:  # as if the guess had been very wrong
            waiting = recipient_rows.c.state == int(State.QUEUED)
            connection.execute(update(recipient_rows).where(waiting).values(due_at=microseconds(NOW + hours(99_999))))
        house.carrier.gate.set()
        await house.until_settled(first.message.identifier, second.message.identifier)
    assert house.counts(second.message.identifier).delivered == 600


async def test_a_slow_letter_keeps_nobody_waiting_whose_domain_has_answered_since(
    house: House, put_aside: list[Letter]
) -> None:
    house.readers(600)
    house.carrier.gate = asyncio.Event()
    slow: set[int] = set()

    def is_slow(letter: Letter) -> bool:
        if len(house.carrier.landed) >= 300 and len(slow) < house.carrier.lines - 1:
            slow.add(letter.key)
        return letter.key in slow

    house.carrier.is_gated = is_slow
    first = house.issues(notice(house))
    async with house.sender():
        await house.until(lambda: len(house.carrier.landed) == 600 - len(slow))
        await asyncio.sleep(SILENT_S * 1.5)
        second = house.issues(notice(house, identifier="13109-second"))
        await house.until_settled(second.message.identifier)
        assert house.carrier.at_gate == len(slow) == house.carrier.lines - 1
        house.carrier.gate.set()
        await house.until_settled(first.message.identifier)
    assert not put_aside


@pytest.mark.timeout(60)
async def test_one_hanging_letter_does_not_keep_a_cancel_from_those_who_have_the_message(tmp_path: Path) -> None:
    """Waiting for the last letter of the first message would make everybody wait for the slowest domain."""
    async with a_rehearsal(tmp_path, email={"timeout_s": 45.0, "lines": 4}) as house:
        for n in range(4):
            house.readers(10, districts=house.settings.ward.all_district_bits, domain=f"mail-{n}.example")
        house.faults.set("email", Fault(kind=Kind.HANG, stage="data", domains=("mail-3.example",)))
        kept = house.issues(replace(an_alert(house.settings, "E08", now=house.clock.now()), sent_at=None))
        async with house.sender():
            await house.until(lambda: len(house.mails_of(kept.message.identifier)) == 30)
            after = house.pipeline.change(kept.message.identifier, Change.CANCEL, STAFF)
            await house.until(lambda: len(house.mails_of(after.message.identifier)) >= 30)


async def test_a_reader_whose_letter_may_have_arrived_is_told_of_the_cancel(
    settings: Settings, tmp_path: Path, database_url: str
) -> None:
    with a_house(settings, tmp_path, url=database_url, clock=FrozenClock(NOW)) as house:
        house.readers(10)
        house.carrier.outcome = lambda letter: (
            Outcome(failure=OutcomeUnknown("no answer"), stage="DATA")
            if letter.domain == "mail-3.example"
            else Outcome(receipt=Receipt("250"))
        )
        kept = house.issues(alert(house))
        identifier = kept.message.identifier
        async with house.sender():
            await house.until(lambda: house.counts(identifier).delivered == 8 and house.counts(identifier).queued == 2)
            house.carrier.outcome = lambda letter: Outcome(receipt=Receipt("250"))
            after = house.pipeline.change(identifier, Change.CANCEL, STAFF)
            await house.until_settled(identifier, after.message.identifier)
        counts = house.counts(identifier)
        assert (counts.delivered, counts.unknown, counts.stopped) == (8, 2, 0)
        assert house.counts(after.message.identifier).delivered == 10


async def test_a_doubt_outlives_a_sender_that_leaves_in_good_order(
    settings: Settings, tmp_path: Path, database_url: str
) -> None:
    clock = FrozenClock(NOW)
    with a_house(settings, tmp_path, url=database_url, clock=clock) as house:
        house.readers(10)
        house.carrier.outcome = lambda letter: (
            Outcome(failure=OutcomeUnknown("no answer"), stage="DATA")
            if letter.domain == "mail-3.example"
            else Outcome(receipt=Receipt("250"))
        )
        identifier = house.issues(alert(house)).message.identifier
        async with house.sender():
            await house.until(lambda: house.counts(identifier).delivered == 8 and house.counts(identifier).queued == 2)
        clock.move(seconds(30))
        house.carrier.hung_domains = frozenset({"mail-3.example"})
        async with house.sender():
            await house.until(lambda: house.counts(identifier).in_flight == 2)
        house.pipeline.change(identifier, Change.CANCEL, STAFF)
        async with house.sender():
            await house.until_settled(identifier)
        counts = house.counts(identifier)
        assert (counts.delivered, counts.unknown, counts.stopped) == (8, 2, 0)


@pytest.mark.parametrize("answer", ["250 ok \0 queued", "250 half a pair \ud800"])
async def test_whatever_a_relay_answers_is_written_down(house: House, answer: str) -> None:
    house.readers(4)
    house.carrier.outcome = lambda letter: Outcome(receipt=Receipt(answer))
    kept = house.issues(notice(house))
    await house.sends(kept.message.identifier)
    assert len(house.carrier.landed) == 4


async def test_letters_of_a_claim_whose_end_was_not_heard_are_not_left_behind(house: House) -> None:
    house.readers(20)
    shaky(house).fails["_write_and_claim"] = ["after"]
    kept = house.issues(alert(house))
    async with house.sender():
        await house.until(lambda: house.counts(kept.message.identifier).delivered == 20)
    assert len(house.carrier.landed) == 20


async def test_letters_that_are_out_and_not_written_down_are_not_sent_again(house: House) -> None:
    """Refused before and lost after: neither gives back what has gone out."""
    house.readers(300)

    def lands(letter: Letter) -> Outcome:
        if len(house.carrier.landed) == 40:
            shaky(house).fails["_write_and_claim"] = ["before", "after", "before"]
        return Outcome(receipt=Receipt("250"))

    house.carrier.outcome = lands
    kept = house.issues(alert(house))
    async with house.sender():
        await house.until(lambda: house.counts(kept.message.identifier).delivered == 300)
    assert shaky(house).failed == 3
    assert len(house.carrier.landed) == 300


async def test_a_mailing_that_is_over_sends_nothing_more_even_when_no_scheduler_runs(
    settings: Settings, tmp_path: Path, database_url: str
) -> None:
    clock = FrozenClock(NOW)
    with a_house(settings, tmp_path, url=database_url, clock=clock) as house:
        house.readers(5)
        tried: set[int] = set()

        def not_now(letter: Letter) -> Outcome:
            tried.add(letter.key)
            return Outcome(failure=TemporaryFailure("not now"), stage="RCPT")

        house.carrier.outcome = not_now
        kept = house.issues(notice(house))
        async with house.sender():
            await house.until(lambda: len(tried) == 5 and house.counts(kept.message.identifier).queued == 5)
            clock.move_to(kept.message.expires_at + seconds(1))
            house.carrier.outcome = lambda letter: Outcome(receipt=Receipt("250"))
            house.signals.notify()
            await house.until_settled(kept.message.identifier)
        assert house.carrier.landed == []
        assert house.counts(kept.message.identifier).stopped == 5


def test_a_relay_is_not_full_for_an_hour_because_the_clock_was_set_back() -> None:
    relay = Relay(200, 20.0)
    relay.took(NOW)
    assert relay.has_room(NOW - hours(1))


async def test_no_trace_and_no_address_is_logged_when_the_ledger_cannot_be_written(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    house.readers(20)
    shaky(house).fails = {"_write_and_claim": ["before"] * 2, "_fan_out": ["before"]}
    kept = house.issues(alert(house))
    await house.sends(kept.message.identifier)
    said = "".join(capsys.readouterr())
    assert shaky(house).failed >= 2
    assert len(house.carrier.landed) == 20
    assert "Traceback" not in said
    assert "mail-1" not in said


async def test_a_domain_that_refuses_every_first_try_is_served_all_the_same(
    settings: Settings, tmp_path: Path, database_url: str
) -> None:
    """Greylisting: the domain answers, and each reader's letter is taken with its second try."""
    clock = FrozenClock(NOW)
    with a_house(settings, tmp_path, url=database_url, clock=clock) as house:
        house.readers(100, domain="grey.example")
        seen: set[int] = set()

        def grey(letter: Letter) -> Outcome:
            if letter.key in seen:
                return Outcome(receipt=Receipt("250"))
            seen.add(letter.key)
            return Outcome(failure=TemporaryFailure("451 greylisted"), stage="RCPT")

        house.carrier.outcome = grey
        kept = house.issues(notice(house))
        identifier = kept.message.identifier
        async with house.sender(), asyncio.timeout(60):
            while not house.is_settled(identifier):
                if not house.counts(identifier).in_flight:  # what was due has been tried
                    clock.move(timedelta(minutes=2))
                    house.signals.notify()
                await asyncio.sleep(0.05)
        assert house.counts(identifier).delivered == 100
        assert clock.now() < NOW + hours(8), "within its tries"
