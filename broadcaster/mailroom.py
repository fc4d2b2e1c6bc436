"""The mailroom: letters of every mailing, over one set of warm lines, the gravest first.

Priority is strict at the grain of one message over all lines: a line asks for a letter only when it can carry it, and
gets the most urgent there is. (Measured: an emergency's last mail at 1.09 times an idle system; lines reserved for
emergencies 5 times, a plain queue 28 times.)

    feed      which mailings are open, from the ledger; their fan-out continued on the way
    lines     each warm line carries letter after letter
    ledger    write down what became of them, in batches of 90 or 25 ms, and claim the next ones into a small
              store in memory by the same transaction

Isolation by mail domain: a domain that has not answered well yet is probed, by one letter. Probes hold at most half of
the lines until they are answered or late, a late line gets a stand-in, and a domain that fails rests. Letters that may
not go for such a reason take no place of those that can: more are claimed beside them, or they wait in the ledger.

After kill -9 at most the letters on the wire and `UNRECORDED` more are repeated, with the same Message-ID: the lines wait
when the record falls behind. What is in hand stands in the ledger as a lease: one row for what was claimed together.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import monotonic

import structlog

from broadcaster.channel import (
    ChannelClosed,
    DeliveryFailure,
    Letter,
    Line,
    Mailing,
    Outcome,
    OutcomeUnknown,
    PermanentFailure,
    TemporaryFailure,
)
from broadcaster.clock import Clock
from broadcaster.delivery import RETRY, Breaker, Lane, State, writable
from broadcaster.signals import POLL_S, Signals
from broadcaster.store import deliveries, issues, leases, recipients, workers
from broadcaster.store.database import Connection, Database, StoreError
from broadcaster.store.deliveries import Delivery
from broadcaster.store.recipients import NOTHING, End, Record, Taken

log = structlog.get_logger(__name__)

IN_HAND = 400
"""Letters claimed ahead of the lines, for each lane: enough that no line waits, few enough to give back at once. Those
that wait for their domain are not among them."""

MOST_IN_HAND = 2_400
"""With those that wait for their domain."""

UNRECORDED = 200
"""The most letters that have gone out and are not in the ledger yet, beside one on each line."""

BATCH = 90
"""One batch being written, one filling, and the second letter on each of twenty lines: just `UNRECORDED`."""

BATCH_S = 0.025

WAITING_S = 0.05
"""A line that may carry nothing of what is in hand looks again after so long."""

SILENT_S = 1.0
"""A letter that has had no answer for so long, and `SLOW` times as long as is usual, is late: its line gets a stand-in, so
that a hanging domain takes no capacity from others."""

PROBE_S = 0.2
"""The same for a letter that probes: more domains wait for their probe behind it."""

SLOW = 4
"""A relay that writes each mail to a slow disk keeps every letter waiting, and no domain is to blame."""

_RECENT = 64
"""Answers in the running mean."""

LOOK_S = 0.1
"""How often somebody looks for late letters."""

MOST_ASIDE_S = {Lane.PRIORITY: 1.0, Lane.ROUTINE: 10.0}
"""Letters to a silent domain wait in the ledger for as long again as it has been silent, and no longer than this, or until
it answers."""

UNTIL_TOLD = timedelta(seconds=2)
"""Whoever has a message is told of its cancel when its last letter is settled, or after so long: a letter that hangs must
not keep the others waiting, and counts as one that its reader may have."""

CLOSING_S = 2.0
"""A line that is told to end says goodbye to the relay, and is not waited for any longer than this before it is told again."""

SHARE_OF_ONE_DOMAIN = 0.9
IDLE_S = 30.0
"""An idle line is renewed after so long: relays close quiet sessions, and an emergency must not find that out."""


@dataclass(kw_only=True)
class Domain:
    """One mail domain: how many lines it may hold, and whether it rests."""

    most: int = 1
    in_flight: int = 0
    is_proven: bool = False  # it has answered a letter, and has not been silent or had to rest since
    answered_at: float = 0.0
    silent_since: float | None = None  # a letter is late, and none has been answered since that was taken
    has_aside: bool = False  # letters wait in the ledger until it answers
    breaker: Breaker = field(default_factory=lambda: Breaker(patience=3, longest_rest=timedelta(minutes=5)))

    def may_be_probed(self, lane: Lane, now: datetime) -> bool:
        """An alert looks whether a domain that rests is back."""
        return self.in_flight == 0 and (lane is Lane.PRIORITY or not self.breaker.is_open(now))


@dataclass(kw_only=True)
class Tray:
    """The letters of one lane that are in hand, by domain, served in turn."""

    by_domain: dict[str, deque[Letter]] = field(default_factory=dict)
    size: int = 0

    def put(self, letter: Letter) -> None:
        waiting = self.by_domain.get(letter.domain)
        if waiting is None:
            waiting = self.by_domain[letter.domain] = deque()
        waiting.append(letter)
        self.size += 1

    def put_back(self, letter: Letter) -> None:
        self.by_domain.setdefault(letter.domain, deque()).appendleft(letter)
        self.size += 1

    def next(self, domains: Mapping[str, Domain], may_probe: Callable[[Domain], bool]) -> Letter | None:
        for name, waiting in self.by_domain.items():
            domain = domains[name]
            may_go = domain.in_flight < domain.most if domain.is_proven else may_probe(domain)
            if not may_go:
                continue
            letter = waiting.popleft()
            self.size -= 1
            del self.by_domain[name]
            if waiting:
                self.by_domain[name] = waiting  # to the end of the round
            return letter
        return None

    def draw(self, wanted: set[int] | None = None, domain: str | None = None) -> list[Letter]:
        """Take out every letter of these deliveries, or of this domain."""
        drawn: list[Letter] = []
        for name in list(self.by_domain):
            kept: deque[Letter] = deque()
            for letter in self.by_domain[name]:
                chosen = (wanted is None or delivery_of(letter) in wanted) and (domain is None or name == domain)
                (drawn if chosen else kept).append(letter)
            if kept:
                self.by_domain[name] = kept
            else:
                del self.by_domain[name]
        self.size -= len(drawn)
        return drawn


_DELIVERED = End(State.DELIVERED)
MOST_REPLY = 200
"""Characters of a mail server's answer that are kept."""

