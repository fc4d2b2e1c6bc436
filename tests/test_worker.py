"""The sender when things around it go wrong: silent workers, clocks that jump, channels with mistakes in them, a database
that does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from broadcaster import worker as sender
from broadcaster.channel import Letter, Outcome, Receipt, TemporaryFailure
from broadcaster.clock import hours, seconds
from broadcaster.delivery import Lane, State, Tried
from broadcaster.message import Change, Mode
from broadcaster.settings import Settings
from broadcaster.store import deliveries, leases, recipients, setback, workers
from broadcaster.store.recipients import End, Record, Taken
from broadcaster.worker import LOOKS, Sweeper, WallClock
from tests.house import STAFF, House, JumpyClock, Shaky, a_house, alert, notice
from tests.makers import NOW

LASTS = seconds(6)
HOUR = [timedelta(hours=1), timedelta(hours=-1)]


@pytest.fixture
def house(settings: Settings, tmp_path: Path, database_url: str) -> Iterator[House]:
    with a_house(settings, tmp_path, url=database_url, clock=JumpyClock(), make=Shaky) as house:
        yield house


def jump(house: House, by: timedelta) -> None:
    assert isinstance(house.clock, JumpyClock)
    house.clock.ahead += by


def shaky(house: House) -> Shaky:
    assert isinstance(house.database, Shaky)
    return house.database


# Who is given up


def a_worker(house: House) -> int:
    with house.database.write() as connection:
        return workers.enlist(connection, role="sender", pid=1, now=house.clock.now(), lasts=LASTS)


def beats(house: House, number: int) -> bool:
    with house.database.write() as connection:
        return workers.beat(connection, number, now=house.clock.now(), lasts=LASTS)


def looks(house: House, sweeper: Sweeper, times: int = 1) -> int:
    released = 0
    for _ in range(times):
        with house.database.write() as connection:
            released += sweeper.sweep(connection, house.clock.now())
    return released


def takes_the_post(house: House, number: int) -> deliveries.Delivery:
    with house.database.write() as connection:
        [post] = deliveries.take_due(
            connection,
            channel="billboard",
            mode=Mode.LIVE,
            lane=Lane.PRIORITY,
            worker=number,
            now=house.clock.now(),
            limit=1,
        )
    return post


def test_who_says_nothing_for_some_looks_is_given_up_and_its_post_is_in_doubt(house: House) -> None:
    kept = house.issues(alert(house))
    silent, sweeper = a_worker(house), Sweeper()
    takes_the_post(house, silent)
    assert looks(house, sweeper, LOOKS) == 0
    assert looks(house, sweeper) == 1
    post = house.delivery(kept.message.identifier, "billboard")
    assert (post.state, post.worker_id, post.is_in_doubt) == (State.QUEUED, None, True)


def test_who_beats_is_never_given_up(house: House) -> None:
    number, sweeper = a_worker(house), Sweeper()
    house.issues(alert(house))
    takes_the_post(house, number)
    for _ in range(5 * LOOKS):
        assert looks(house, sweeper, LOOKS) == 0
        assert beats(house, number)


@pytest.mark.parametrize("by", HOUR)
def test_a_jump_of_the_clock_gives_up_nobody(house: House, by: timedelta) -> None:
    number, sweeper = a_worker(house), Sweeper()
    house.issues(alert(house))
    takes_the_post(house, number)
    looks(house, sweeper)
    jump(house, by)
    assert looks(house, sweeper) == 0
    assert beats(house, number)
    assert looks(house, sweeper) == 0


@pytest.mark.parametrize("by", HOUR)
def test_and_saves_nobody_who_is_dead(house: House, by: timedelta) -> None:
    number, sweeper = a_worker(house), Sweeper()
    house.issues(alert(house))
    takes_the_post(house, number)
    looks(house, sweeper)
    jump(house, by)
    assert looks(house, sweeper, LOOKS) == 1
    assert not beats(house, number)


def test_who_comes_back_cannot_overwrite_what_its_successor_found(house: House) -> None:
    kept = house.issues(alert(house))
    silent, sweeper = a_worker(house), Sweeper()
    post = takes_the_post(house, silent)
    looks(house, sweeper, LOOKS + 1)
    again = takes_the_post(house, a_worker(house))
    now = house.clock.now()
    with house.database.write() as connection:
        late = Tried(state=State.FAILED, detail="late")
        assert not deliveries.settle(connection, post, late, began_at=now, ended_at=now)
    assert house.delivery(kept.message.identifier, "billboard").state is State.IN_FLIGHT
    with house.database.write() as connection:
        assert deliveries.settle(connection, again, Tried(state=State.DELIVERED), began_at=now, ended_at=now)
    assert house.attempts(again) == [State.FAILED, State.DELIVERED], "both are in the record"


def test_nor_with_letters_that_it_still_carries(house: House) -> None:
    house.readers(4)
    kept = house.issues(notice(house))
    mailing = house.delivery(kept.message.identifier, "carrier", "ja.text")
    silent, sweeper = a_worker(house), Sweeper()
    now = house.clock.now()

    def marked(taken: Taken, state: State) -> None:
        record = Record()
        for one in taken.letters:
            record.put(mailing.id, one.subscriber_id, taken.lease, End(state), "250")
        with house.database.write() as connection:
            recipients.write_down(connection, record, now)

    with house.database.write() as connection:
        first = recipients.claim(connection, mailing.id, worker=silent, now=now, limit=9)
    looks(house, sweeper, LOOKS + 1)
    marked(first, State.FAILED)
    assert house.counts(kept.message.identifier).queued == 4
    number = a_worker(house)
    assert number != silent
    with house.database.write() as connection:
        second = recipients.claim(connection, mailing.id, worker=number, now=now, limit=9)
    marked(first, State.FAILED)
    assert house.counts(kept.message.identifier).in_flight == 4
    marked(second, State.DELIVERED)
    assert house.counts(kept.message.identifier).delivered == 4


def test_a_number_never_comes_back(house: House) -> None:
    sweeper, numbers = Sweeper(), set()
    for n in range(5):
        numbers.add(a_worker(house))
        looks(house, sweeper, LOOKS + 1)
        assert len(numbers) == n + 1
    with house.database.read() as connection:
        assert workers.beats(connection) == {}


def test_what_was_taken_by_one_that_had_just_been_given_up_is_found_too(house: House) -> None:
    stalled, sweeper = a_worker(house), Sweeper()
    looks(house, sweeper, LOOKS + 1)
    house.issues(alert(house))
    takes_the_post(house, stalled)
    assert looks(house, sweeper) == 1


async def test_a_sender_that_was_given_up_goes_on_under_another_number(house: House) -> None:
    async with house.sender():
        await house.until(lambda: _listed(house))
        [(number, beat)] = _listed(house).items()
        with house.database.write() as connection:
            beat = workers.beats(connection)[number]
            assert workers.give_up(connection, number, beat)
        await house.until(lambda: _listed(house) and number not in _listed(house))
        kept = house.issues(alert(house))
        await house.until_settled(kept.message.identifier)
    assert len(house.billboard.shown) == 1


def _listed(house: House) -> dict[int, object]:
    with house.database.read() as connection:
        return dict(workers.beats(connection))


async def test_a_sender_that_leaves_in_good_order_leaves_its_post_to_the_next_at_once(house: House) -> None:
    house.billboard.gate = asyncio.Event()
    kept = house.issues(alert(house))
    async with house.sender():
        await house.until(lambda: house.billboard.at_gate)
    house.billboard.gate = None
    assert looks(house, Sweeper()) >= 1, "with the first look"
    await house.sends(kept.message.identifier)
    assert len(house.billboard.shown) == 1


async def test_letters_that_a_given_up_worker_still_carries_are_no_mistake_when_it_comes_back(house: House) -> None:
    """Its successor, here itself under another number, has them in hand too."""
    house.readers(40)
    gate = house.carrier.gate = asyncio.Event()
    kept = house.issues(alert(house))
    async with house.sender():
        await house.until(lambda: house.carrier.at_gate == house.carrier.lines)
        with house.database.write() as connection:
            [(number, beat)] = workers.beats(connection).items()
            while not workers.give_up(connection, number, beat):
                beat = workers.beats(connection)[number]
        await house.until(lambda: number not in _listed(house) and _listed(house))
        await house.until(lambda: _held_by_others(house, number) == 40)  # claimed again, by its own successor
        house.carrier.gate = None
        gate.set()
        await house.until_settled(kept.message.identifier)
    counts = house.counts(kept.message.identifier)
    assert counts.delivered == 40
    assert len({letter.key for letter in house.carrier.landed}) == 40
    assert len(house.carrier.landed) <= 40 + house.carrier.lines


def _held_by_others(house: House, number: int) -> int:
    with house.database.read() as connection:
        return connection.exec_driver_sql(
            "SELECT count(*) FROM leases l JOIN recipients r ON r.delivery_id = l.delivery_id AND r.state = 0 AND"
            " (r.due_at, r.subscriber_id) BETWEEN (l.first_due_at, l.first_subscriber_id) AND"
            f" (l.last_due_at, l.last_subscriber_id) WHERE l.worker_id <> {number}"
        ).scalar_one()


# Clocks


def test_a_wall_clock_shows_by_how_much_it_was_set_back() -> None:
    wall = WallClock(NOW, 100.0)
    assert wall.set_back_by(NOW + seconds(1), 101.0) == seconds(0)
    assert wall.set_back_by(NOW + seconds(2) - hours(1), 102.0) == hours(1)
    assert wall.set_back_by(NOW + seconds(3) - hours(1), 103.0) == hours(1), "until what waits has followed"
    wall.is_followed()
    assert wall.set_back_by(NOW + seconds(4) - hours(1), 104.0) == seconds(0)
    assert wall.set_back_by(NOW + seconds(5) + hours(9), 105.0) == seconds(0), "forward"
    assert wall.set_back_by(NOW + seconds(5) + hours(9), 109.0) == seconds(0), "standing still"


@pytest.mark.parametrize("by", HOUR)
async def test_what_is_tried_again_is_tried_soon_after_a_jump_of_the_clock(house: House, by: timedelta) -> None:
    house.billboard.fails = TemporaryFailure("not now")
    kept = house.issues(alert(house, expires_at=house.clock.now() + hours(9)))
    async with house.sender():
        await house.until(lambda: house.delivery(kept.message.identifier, "billboard").attempts == 2)
        jump(house, by)
        house.billboard.fails = None
        await house.until_settled(kept.message.identifier)
    assert house.states(kept.message.identifier)["billboard/1"] is State.DELIVERED


@pytest.mark.parametrize("by", HOUR)
async def test_a_mailing_goes_on_through_a_jump_of_the_clock_and_nobody_gets_it_twice(
    house: House, by: timedelta
) -> None:
    house.readers(600)
    first = asyncio.Event()
    house.carrier.gate = first
    kept = house.issues(alert(house, expires_at=house.clock.now() + hours(9)))
    busy: set[str] = set()

    def now_and_then(letter: Letter) -> Outcome:
        address = letter.address
        if address.startswith("reader-1") and address.endswith("3.example") and address not in busy:
            busy.add(address)
            return Outcome(failure=TemporaryFailure("451 later", retry_at=house.clock.now() + seconds(2)), stage="RCPT")
        return Outcome(receipt=Receipt("250 ok"))

    house.carrier.outcome = now_and_then
    async with house.sender():
        await house.until(lambda: house.carrier.at_gate)
        house.carrier.gate = None
        first.set()
        await house.until(lambda: len(house.carrier.landed) > 100)
        jump(house, by)
        await house.until(lambda: house.counts(kept.message.identifier).delivered == 600)
    landed = [letter.key for letter in house.carrier.landed]
    assert len(set(landed)) == len(landed)


async def test_an_alert_issued_just_before_the_clock_is_set_back_is_sent_and_shown(house: House) -> None:
    house.readers(3)
    async with house.sender():
        await house.until(lambda: _listed(house))
        kept = house.pipeline.hand_in(alert(house), STAFF)
        jump(house, hours(-1))
        await house.until_settled(kept.message.identifier)
        assert kept.message.info.headline in house.noticeboard.pages["noticeboard.txt"]
        cancelled = house.pipeline.change(kept.message.identifier, Change.CANCEL, STAFF)
        await house.until_settled(cancelled.message.identifier)
    assert house.counts(kept.message.identifier).delivered == 3
    assert len(house.billboard.shown) == 2


def test_what_waits_moves_with_the_clock_and_letters_keep_their_distances(house: House) -> None:
    house.readers(3)
    kept = house.issues(notice(house))
    mailing = house.delivery(kept.message.identifier, "carrier", "ja.text")
    now, number = house.clock.now(), a_worker(house)
    with house.database.write() as connection:
        taken = recipients.claim(connection, mailing.id, worker=number, now=now, limit=9)
        record = Record()
        for n, one in enumerate(taken.letters, start=1):
            record.put(mailing.id, one.subscriber_id, taken.lease, End(State.QUEUED, now + seconds(10 * n)), "")
        recipients.write_down(connection, record, now)
        leases.end(connection, [taken.lease])
        unfinished = setback.bring_deliveries_back(connection, now - hours(1))
        assert unfinished == [mailing.id]
        setback.bring_letters_back(connection, mailing.id, now - hours(1), hours(1))
        due = [
            len(recipients.claim(connection, mailing.id, worker=number, now=at, limit=9).letters)
            for at in (now - hours(1) + seconds(10 * n) for n in range(4))
        ]
    assert due == [0, 1, 1, 1]


# Mistakes in a channel


@pytest.mark.parametrize("mistake", [KeyError("reader-1@mail-1.example"), RuntimeError("?"), ValueError("year 99999")])
async def test_a_channel_with_a_mistake_in_it_silences_no_other(
    house: House, mistake: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    house.readers(5)
    house.billboard.fails = mistake
    house.noticeboard.failures = [mistake]
    kept = house.issues(alert(house))
    async with house.sender():
        await house.until(lambda: house.counts(kept.message.identifier).delivered == 5)
        await house.until(lambda: house.noticeboard.pages)
        assert house.states(kept.message.identifier)["billboard/1"] in (State.QUEUED, State.IN_FLIGHT)
        house.billboard.fails = None
        await house.until_settled(kept.message.identifier)
    assert len(house.billboard.shown) == 1
    assert "mail-1" not in "".join(capsys.readouterr())


async def test_a_mistake_while_looking_for_a_post_repeats_it_not(house: House) -> None:
    house.billboard.drops, house.billboard.blind = 1, KeyError("?")
    kept = house.issues(alert(house))
    async with house.sender():
        await house.until(lambda: house.billboard.looks >= 2)
        house.billboard.blind = None
        await house.until_settled(kept.message.identifier)
    assert len(house.billboard.shown) == 1


async def test_a_mailing_with_a_mistake_in_it_silences_no_other_and_begins_anew(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.readers(5)
    load, mistakes = house.carrier.load, [KeyError("reader-1@mail-1.example"), KeyError("reader-1@mail-1.example")]

    def loads(issue: int, payload: object) -> None:
        if mistakes:
            raise mistakes.pop()
        load(issue, payload)  # type: ignore[arg-type]

    monkeypatch.setattr(house.carrier, "load", loads)
    kept = house.issues(alert(house))
    await house.sends(kept.message.identifier)
    assert mistakes == []
    assert len(house.billboard.shown) == 1
    assert house.counts(kept.message.identifier).delivered == len(house.carrier.landed) == 5


# A database that does not answer


@pytest.mark.parametrize("how", ["before", "after"])
async def test_a_post_is_held_until_it_is_written_down_and_is_posted_once(
    house: House, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shaky(house).fails["settle"] = [how, "before", how]
    kept = house.issues(alert(house))
    await house.sends(kept.message.identifier)
    assert shaky(house).failed >= 1
    assert house.billboard.shown == [f"{kept.message.identifier}/billboard/1"]
    said = "".join(capsys.readouterr())
    assert "delivery.not_recorded" in said
    assert "Traceback" not in said
    assert "mail-1" not in said


@pytest.mark.parametrize("how", ["before", "after"])
async def test_a_claim_whose_end_was_not_heard_is_given_back(house: House, how: str) -> None:
    shaky(house).fails["take_due"] = [how] * 6
    kept = house.issues(alert(house))
    await house.sends(kept.message.identifier)
    assert set(house.states(kept.message.identifier).values()) == {State.DELIVERED}
    assert len(house.billboard.shown) == 1


async def test_nothing_further_leaves_a_desk_while_its_record_cannot_be_written(house: House) -> None:
    shaky(house).fails["settle"] = ["before"] * 10_000
    kept = [house.issues(notice(house, identifier=f"13109-n{n}")) for n in range(3)]
    async with house.sender([Lane.ROUTINE]):
        await house.until(lambda: shaky(house).failed >= 4)
        assert len(house.billboard.shown) == 1
        shaky(house).fails.clear()
        await house.until_settled(*(one.message.identifier for one in kept))
    assert len(house.billboard.shown) == 3


async def test_a_worker_that_could_not_beat_for_a_while_is_not_given_up(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "SWEEP", seconds(0.3))
    monkeypatch.setattr(sender, "BEAT", seconds(0.1))
    async with house.sender():
        await house.until(lambda: _listed(house))
        before = set(_listed(house))
        failed = shaky(house).failed
        shaky(house).fails = {"beat": ["before"] * 25, "sweep": ["before"] * 8}  # longer than anybody lives silently
        await house.until(lambda: shaky(house).failed >= failed + 33)
        await house.until(lambda: shaky(house).fails == {"beat": [], "sweep": []})
        kept = house.issues(alert(house))
        await house.until_settled(kept.message.identifier)
        assert set(_listed(house)) == before
