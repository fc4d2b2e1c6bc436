"""The sender: works the lanes. Web and sender are separate processes; this one dials, and listens on nothing.

Each channel has a task for each lane, so that a hung routine post never holds up an alert, and no channel waits for
another. Mailings have their mailroom. A sweeper finds what nobody is doing: work of dead workers, within 15 s.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from broadcaster.channel import Channel, Mailing
from broadcaster.delivery import Breaker, Lane, State, Tried
from broadcaster.mailroom import Mailroom, Relay, Worker
from broadcaster.message import Mode
from broadcaster.pipeline import Pipeline
from broadcaster.signals import POLL_S
from broadcaster.store import deliveries, recipients, workers
from broadcaster.store.database import Connection, StoreError
from broadcaster.store.deliveries import Delivery

log = structlog.get_logger(__name__)

BEAT = timedelta(seconds=1)
GIVEN_UP_AFTER = timedelta(seconds=6)
SWEEP = timedelta(seconds=3)
"""Beats, sweeps and the time after which a silent worker is given up add up to less than 15 s."""

LONGEST_TRY = timedelta(seconds=60)
"""No attempt of a push or a board may take longer, whatever the medium does."""


class Sender:
    def __init__(self, pipeline: Pipeline, lanes: Sequence[Lane], relay_of: dict[Mode, Relay] | None = None) -> None:
        self.pipeline = pipeline
        self.lanes = sorted(lanes)
        self._relays = relay_of or {}
        self._mailrooms: list[Mailroom] = []

    async def run(self) -> None:
        """Until cancelled."""
        database, clock = self.pipeline.database, self.pipeline.clock
        role = "sender" if len(self.lanes) > 1 else f"sender-{self.lanes[0].name.lower()}"
        worker = Worker(id=0, role=role, pid=os.getpid())
        await worker.beat(database, clock, GIVEN_UP_AFTER)
        log.info("sender.started", worker=worker.id, lanes=[lane.name.lower() for lane in self.lanes])
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._lives(worker))
                group.create_task(self._sweeps())
                for channels in self.pipeline.channels.values():
                    for channel in channels.values():
                        self._staff(group, channel, worker)
        finally:
            await asyncio.shield(database.writes(workers.retire, worker.id, clock.now()))

    def _staff(self, group: asyncio.TaskGroup, channel: Channel, worker: Worker) -> None:
        if isinstance(channel, Mailing):
            mailroom = Mailroom(
                channel=channel,
                database=self.pipeline.database,
                clock=self.pipeline.clock,
                signals=self.pipeline.signals,
                worker=worker,
                lanes=self.lanes,
                relay=self._relays.get(channel.mode) or Relay(0, 0),
            )
            self._mailrooms.append(mailroom)
            group.create_task(mailroom.run())
            return
        breaker = Breaker()
        for lane in self.lanes:
            group.create_task(_Desk(self.pipeline, channel, lane, worker, breaker).works())

    async def _lives(self, worker: Worker) -> None:
        while True:
            await asyncio.sleep(BEAT.total_seconds())
            try:
                lives = await worker.beat(self.pipeline.database, self.pipeline.clock, GIVEN_UP_AFTER)
            except StoreError:
                log.exception("worker.beat_failed", worker=worker.id)
                continue
            if not lives:
                log.warning("worker.was_given_up", worker=worker.id)
                for mailroom in self._mailrooms:
                    mailroom.forget()

    async def _sweeps(self) -> None:
        while True:
            try:
                if await self.pipeline.database.writes(sweep, self.pipeline.clock.now()):
                    self.pipeline.signals.notify()
            except StoreError:
                log.exception("sweeper.failed")
            await asyncio.sleep(SWEEP.total_seconds())


def sweep(connection: Connection, now: datetime) -> int:
    """Give back what dead workers held; gives how much."""
    dead = workers.dead(connection, now)
    if not dead:
        return 0
    released = deliveries.release(connection, dead) + recipients.release(connection, dead, now)
    workers.bury(connection, dead)
    if released:
        log.warning("sweeper.released", workers=list(dead), work=released)
    return released


class _Desk:
    """One channel, one lane, one task: take what is due, try it, write it down."""

    def __init__(self, pipeline: Pipeline, channel: Channel, lane: Lane, worker: Worker, breaker: Breaker) -> None:
        self.pipeline, self.channel, self.lane = pipeline, channel, lane
        self.worker, self.breaker = worker, breaker
        self.wake = pipeline.signals.subscribe()

    async def works(self) -> None:
        while True:
            try:
                busy = await self._work()
            except StoreError:
                log.exception("lane.failed", channel=self.channel.name, lane=self.lane.name.lower())
                busy = False
            if not busy:
                await self.wake.wait(POLL_S)

    async def _work(self) -> bool:
        """Whether there was anything to do."""
        now = self.pipeline.clock.now()
        if self.lane is not Lane.PRIORITY and self.breaker.is_open(now):
            return False
        due_at = await self.pipeline.database.reads(
            deliveries.next_due_at, channel=self.channel.name, mode=self.channel.mode, lane=self.lane
        )
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

    async def _try(self, delivery: Delivery) -> None:
        began_at = self.pipeline.clock.now()
        tried = await self._attempt(delivery)
        if tried.state is State.QUEUED:
            self.breaker.failed(self.pipeline.clock.now())
        else:
            self.breaker.succeeded()
        await self.pipeline.database.writes(self.pipeline.settle, delivery, tried, began_at)
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
                return await self.pipeline.attempt(delivery)
        except TimeoutError:
            retry_at = self.pipeline.clock.now() + timedelta(seconds=1)
            return Tried(
                state=State.QUEUED,
                detail="返事がありませんでした。",
                retry_at=retry_at,
                is_in_doubt=delivery.kind == "push",
            )
