"""What a sender has in hand is a stretch of the queue: nobody else has it, nothing of it is lost, and whoever was given up
writes nothing down."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume
from hypothesis import settings as trials
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broadcaster import settings as configuration
from broadcaster.delivery import State
from broadcaster.message import Mode
from broadcaster.settings import Settings
from broadcaster.store import deliveries, leases, recipients, setback
from broadcaster.store.database import Database
from broadcaster.store.recipients import End, Record, Taken
from tests.makers import NOW
from tests.test_store import a_mailing, delivered, readers

READERS = 24


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.upgrade()
    yield database
    database.close()


def a_queue(database: Database, settings: Settings, number: int) -> int:
    readers(database, number)
    id = a_mailing(database, settings)
    with database.write() as connection:
        recipients.fan_out(connection, deliveries.get(connection, id), NOW)
    return id


def test_to_take_letters_in_hand_changes_none_of_them(database: Database, settings: Settings) -> None:
    id = a_queue(database, settings, 10)
    with database.write() as connection:
        taken = recipients.claim(connection, id, worker=1, now=NOW, limit=4)
        assert [letter.subscriber_id for letter in taken.letters] == [1, 2, 3, 4]
        (lease,) = leases.of_mailing(connection, id)
        assert (lease.id, lease.first[1], lease.last[1]) == (taken.lease, 1, 4)
        counts = recipients.counted(connection, id)
        assert (counts.queued, counts.in_flight) == (6, 4)


def test_what_was_put_back_for_later_is_out_of_the_stretch(database: Database, settings: Settings) -> None:
    id = a_queue(database, settings, 3)
    later = NOW + timedelta(seconds=60)
    with database.write() as connection:
        taken = recipients.claim(connection, id, worker=1, now=NOW, limit=3)
        record = Record()
        record.put(id, 2, taken.lease, End(State.QUEUED, later), "451")
        recipients.write_down(connection, record, NOW)
        assert not recipients.claim(connection, id, worker=2, now=NOW, limit=3).letters
        again = recipients.claim(connection, id, worker=2, now=later, limit=3)
        assert [letter.subscriber_id for letter in again.letters] == [2], "while the others are still in hand"


def test_a_claim_goes_no_further_than_to_the_next_lease(database: Database, settings: Settings) -> None:
    id = a_queue(database, settings, 9)
    with database.write() as connection:
        first = recipients.claim(connection, id, worker=1, now=NOW, limit=3)
        second = recipients.claim(connection, id, worker=2, now=NOW, limit=3)
        leases.end(connection, [first.lease])  # given back in good order: nothing of it has been sent
        third = recipients.claim(connection, id, worker=3, now=NOW, limit=9)
        assert [letter.subscriber_id for letter in third.letters] == [1, 2, 3]
        assert not third.is_all
        rest = recipients.claim(connection, id, worker=3, now=NOW, limit=9)
        assert [letter.subscriber_id for letter in rest.letters] == [7, 8, 9]
        assert {lease.id for lease in leases.of_mailing(connection, id)} == {second.lease, third.lease, rest.lease}


def test_the_stretch_of_a_dead_worker_is_in_doubt_and_its_word_counts_no_more(
    database: Database, settings: Settings
) -> None:
    id = a_queue(database, settings, 4)
    with database.write() as connection:
        taken = recipients.claim(connection, id, worker=1, now=NOW, limit=2)
        assert leases.release(connection, [1], NOW) == 2
        recipients.write_down(connection, delivered(id, taken), NOW)
        assert recipients.counted(connection, id).delivered == 0
        again = recipients.claim(connection, id, worker=2, now=NOW, limit=4)
        assert [letter.is_in_doubt for letter in again.letters] == [True, True, False, False]


def test_of_a_stopped_mailing_it_is_unknown(database: Database, settings: Settings) -> None:
    id = a_queue(database, settings, 5)
    with database.write() as connection:
        recipients.claim(connection, id, worker=1, now=NOW, limit=2)
        deliveries.stop_mailings(connection, [deliveries.get(connection, id).issue_id])
        assert recipients.stop_waiting(connection, [id], NOW) == 3, "those in hand are its sender's to stop"
        leases.release(connection, [1], NOW)
        counts = deliveries.get(connection, id).counts
        assert (counts.unknown, counts.stopped, counts.total) == (2, 3, 5)


def test_a_claim_that_was_not_heard_of_is_given_back(database: Database, settings: Settings) -> None:
    id = a_queue(database, settings, 6)
    with database.write() as connection:
        heard = recipients.claim(connection, id, worker=1, now=NOW, limit=2)
        recipients.claim(connection, id, worker=1, now=NOW, limit=2)
        assert leases.give_back(connection, "another", Mode.LIVE, worker=1, kept={heard.lease}) == 0
        assert leases.give_back(connection, "email", Mode.LIVE, worker=1, kept={heard.lease}) == 1
        assert recipients.counted(connection, id).in_flight == 2


@dataclass
class Hand:
    """What one worker believes to have in hand."""

    worker: int
    taken: dict[int, Taken] = field(default_factory=dict)
    left: dict[int, set[int]] = field(default_factory=dict)


class Senders(RuleBasedStateMachine):
    """Three senders, one mailing, and a clock that jumps."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.database = Database(f"sqlite:///{Path(self.folder.name) / 'queue.sqlite3'}")
        self.database.upgrade()
        self.settings = configuration.load({"BROADCASTER_HOME": self.folder.name})
        self.id = a_queue(self.database, self.settings, READERS)
        self.now = NOW
        self.numbers = 3
        self.hands = [Hand(worker) for worker in (1, 2, 3)]
        self.settled: set[int] = set()

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()

    @rule(who=st.integers(0, 2), most=st.integers(1, 9))
    def claims(self, who: int, most: int) -> None:
        hand = self.hands[who]
        with self.database.write() as connection:
            taken = recipients.claim(connection, self.id, worker=hand.worker, now=self.now, limit=most)
        readers = {letter.subscriber_id for letter in taken.letters}
        assert not readers & self.settled
        assert not readers & set().union(*(left for other in self.hands for left in other.left.values()))
        if readers:
            hand.taken[taken.lease], hand.left[taken.lease] = taken, readers

    @rule(who=st.integers(0, 2), most=st.integers(1, 9), later=st.integers(0, 90), is_retried=st.booleans())
    def writes_down(self, who: int, most: int, later: int, is_retried: bool) -> None:
        hand = self.hands[who]
        assume(hand.left)
        lease, left = next(iter(hand.left.items()))
        some = set(sorted(left)[:most])
        end = End(State.QUEUED, self.now + timedelta(seconds=later + 1)) if is_retried else End(State.DELIVERED)
        record = Record()
        for reader in some:
            record.put(self.id, reader, lease, end, "")
        left -= some
        with self.database.write() as connection:
            recipients.write_down(connection, record, self.now)
            if not left:
                leases.end(connection, [lease])
        if not left:
            del hand.left[lease]
        if not is_retried:
            self.settled |= some

    @rule(who=st.integers(0, 2))
    def is_given_up(self, who: int) -> None:
        hand = self.hands[who]
        with self.database.write() as connection:
            leases.release(connection, [hand.worker], self.now)
            for lease, left in hand.left.items():  # and says something all the same
                record = Record()
                for reader in left:
                    record.put(self.id, reader, lease, End(State.FAILED), "late")
                recipients.write_down(connection, record, self.now)
        self.numbers += 1
        self.hands[who] = Hand(self.numbers)

    @rule(who=st.integers(0, 2))
    def leaves(self, who: int) -> None:
        hand = self.hands[who]
        with self.database.write() as connection:
            leases.end(connection, hand.left)
        hand.left.clear()

    @rule()
    def answered_again(self) -> None:
        with self.database.write() as connection:
            mailing = deliveries.get(connection, self.id)
            recipients.recall(connection, [mailing], ["mail.example"], self.now)

    @rule(s=st.integers(1, 100))
    def time_passes(self, s: int) -> None:
        self.now += timedelta(seconds=s)

    @rule(s=st.integers(1, 100))
    def the_clock_is_set_back(self, s: int) -> None:
        self.now -= timedelta(seconds=s)
        with self.database.write() as connection:
            setback.bring_letters_back(connection, self.id, self.now, timedelta(seconds=s))

    @invariant()
    def counts_add_up(self) -> None:
        with self.database.read() as connection:
            counts, written = recipients.counted(connection, self.id), deliveries.get(connection, self.id).counts
            stretches = sorted(leases.of_mailing(connection, self.id), key=lambda lease: lease.first)
        in_hand = sum(len(left) for hand in self.hands for left in hand.left.values())
        assert (counts.total, counts.delivered, counts.failed) == (READERS, len(self.settled), 0)
        assert counts.in_flight >= in_hand, "what somebody has in hand stands in a lease"
        assert written.delivered == len(self.settled)
        assert all(one.last < next.first for one, next in pairwise(stretches))

    @precondition(lambda self: not any(hand.left for hand in self.hands))
    @rule()
    def nothing_is_lost(self) -> None:
        """With nobody at work, whatever is not settled can be claimed, once its time has come."""
        far = self.now + timedelta(hours=3)
        with self.database.write() as connection:
            left: set[int] = set()
            while (taken := recipients.claim(connection, self.id, worker=99, now=far, limit=5)).letters:
                left |= {letter.subscriber_id for letter in taken.letters}
            leases.end(connection, [lease.id for lease in leases.of_mailing(connection, self.id)])
        assert left == set(range(1, READERS + 1)) - self.settled


TestSenders = Senders.TestCase
TestSenders.settings = trials(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
