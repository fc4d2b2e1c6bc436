"""The sender: works the lanes. Web and sender are separate processes; this one dials, and listens on nothing.

Each channel has a task for each lane, so that a hung routine post never holds up an alert, and no channel waits for
another. Mailings have their mailroom. A sweeper finds what nobody is doing: work of dead workers, within 15 s.

What fails stays where it is: a channel with a mistake in it is a medium that fails, and a task that breaks is begun anew
beside the others. While the database cannot be written, nothing further leaves: what was sent is held until it is
written down. Nothing here trusts the wall clock to go on: who is silent is judged by looks, and a clock that is set back
takes what waits with it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from broadcaster.channel import (
    Channel,
    DeliveryFailure,
    Mailing,
    OutcomeUnknown,
    PermanentFailure,
    Tells,
    TemporaryFailure,
)
from broadcaster.delivery import RETRY, Breaker, Lane, State, Tried
from broadcaster.logs import where
from broadcaster.mailroom import Mailroom, Relay, Worker
from broadcaster.message import Mode
from broadcaster.pipeline import Pipeline
from broadcaster.signals import POLL_S
from broadcaster.store import deliveries, leases, setback, staffmails, workers
from broadcaster.store.database import Connection, Database, StoreError
from broadcaster.store.deliveries import Delivery, Place
from broadcaster.store.staffmails import StaffMail

log = structlog.get_logger(__name__)

BEAT = timedelta(seconds=1)
ALIVE_FOR = timedelta(seconds=6)
"""What others may think of one that has just said that it lives."""

SWEEP = timedelta(seconds=3)
LOOKS = 2
"""A worker is given up when so many looks in a row, `SWEEP` apart, have found no new beat: after 6 to 9 s. Looks that
could not be made do not count, so after a database was away nobody is given up who is there."""

PAUSE_S = 0.5
"""Before the next try to write something down, or to begin again what broke."""

STAFF_LOOK_S = 5.0
"""So often somebody looks for mails to staff, besides at every wake-up."""

LONGEST_TRY = timedelta(seconds=60)
"""No attempt of a push or a board may take longer, whatever the medium does."""


class Sender:
    def __init__(self, pipeline: Pipeline, lanes: Sequence[Lane], relay_of: dict[Mode, Relay] | None = None) -> None:
        self.pipeline = pipeline
        self.lanes = sorted(lanes)
        self._relays = relay_of or {}
        self._mailrooms: dict[tuple[Mode, str], Mailroom] = {}
        self._outlook = _Outlook(pipeline.database)

    async def run(self) -> None:
        """Until cancelled."""
        database, clock = self.pipeline.database, self.pipeline.clock
        role = "sender" if len(self.lanes) > 1 else f"sender-{self.lanes[0].name.lower()}"
        worker = Worker(id=0, role=role, pid=os.getpid())
        wall = WallClock(clock.now(), asyncio.get_running_loop().time())  # before anybody can see this sender
        await worker.beat(database, clock, ALIVE_FOR)
        log.info("sender.started", worker=worker.id, lanes=[lane.name.lower() for lane in self.lanes])
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._lives(worker, wall))
                group.create_task(self._sweeps())
                for channels in self.pipeline.channels.values():
                    for channel in channels.values():
                        self._staff(group, channel, worker)
                for channel in self.pipeline.channels[Mode.LIVE].values():
                    if isinstance(channel, Tells):
                        group.create_task(_kept(channel, StaffPost(self.pipeline, channel).carries))
        finally:
            await asyncio.shield(database.writes(workers.retire, worker.id))

    def _staff(self, group: asyncio.TaskGroup, channel: Channel, worker: Worker) -> None:
        if isinstance(channel, Mailing):
            group.create_task(_kept(channel, lambda: self._mailroom(channel, worker).run()))
            return
        breaker = Breaker()
        for lane in self.lanes:
            desk = _Desk(self.pipeline, channel, lane, worker, breaker, self._outlook)
            group.create_task(_kept(channel, desk.works))

    def _mailroom(self, channel: Mailing, worker: Worker) -> Mailroom:
        mailroom = Mailroom(
            channel=channel,
            database=self.pipeline.database,
            clock=self.pipeline.clock,
            signals=self.pipeline.signals,
            worker=worker,
            lanes=self.lanes,
            relay=self._relays.get(channel.mode) or Relay(0, 0),
        )
        self._mailrooms[channel.mode, channel.name] = mailroom
        return mailroom

    async def _lives(self, worker: Worker, wall: WallClock) -> None:
        beats = 0
        while True:
            await asyncio.sleep(BEAT.total_seconds())
            beats += 1
            try:
                await self._follow(wall)
                # Every beat is another instant, also by a clock that stands still.
                lives = await worker.beat(
                    self.pipeline.database, self.pipeline.clock, ALIVE_FOR + timedelta(microseconds=beats)
                )
            except StoreError as error:
                log.error("worker.beat_failed", worker=worker.id, why=type(error).__name__)
                continue
            if not lives:
                log.warning("worker.was_given_up", worker=worker.id)
                for mailroom in self._mailrooms.values():
                    mailroom.forget()

    async def _follow(self, wall: WallClock) -> None:
        """What waits goes back with a clock that was set back."""
        now = self.pipeline.clock.now()
        by = wall.set_back_by(now, asyncio.get_running_loop().time())
        if not by:
            return
        database = self.pipeline.database
        log.warning("clock.was_set_back", ms=by // timedelta(milliseconds=1))
        for mailing in await database.writes(setback.bring_deliveries_back, now):
            await database.writes(setback.bring_letters_back, mailing, now, by)
        wall.is_followed()
        self.pipeline.signals.notify()

    async def _sweeps(self) -> None:
        sweeper = Sweeper()
        while True:
            try:
                if await self.pipeline.database.writes(sweeper.sweep, self.pipeline.clock.now()):
                    self.pipeline.signals.notify()
            except StoreError as error:
                log.error("sweeper.failed", why=type(error).__name__)
            await asyncio.sleep(SWEEP.total_seconds())


class StaffPost:
    """Carries mails to staff, one after another, beside everything else: a relay that is slow keeps only these waiting.

    Two senders may carry the same one: it has one Message-ID."""

    def __init__(self, pipeline: Pipeline, channel: Tells) -> None:
        self.pipeline = pipeline
        self.channel = channel
        self.wake = pipeline.signals.subscribe()

    async def carries(self) -> None:
        """Until cancelled."""
        while True:
            try:
                waiting = await self.pipeline.database.reads(staffmails.due, self.pipeline.clock.now())
                for mail in waiting:
                    await self._carry(mail)
            except StoreError as error:
                log.error("staffmail.record_failed", why=type(error).__name__)
                waiting = ()
                await asyncio.sleep(PAUSE_S)
            if not waiting:
                await self.wake.wait(STAFF_LOOK_S)

    async def _carry(self, mail: StaffMail) -> None:
        database, now = self.pipeline.database, self.pipeline.clock.now()
        try:
            await self.channel.tell(mail.to, mail.subject, mail.body, key=f"{mail.id}.{mail.created_at:%Y%m%d%H%M%S}")
        except DeliveryFailure as failure:
            if isinstance(failure, PermanentFailure) or now - mail.created_at > staffmails.GIVEN_UP_AFTER:
                log.error("staffmail.given_up", id=mail.id, why=str(failure))
                await database.writes(staffmails.settle, mail.id, now, f"given up: {failure}")
                return
            pause = RETRY[Lane.ROUTINE].wait_after(mail.attempts + 1)
            await database.writes(staffmails.again, mail.id, now + pause, str(failure))
            return
        await database.writes(staffmails.settle, mail.id, now, "sent")


async def _kept(channel: Channel, run: Callable[[], Awaitable[None]]) -> None:
    """Begin again what breaks: a mistake at one medium must not silence the others."""
    while True:
        try:
            await run()
        except Exception as error:  # a mistake of ours or of a channel's, whatever it is
            log.error("channel.broke", channel=channel.name, mode=channel.mode, why=where(error))
        await asyncio.sleep(PAUSE_S)


@dataclass
class WallClock:
    """The wall clock beside a steady one, to see by how much it was set back."""

    wall: datetime
    steady: float
    _seen: tuple[datetime, float] | None = None

    def set_back_by(self, wall: datetime, steady: float) -> timedelta:
        """How much was lost when it shows an earlier time than before; else nothing. The same until `is_followed`."""
        if wall >= self.wall:
            self.wall, self.steady = wall, steady
            return timedelta(0)
        self._seen = (wall, steady)
        return timedelta(seconds=steady - self.steady) + (self.wall - wall)

    def is_followed(self) -> None:
        """What waited has been moved: from here on this is the time."""
        if self._seen is not None:
            (self.wall, self.steady), self._seen = self._seen, None


@dataclass
class Sweeper:
    """Finds work that nobody is doing."""

    _seen: dict[int, datetime] = field(default_factory=dict)
    _silent: dict[int, int] = field(default_factory=dict)  # so many looks have found nothing new

    def sweep(self, connection: Connection, now: datetime) -> int:
        """Look once, and give back what dead workers held; gives how much."""
        for id, beat in self._given_up(workers.beats(connection)).items():
            workers.give_up(connection, id, beat)
        dead = workers.struck_off(connection)
        if not dead:
            return 0
        released = deliveries.release(connection, dead) + leases.release(connection, dead, now)
        log.warning("sweeper.released", workers=sorted(dead), work=released)
        return released

    def _given_up(self, beats: Mapping[int, datetime]) -> Mapping[int, datetime]:
        self._silent = {id: self._silent.get(id, 0) + 1 if self._seen.get(id) == beats[id] else 0 for id in beats}
        self._seen = dict(beats)
        return {id: beat for id, beat in beats.items() if self._silent[id] >= LOOKS}


class _Outlook:
    """What falls due next at each desk, by one look at the ledger for all of them: after a ring they ask at once, and an
    alert's first letter would stand in line behind two dozen questions."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._desks: list[Place] = []
        self._turn = asyncio.Lock()
        self._coming: asyncio.Task[Mapping[Place, datetime]] | None = None  # a look that has not begun yet

    def add(self, place: Place) -> None:
        self._desks.append(place)

    async def next_due_at(self, place: Place) -> datetime | None:
        if self._coming is None:
            self._coming = asyncio.create_task(self._look())
        return (await asyncio.shield(self._coming)).get(place)

    async def _look(self) -> Mapping[Place, datetime]:
        async with self._turn:
            self._coming = None  # who asks from here on may ask because of what this look does not see yet
            return await self._database.reads(deliveries.next_due, self._desks)