_BITS = 36
_READERS = (1 << _BITS) - 1
"""A letter's key is its ledger row: the delivery's number and, in the lower 36 bits, the subscriber's."""


def key_of(delivery_id: int, subscriber_id: int) -> int:
    return delivery_id << _BITS | subscriber_id


def delivery_of(letter: Letter) -> int:
    return letter.key >> _BITS


class Relay:
    """How many mails may be waiting in the relay: a relay's full queue undoes all overtaking.

    The relay says nothing about its queue, so it is reckoned: what was handed over, less what it is known to pass on
    each second. Letters on the lines count as if they were there already: a line may have two. Alerts are never held
    back."""

    def __init__(self, most_waiting: int, mails_per_s: float) -> None:
        self._most, self._rate = most_waiting, mails_per_s
        self.is_bounded = most_waiting > 0 and mails_per_s > 0
        self._level, self._at = 0.0, None

    _at: datetime | None

    def has_room(self, now: datetime, on_the_lines: int = 0) -> bool:
        if not self.is_bounded:
            return True
        self._drain(now)
        return self._level + on_the_lines < self._most

    def took(self, now: datetime) -> None:
        if self.is_bounded:
            self._drain(now)
            self._level += 1

    def _drain(self, now: datetime) -> None:
        if self._at is not None:  # a clock that was set back drains nothing, and fills nothing up either
            passed_s = max(0.0, (now - self._at).total_seconds())
            self._level = max(0.0, self._level - passed_s * self._rate)
        self._at = now


