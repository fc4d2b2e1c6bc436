"""A whole path in one process: a real database, a clock, channels in memory, and a sender to run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broadcaster.clock import Clock, SystemClock
from broadcaster.delivery import Counts, Lane, State
from broadcaster.message import Message, Mode
from broadcaster.pipeline import Pipeline
from broadcaster.reports import of as report_of
from broadcaster.settings import Settings
from broadcaster.signals import LocalSignals
from broadcaster.store import deliveries, issues, subscribers
from broadcaster.store.audit import Actor
from broadcaster.store.database import Database
from broadcaster.store.messages import Kept
from broadcaster.worker import Sender
from tests.makers import NOW
from tests.strangers import Billboard, Carrier, Noticeboard

STAFF = Actor(name="staff", via="cli")


@dataclass(kw_only=True)
class House:
    settings: Settings
    database: Database
    clock: Clock
    signals: LocalSignals = field(default_factory=LocalSignals)
    channels: dict[Mode, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.channels = self.channels or {
            mode: {
                "noticeboard": Noticeboard(mode=mode),
                "carrier": Carrier(mode=mode),
                "billboard": Billboard(mode=mode),
            }
            for mode in Mode
        }
        self.pipeline = self.another_pipeline()

    def another_pipeline(self) -> Pipeline:
        return Pipeline(
            database=self.database,
            clock=self.clock,
            ward=self.settings.ward,
            words=self.settings.words,
            channels=self.channels,
            signals=self.signals,
        )

    @property
    def carrier(self) -> Carrier:
        return self.channels[Mode.LIVE]["carrier"]

    @property
    def billboard(self) -> Billboard:
        return self.channels[Mode.LIVE]["billboard"]

    @property
    def noticeboard(self) -> Noticeboard:
        return self.channels[Mode.LIVE]["noticeboard"]

    def readers(self, number: int, *, is_drill: bool = False, **columns: Any) -> None:
        rows = [
            {
                "email": f"reader-{n}@{columns.get('domain', f'mail-{n % 5}.example')}",
                "domain": f"mail-{n % 5}.example",
                "language": "ja",
                "format": "text",
                "topics": 63,
                "districts": 1,
                "frequency": "at_once",
                "registered_at": NOW,
                "method": "form",
                "state": "active",
                **columns,
            }
            for n in range(number)
        ]
        with self.database.write() as connection:
            for batch in subscribers.batches(rows):
                subscribers.put(connection, batch, is_drill=is_drill)

    def issues(self, message: Message) -> Kept:
        return self.pipeline.hand_in(message, STAFF)

    def counts(self, identifier: str) -> Counts:
        with self.database.read() as connection:
            return Counts(**report_of(connection, identifier)["counts"])

    def states(self, identifier: str) -> dict[str, State]:
        """Of every delivery but those without readers, by channel and part."""
        with self.database.read() as connection:
            issue = issues.get(connection, identifier)
            assert issue is not None
            return {
                f"{d.channel}/{d.part}": d.state
                for d in deliveries.of_issue(connection, issue.id)
                if d.kind != deliveries.MAILING or d.counts.total
            }

    def is_settled(self, identifier: str) -> bool:
        with self.database.read() as connection:
            issue = issues.get(connection, identifier)
            assert issue is not None
            return all(
                d.state not in (State.QUEUED, State.IN_FLIGHT) for d in deliveries.of_issue(connection, issue.id)
            )

    @asynccontextmanager
    async def sender(self, lanes: list[Lane] | None = None) -> AsyncIterator[None]:
        task = asyncio.create_task(Sender(self.another_pipeline(), lanes or list(Lane)).run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until_settled(self, *identifiers: str) -> None:
        async with asyncio.timeout(30):
            while not all(self.is_settled(identifier) for identifier in identifiers):
                await asyncio.sleep(0.01)

    async def sends(self, *identifiers: str) -> None:
        async with self.sender():
            await self.until_settled(*identifiers)


@contextmanager
def a_house(settings: Settings, folder: Path, *, clock: Clock | None = None, url: str | None = None) -> Iterator[House]:
    database = Database(url or f"sqlite:///{folder / 'house.sqlite3'}")
    database.upgrade()
    try:
        yield House(settings=settings, database=database, clock=clock or SystemClock())
    finally:
        database.close()