class _Desk:
    """One channel, one lane, one task: take what is due, try it, write it down."""

    def __init__(
        self, pipeline: Pipeline, channel: Channel, lane: Lane, worker: Worker, breaker: Breaker, outlook: _Outlook
    ) -> None:
        self.pipeline, self.channel, self.lane = pipeline, channel, lane
        self.worker, self.breaker, self.outlook = worker, breaker, outlook
        outlook.add((channel.name, channel.mode, lane))
        self.wake = pipeline.signals.subscribe()
        self._may_hold = False  # a claim, or what followed, whose end was not heard

    async def works(self) -> None:
        while True:
            try:
                busy = await self._work()
            except StoreError as error:
                log.error(
                    "lane.failed", channel=self.channel.name, lane=self.lane.name.lower(), why=type(error).__name__
                )
                self._may_hold, busy = True, False
            except Exception:
                self._may_hold = True
                raise
            if not busy:
                await self.wake.wait(POLL_S)

    async def _work(self) -> bool:
        """Whether there was anything to do."""
        now = self.pipeline.clock.now()
        if self._may_hold:
            await self._give_back()
        if self.lane is not Lane.PRIORITY and self.breaker.is_open(now):
            return False
        due_at = await self.outlook.next_due_at((self.channel.name, self.channel.mode, self.lane))
        if due_at is None or due_at > now:
            return False
        taken = await self.pipeline.database.writes(
            deliveries.take_due,
            channel=self.channel.name,
            mode=self.channel.mode,
            lane=self.lane,
            worker=self.worker.id,
            now=now,
            limit=1,
        )
        for delivery in taken:
            await self._try(delivery)
        return bool(taken)

    async def _give_back(self) -> None:
        await self.pipeline.database.writes(
            deliveries.give_back,
            channel=self.channel.name,
            mode=self.channel.mode,
            lane=self.lane,
            worker=self.worker.id,
        )
        self._may_hold = False

    async def _try(self, delivery: Delivery) -> None:
        began_at = self.pipeline.clock.now()
        tried = await self._attempt(delivery)
        await self._write_down(delivery, tried, began_at)
        log.info(
            f"delivery.{tried.state.name.lower()}",
            key=delivery.key,
            channel=delivery.channel,
            lane=self.lane.name.lower(),
            attempt=delivery.attempts,
            why=tried.detail,
        )

    async def _attempt(self, delivery: Delivery) -> Tried:
        try:
            async with asyncio.timeout(LONGEST_TRY.total_seconds()):
                tried = await self.pipeline.attempt(delivery)
        except TimeoutError:
            tried = self.pipeline.after_failure(delivery, _in_doubt(delivery, "返事がありませんでした。"))
        except StoreError as error:  # no word about the medium: it was not asked, or is asked again
            log.error("delivery.not_tried", key=delivery.key, why=type(error).__name__)
            retry_at = self.pipeline.clock.now() + timedelta(seconds=1)
            detail = "データベースを使えませんでした。"
            return Tried(state=State.QUEUED, detail=detail, retry_at=retry_at, is_in_doubt=delivery.is_in_doubt)
        except Exception as error:  # a mistake in a channel is a fault of that medium, and of no other
            log.error("channel.broke", channel=delivery.channel, key=delivery.key, why=where(error))
            sentence = f"この媒体のプログラムに誤りがあります（{type(error).__name__}）。情報の担当へ伝えてください。"
            tried = self.pipeline.after_failure(delivery, _in_doubt(delivery, sentence))
        if tried.state is State.QUEUED:
            self.breaker.failed(self.pipeline.clock.now())
        else:
            self.breaker.succeeded()
        return tried

    async def _write_down(self, delivery: Delivery, tried: Tried, began_at: datetime) -> None:
        """Until it is written: this desk takes nothing further, so nothing leaves that nobody knows of."""
        while True:
            try:
                await self.pipeline.database.writes(self.pipeline.settle, delivery, tried, began_at)
            except StoreError as error:
                log.error("delivery.not_recorded", key=delivery.key, why=type(error).__name__)
                await asyncio.sleep(PAUSE_S)
            else:
                return


def _in_doubt(delivery: Delivery, sentence: str) -> DeliveryFailure:
    """Only a post can stand twice; everything else is simply done again."""
    return OutcomeUnknown(sentence) if delivery.kind == deliveries.PUSH else TemporaryFailure(sentence)