class Mailroom:
    def __init__(
        self,
        *,
        channel: Mailing,
        database: Database,
        clock: Clock,
        signals: Signals,
        worker: Worker,
        lanes: Sequence[Lane],
        relay: Relay,
    ) -> None:
        self.channel = channel
        self.database = database
        self.clock = clock
        self.worker = worker
        self.lanes = lanes
        self.relay = relay
        self.wake = signals.subscribe()
        self._trays = {lane: Tray() for lane in sorted(lanes)}  # the gravest first
        self._may_probe = {lane: functools.partial(self._may_be_probed, lane) for lane in lanes}
        self._mailings: Sequence[Delivery] = ()  # open, and not stopping
        self._more: dict[Lane, list[Delivery]] = {lane: [] for lane in lanes}  # of these the ledger may hold more
        self._recalled: set[str] = set()  # domains that have answered, whose letters are to come back
        self._is_held = False  # it rang, and the look at what has changed is under way
        self._waits_for_others = False  # a fan-out of which the readers are known when other mailings are settled
        self._domains: dict[str, Domain] = {}
        self._probes: set[int] = set()  # letters on the lines whose domain has not answered well yet, and not late
        self._late: set[int] = set()  # letters on the lines that have had no answer for long
        self._on_the_wire = channel.lines
        self._most_probes = max(1, channel.lines // 2)
        self._most_of_one_domain = max(2, int(channel.lines * SHARE_OF_ONE_DOMAIN))
        self._open: dict[int, _Open] = {}
        self._stopping: set[int] = set()
        self._in_doubt: set[int] = set()  # letters of which an earlier attempt may have arrived, by their keys
        self._lease_of: dict[int, int] = {}  # of every letter in hand, by its key
        self._left: dict[int, int] = {}  # of every lease, so many letters are in hand
        self._over: list[int] = []  # leases of which none is, to be ended with the record of the last
        self._may_hold = False  # a claim whose end was not heard
        self._carried: dict[int, tuple[Letter, Lane, float]] = {}
        self._answered_at = 0.0
        self._usual_s = 0.0  # from a line's taking a letter to the answer, of late
        self._answered = Record()
        self._given_up = Record()  # of letters that have not been out
        self._writing = 0
        self._page: asyncio.Task[None] | None = None  # the turn under way, or the last
        self._looking: asyncio.Task[Sequence[Delivery]] | None = None
        self._retries: dict[int, int] = {}
        self._ready = asyncio.Event()
        self._news = self._asked_at = 0  # how often something was announced, and when a line last asked in vain
        self._due = asyncio.Event()  # something is to be written or claimed
        self._at_once = asyncio.Event()
        self._lines: set[asyncio.Task[None]] = set()
        self._rest = Breaker(patience=1, first_rest=timedelta(seconds=1), longest_rest=timedelta(seconds=15))

    async def run(self) -> None:
        """Until cancelled. What was carried is written down before it ends."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._feeds())
                group.create_task(self._keeps_ledger())
                group.create_task(self._staffs_lines())
        finally:
            await _ended(self._lines)
            # Half done: what they write and claim must be known before the rest is given back.
            await asyncio.gather(*filter(None, (self._page, self._looking)), return_exceptions=True)
            await self._finish()

    # Feed

    async def _feeds(self) -> None:
        rang = False
        while True:
            try:
                is_fanning_out = await self._feed(rang=rang)
            except StoreError as error:
                log.error("mailroom.feed_failed", channel=self.channel.name, why=type(error).__name__)
                self._go_on()
                await asyncio.sleep(POLL_S)
                rang = False
                continue
            rang = False
            if not is_fanning_out:
                rang = await self.wake.wait(POLL_S)
                # Something has changed, a cancel or an alert: no line takes a letter before it is known what.
                self._is_held = rang and not self._waits_for_others

    def _go_on(self) -> None:
        if self._is_held:
            self._is_held = False
            self._announce()

    async def _feed(self, *, rang: bool = False) -> bool:
        """Look which mailings are open; True while a fan-out has more to write."""
        self._looking = asyncio.create_task(self._look() if rang else self._glance())
        mailings = await asyncio.shield(self._looking)
        mine = [mailing for mailing in mailings if mailing.lane in self._trays]
        if over := [
            mailing.id for mailing in mine if mailing.expires_at <= self.clock.now() and not mailing.is_stopping
        ]:
            await self.database.writes(deliveries.stop, over)  # the scheduler does the same, where one runs
            return await self._feed()
        self._drop_stopping(mine)
        self._may_have_more(mine)
        self._go_on()
        await self._stop_waiting()
        self._close_finished({mailing.id for mailing in mine})
        is_fanning_out, self._waits_for_others = False, False
        for mailing in mine:
            if mailing.fanned_to is None:
                continue
            if await self._continue_fan_out(mailing):
                is_fanning_out = True
                self._may_have_more(mine)  # an alert's first letters go out while its last readers are being written
            else:
                self._waits_for_others = True
        return is_fanning_out

    async def _glance(self) -> Sequence[Delivery]:
        """The open mailings."""
        return await self.database.reads(deliveries.open_mailings, self.channel.name, self.channel.mode)

    async def _look(self) -> Sequence[Delivery]:
        """The same when something has happened; the first letters of a new alert come by the same way to the database
        and back."""
        if Lane.PRIORITY not in self._trays:
            return await self._glance()
        known = {mailing.id for mailing in self._mailings}
        try:
            mailings, alert, taken = await self.database.writes_next(self._look_and_claim, known)
        except StoreError:
            self._may_hold = True
            raise
        if alert is not None:
            self._take_in_hand(alert, taken)
            self._announce()
        return mailings

    def _look_and_claim(
        self, connection: Connection, known: Collection[int]
    ) -> tuple[Sequence[Delivery], Delivery | None, Taken]:
        now = self.clock.now()
        mailings = deliveries.open_mailings(connection, self.channel.name, self.channel.mode)
        for mailing in mailings:
            is_new_alert = mailing.lane is Lane.PRIORITY and mailing.id not in known and not mailing.is_stopping
            if is_new_alert and mailing.expires_at > now:
                return mailings, mailing, self._claim(connection, mailing, IN_HAND, now)
        return mailings, None, NOTHING

    def _may_have_more(self, mailings: Sequence[Delivery]) -> None:
        self._mailings = [mailing for mailing in mailings if not mailing.is_stopping]
        self._more = {lane: [mailing for mailing in self._mailings if mailing.lane is lane] for lane in self.lanes}
        self._ask_ledger()

    async def _continue_fan_out(self, mailing: Delivery) -> bool:
        """One chunk at a time, with the lock given up between two: bulk never keeps an emergency waiting for it.
        False where it has to wait."""
        is_due = self.clock.now() >= mailing.created_at + UNTIL_TOLD
        if "of" in mailing.audience and not (
            is_due or await self.database.reads(self._are_settled, mailing.audience["of"])
        ):
            return False  # who has the first one is not known before its last letter is settled
        await self.database.writes(self._fan_out, mailing.id)
        return True

    def _are_settled(self, connection: Connection, ids: Sequence[int]) -> bool:
        return all(deliveries.get(connection, id).state is not State.QUEUED for id in ids)

    def _fan_out(self, connection: Connection, id: int) -> None:
        now = self.clock.now()
        recipients.fan_out(connection, deliveries.get(connection, id, is_mine=True), now)  # one sender at a time
        deliveries.finish_mailings(connection, [id], now)

    def _drop_stopping(self, mailings: Sequence[Delivery]) -> None:
        """An update or a cancel came: what is in hand and not on the wire stays here, exactly."""
        self._stopping = {mailing.id for mailing in mailings if mailing.is_stopping}
        if not self._stopping:
            return
        for tray in self._trays.values():
            for letter in tray.draw(self._stopping):
                self._mark(letter, State.STOPPED, was_tried=False)

    async def _stop_waiting(self) -> None:
        if not self._stopping:
            return
        now = self.clock.now()
        await self.database.writes(recipients.stop_waiting, self._stopping, now)
        await self.database.writes(deliveries.finish_mailings, self._stopping, now)

    def _close_finished(self, open_now: set[int]) -> None:
        for id in [id for id in self._open if id not in open_now]:
            opened = self._open.pop(id)
            if all(other.issue != opened.issue for other in self._open.values()):
                self.channel.unload(opened.issue)

    # Lines

    async def _staffs_lines(self) -> None:
        """Keep `lines` lines able to work: one with a late letter does not count, until there are twice as many."""
        while True:
            self._notice_late()
            self._set_aside_silent()
            wanted = min(self.channel.lines + len(self._late), self.channel.lines * 2)
            for _ in range(wanted - len(self._lines)):
                task = asyncio.create_task(self._line())
                self._lines.add(task)
                task.add_done_callback(self._lines.discard)
            await asyncio.sleep(LOOK_S)

    def _notice_late(self) -> None:
        now = monotonic()
        patience = max(SILENT_S, SLOW * self._usual_s)
        with_probes = max(PROBE_S, SLOW * self._usual_s) if self._usual_s else patience
        late = [
            (letter, began)
            for letter, _, began in self._carried.values()
            if letter.key not in self._late and now - began > (with_probes if letter.key in self._probes else patience)
        ]
        self._late.update(letter.key for letter, _ in late)
        if len(self._late) <= self.channel.lines:  # each has its stand-in, so others may be probed
            self._probes -= self._late
        for letter, began in late:
            domain = self._domains[letter.domain]
            if domain.silent_since is None and domain.answered_at < began:
                domain.silent_since, domain.is_proven = began, False
        if late:
            self._announce()

    def _set_aside_silent(self) -> None:
        for lane, tray in self._trays.items():
            for name in [name for name in tray.by_domain if self._domains[name].silent_since is not None]:
                self._set_aside(lane, name)

    def _set_aside(self, lane: Lane, domain: str) -> None:
        """Back to the ledger, for as long as this domain has to rest."""
        if until := self._rests_until(self._domains[domain], lane, self.clock.now()):
            self._give_up(self._trays[lane].draw(domain=domain), until)

    def _rests_until(self, domain: Domain, lane: Lane, now: datetime) -> datetime | None:
        """Until when letters to this domain have to wait in the ledger; None when they may be in hand. An alert goes on
        trying. Where nobody is answered it may be the relay that is silent, and no domain: what is in hand stays there,
        unless it keeps out others."""
        if domain.silent_since is not None:
            silent_s = monotonic() - domain.silent_since
            others_are_answered = monotonic() - self._answered_at < SILENT_S
            is_full = self._trays[lane].size >= MOST_IN_HAND
            rest_s = min(silent_s, MOST_ASIDE_S[lane])
            return now + timedelta(seconds=rest_s) if others_are_answered or is_full else None
        return domain.breaker.opens_until if lane is not Lane.PRIORITY and domain.breaker.is_open(now) else None

    def _give_up(self, letters: Sequence[Letter], until: datetime) -> None:
        for letter in letters:
            self._domains[letter.domain].has_aside = True
            self._mark(letter, State.QUEUED, "", until, was_tried=False)

    def _waiting(self, lane: Lane) -> list[str]:
        """The domains of letters in hand that cannot go now: each waits for its probe, or for one to be free."""
        may_probe = len(self._probes) < self._most_probes
        return [
            name
            for name in self._trays[lane].by_domain
            if not (domain := self._domains[name]).is_proven and (domain.in_flight or not may_probe)
        ]

    async def _line(self) -> None:
        line: Line | None = None
        try:
            line = await self._warm()
            while len(self._lines) <= self.channel.lines + len(self._late):
                await self._ready.wait()
                if self._rest.is_open(self.clock.now()):
                    await asyncio.sleep(0.1)
                    continue
                try:
                    line = line or await self.channel.open()
                    self._rest.succeeded()
                    await line.carry(self._take, self._settle)
                except DeliveryFailure as failure:
                    await self._lost(line, failure)
                    line = None
                    continue
                if not await self._more_to_do():
                    line = await self._renewed(line)
        finally:
            if line is not None:
                await line.close()

    async def _warm(self) -> Line | None:
        """Connected before there is anything to carry: an emergency does not wait for a handshake."""
        with contextlib.suppress(DeliveryFailure):  # the first letter will say what is wrong
            return await self.channel.open()
        return None

    async def _lost(self, line: Line | None, failure: DeliveryFailure) -> None:
        log.warning("line.lost", channel=self.channel.name, mode=self.channel.mode, why=str(failure))
        if line is None:  # the relay itself does not take us
            rest = timedelta(seconds=15) if isinstance(failure, ChannelClosed) else None
            self._rest.failed(self.clock.now(), rest=rest)
        else:
            await line.close()

    async def _more_to_do(self) -> bool:
        """Wait for more; False when it has been quiet for so long that the line should be renewed."""
        if self._asked_at != self._news:
            return True  # something changed since a line asked in vain
        self._ready.clear()
        if self._has_work():
            # What is in hand must wait: for the record, which says when it is done, for a resting domain, a full relay.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WAITING_S):
                    await self._ready.wait()
            self._ready.set()  # nobody else may ever say that the relay has room again
            return True
        try:
            async with asyncio.timeout(IDLE_S):
                await self._ready.wait()
        except TimeoutError:
            return False
        return True

    def _announce(self) -> None:
        """There may be something for a line that asked in vain."""
        self._news += 1
        self._ready.set()

    def _has_work(self) -> bool:
        return any(tray.size for tray in self._trays.values())

    async def _renewed(self, line: Line) -> Line | None:
        await line.close()
        return await self._warm()

    def _take(self) -> Letter | None:
        """The most urgent letter that may go now; None when there is none, or when the record is behind."""
        letter = self._next()
        if letter is None:
            self._asked_at = self._news
        return letter

    def _next(self) -> Letter | None:
        if self._is_held or self._unrecorded() >= UNRECORDED:
            return None
        for lane, tray in self._trays.items():
            if not tray.size:
                if self._more[lane]:
                    return None  # more urgent letters are on their way from the ledger
                continue
            # The bound is looked at first, here and below: to ask for the time costs more than the answer.
            if self.relay.is_bounded and lane is not Lane.PRIORITY and not self._has_relay_room():
                continue
            letter = tray.next(self._domains, self._may_probe[lane])
            if letter is not None:
                domain = self._domains[letter.domain]
                domain.in_flight += 1
                if not domain.is_proven:
                    self._probes.add(letter.key)
                self._carried[letter.key] = letter, lane, monotonic()
                return letter
            if self._more[lane]:
                self._ask_ledger()  # what is in hand waits for its domains: others may go
        return None

    def _unrecorded(self) -> int:
        """A line has one letter on the wire. The one behind it goes out when that is answered, whatever is taken by then."""
        return len(self._answered) + self._writing + max(0, len(self._carried) - self._on_the_wire)

    def _has_relay_room(self) -> bool:
        return self.relay.has_room(self.clock.now(), len(self._carried))

    def _may_be_probed(self, lane: Lane, domain: Domain) -> bool:
        return len(self._probes) < self._most_probes and domain.may_be_probed(lane, self.clock.now())

    def _settle(self, letter: Letter, outcome: Outcome) -> None:
        _, lane, began = self._carried.pop(letter.key)
        domain = self._domains[letter.domain]
        domain.in_flight -= 1
        self._probes.discard(letter.key)
        self._late.discard(letter.key)
        if not outcome.was_tried:
            self._trays[lane].put_back(letter)
            self._announce()
            return
        self._answered_at = domain.answered_at = answered_at = monotonic()
        domain.silent_since = None
        if outcome.receipt is not None:
            self._usual_s += (answered_at - began - self._usual_s) / _RECENT
            self._went_well(letter.domain, domain)
            self._mark(letter, State.DELIVERED, outcome.receipt.evidence)
        else:
            self._went_wrong(letter, lane, domain, outcome, self.clock.now())

    def _went_well(self, name: str, domain: Domain) -> None:
        if not domain.is_proven:
            domain.is_proven = True
            self._announce()  # the letters behind the probe
        if domain.has_aside:
            domain.has_aside = False
            self._recalled.add(name)
            self._may_have_more(self._mailings)  # and nothing less urgent goes before them
        if domain.breaker.failures:
            domain.breaker.succeeded()
        if domain.most < self._most_of_one_domain:
            domain.most += 1
        if self.relay.is_bounded:
            self.relay.took(self.clock.now())

    def _went_wrong(self, letter: Letter, lane: Lane, domain: Domain, outcome: Outcome, now: datetime) -> None:
        failure = outcome.failure
        detail = f"{outcome.stage}: {failure}" if outcome.stage else str(failure)
        if isinstance(failure, PermanentFailure):
            domain.breaker.succeeded()  # the domain answers; it is this reader who cannot be reached
            domain.is_proven = True
            self._mark(letter, State.FAILED, detail)
            return
        domain.most = max(1, domain.most // 2)
        domain.breaker.failed(now)
        domain.is_proven = domain.is_proven and domain.breaker.opens_until is None
        if isinstance(failure, OutcomeUnknown):
            self._in_doubt.add(letter.key)
        policy, tries = RETRY[lane], self._retries.get(letter.key, 0) + 1
        if policy.is_spent(tries):
            self._mark(letter, State.FAILED, detail)
            return
        retry_at = now + policy.wait_after(tries)
        if isinstance(failure, TemporaryFailure) and failure.retry_at is not None:
            retry_at = max(retry_at, failure.retry_at)
        self._mark(letter, State.QUEUED, detail, retry_at)
        if domain.breaker.opens_until is not None:
            self._set_aside(lane, letter.domain)

    # Ledger

    def _mark(
        self, letter: Letter, state: State, reply: str = "", due_at: datetime | None = None, *, was_tried: bool = True
    ) -> None:
        """`due_at` is for those that are queued again."""
        key = letter.key
        self._retries.pop(key, None)
        if is_in_doubt := key in self._in_doubt:
            self._in_doubt.remove(key)
            if state in (State.STOPPED, State.FAILED):
                state = State.UNKNOWN  # this time it did not arrive; before it may have
            is_in_doubt = state is State.QUEUED
        end = _DELIVERED if state is State.DELIVERED else End(state, due_at, was_tried, is_in_doubt)
        if not reply.isprintable():
            reply = writable(reply)
        record = self._answered if was_tried else self._given_up
        record.put(key >> _BITS, letter.subscriber, self._leaves(key), end, reply[:MOST_REPLY])
        self._due.set()
        if len(self._answered) >= BATCH:
            self._at_once.set()

    def _leaves(self, key: int) -> int:
        """A letter is in hand no longer; gives the lease by which it was."""
        lease = self._lease_of.pop(key)
        self._left[lease] -= 1
        if not self._left[lease]:
            del self._left[lease]
            self._over.append(lease)
        return lease

    def _ask_ledger(self) -> None:
        """Without waiting for a full batch."""
        self._due.set()
        self._at_once.set()

    async def _keeps_ledger(self) -> None:
        while True:
            await self._due.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BATCH_S):
                    await self._at_once.wait()
            self._page = asyncio.create_task(self._turn_page())
            await asyncio.shield(self._page)

    async def _turn_page(self) -> None:
        """One transaction: what became of the letters, and the next ones in hand."""
        self._due.clear()
        self._at_once.clear()
        answered, given_up, over = self._answered, self._given_up, self._over
        recalled, wanted = self._recalled, self._wanted()
        if not (answered or given_up or over or recalled or wanted):
            return
        self._answered, self._given_up, self._over, self._recalled = Record(), Record(), [], set()
        record, self._writing = answered + given_up if given_up else answered, len(answered)
        try:
            if self._may_hold:
                await self._give_back(record)
            # Before the desks of an alert, which have only begun: the lines have nothing to carry without this.
            claimed = await self.database.writes_next(self._write_and_claim, record, over, recalled, wanted)
        except StoreError as error:
            # Nothing more leaves until this is written: the lines wait on what is unrecorded.
            log.error(
                "mailroom.record_failed", channel=self.channel.name, why=type(error).__name__, letters=len(record)
            )
            self._answered, self._given_up = answered + self._answered, given_up + self._given_up
            self._over = over + self._over
            self._recalled |= recalled
            self._may_hold = True
            self._due.set()
            await asyncio.sleep(0.5)
            return
        finally:
            self._writing = 0
        for (mailing, _most), taken in zip(wanted, claimed, strict=True):
            self._take_in_hand(mailing, taken)
            if taken.is_all and mailing in self._more[mailing.lane]:
                self._more[mailing.lane].remove(mailing)
        if self._waits_for_others:
            self.wake.ring()
        if self._wanted():
            self._ask_ledger()
        self._announce()

    async def _give_back(self, record: Record) -> None:
        """A claim may have been written without our hearing of it: its letters are in nobody's hand. Those that have gone
        out and wait for their record are not among them."""
        kept = {*self._left, *self._over, *record.leases, *self._answered.leases, *self._given_up.leases}
        await self.database.writes(
            leases.give_back, self.channel.name, self.channel.mode, worker=self.worker.id, kept=kept
        )
        self._may_hold = False

    def _wanted(self) -> list[tuple[Delivery, int]]:
        """Whose letters to claim, and how many: those of the first mailing of each lane that may have more."""
        wanted = []
        for lane, mailings in self._more.items():
            # Those who come back go among the others at once: at the end they would all be of one domain.
            can_go = 0 if self._recalled else self._can_go(lane)
            room = MOST_IN_HAND - self._trays[lane].size
            if mailings and can_go <= IN_HAND // 2 and room > 0:
                wanted.append((mailings[0], min(IN_HAND - can_go, room)))
        return wanted

    def _can_go(self, lane: Lane) -> int:
        """How many of the letters in hand do not wait for their domain."""
        tray = self._trays[lane]
        if tray.size <= IN_HAND // 2:
            return tray.size
        return tray.size - sum(len(tray.by_domain[name]) for name in self._waiting(lane))

    def _write_and_claim(
        self,
        connection: Connection,
        record: Record,
        over: Collection[int],
        recalled: Collection[str],
        wanted: Sequence[tuple[Delivery, int]],
    ) -> list[Taken]:
        now = self.clock.now()
        deliveries.hold(connection, record.mailings | {mailing.id for mailing, _ in wanted})
        recipients.write_down(connection, record, now)
        leases.end(connection, over)
        if recalled:
            recipients.recall(connection, self._mailings, recalled, now)
        return [self._claim(connection, mailing, most, now) for mailing, most in wanted]

    def _claim(self, connection: Connection, mailing: Delivery, most: int, now: datetime) -> Taken:
        taken = recipients.claim(connection, mailing.id, worker=self.worker.id, now=now, limit=most)
        if taken.letters and mailing.id not in self._open:
            self._open[mailing.id] = self._opened(connection, mailing)
        if taken.letters and mailing.first_attempt_at is None:
            deliveries.note_first_attempt(connection, mailing.id, now)
        return taken

    def _opened(self, connection: Connection, mailing: Delivery) -> _Open:
        """Here, by the claim of its first letters: to ask for it before costs an alert more ways to the database and
        back, and most parts of an alert have no reader."""
        issue, payload = issues.by_id(connection, mailing.issue_id), deliveries.get(connection, mailing.id).payload
        assert payload is not None
        self.channel.load(issue.id, payload)
        return _Open(
            issue=issue.id, part=mailing.part, category=issue.message.category, is_drill=issue.message.is_drill
        )

    def _take_in_hand(self, mailing: Delivery, taken: Taken) -> None:
        if not taken.letters:
            return
        tray, now, opened = self._trays[mailing.lane], self.clock.now(), self._open[mailing.id]
        is_stopping = mailing.id in self._stopping  # since the claim
        self._left[taken.lease] = len(taken.letters)
        for subscriber, attempts, address, name, epoch, is_in_doubt, _ in taken.letters:
            key = key_of(mailing.id, subscriber)
            self._lease_of[key] = taken.lease
            letter = Letter(
                key, opened.part, address, name, subscriber, epoch, opened.issue, opened.is_drill, opened.category
            )
            if is_in_doubt:
                self._in_doubt.add(key)
            if is_stopping:
                self._mark(letter, State.STOPPED, was_tried=False)
                continue
            if attempts:
                self._retries[key] = attempts
            if (domain := self._domains.get(name)) is None:
                domain = self._domains[name] = Domain()
            if not domain.is_proven and (until := self._rests_until(domain, mailing.lane, now)):
                self._give_up([letter], until)
                continue
            tray.put(letter)

    async def _finish(self) -> None:
        """In good order: write down what was carried, give back what was not."""
        now = self.clock.now()
        self._may_have_more([])
        for tray in self._trays.values():
            for letter in tray.draw():
                self._leaves(letter.key)  # it stands in the queue as it did
        for letter, _, _ in list(self._carried.values()):
            self._mark(letter, State.QUEUED, "", now)
        await self._turn_page()

    def forget(self) -> None:
        """Given up for dead by the others: everything in hand belongs to somebody else now."""
        for tray in self._trays.values():
            for letter in tray.draw():
                self._leaves(letter.key)


async def _ended(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancelled, and asked again: `wait_for` of Python 3.11, below the library that connects, loses a cancel that comes
    in the moment in which it is done (cpython issue 86296), and such a line would wait for letters for ever."""
    waiting = set(tasks)
    while waiting:
        for task in waiting:
            task.cancel()
        done, waiting = await asyncio.wait(waiting, timeout=CLOSING_S)
        await asyncio.gather(*done, return_exceptions=True)


@dataclass(frozen=True, kw_only=True)
class _Open:
    """What the letters of an open mailing have in common."""

    issue: int
    part: str
    category: str
    is_drill: bool


@dataclass(kw_only=True)
class Worker:
    """This process as the ledger knows it."""

    id: int
    role: str
    pid: int

    async def beat(self, database: Database, clock: Clock, lasts: timedelta) -> bool:
        """Say that one lives. False when one had been given up for dead: then a new number has been taken."""
        now = clock.now()
        if await database.writes(workers.beat, self.id, now=now, lasts=lasts):
            return True
        self.id = await database.writes(workers.enlist, role=self.role, pid=self.pid, now=now, lasts=lasts)
        return False
