"""A whole path in one process: a real database, a clock, channels in memory, and a sender to run."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy.exc import OperationalError

from broadcaster import app as assembly
from broadcaster import settings as configuration
from broadcaster.app import App
from broadcaster.boards import public_folder
from broadcaster.clock import Clock, SystemClock
from broadcaster.delivery import Counts, Lane, State
from broadcaster.message import Message, Mode
from broadcaster.pipeline import Pipeline
from broadcaster.rehearsal import smtp, x
from broadcaster.rehearsal.faults import Faults
from broadcaster.reports import of as report_of
from broadcaster.settings import Settings
from broadcaster.signals import LocalSignals
from broadcaster.store import deliveries, issues, subscribers
from broadcaster.store.audit import Actor
from broadcaster.store.database import Database
from broadcaster.store.deliveries import Delivery
from broadcaster.store.messages import Kept
from broadcaster.worker import Sender
from tests.makers import a_notice, a_reader, an_alert
from tests.strangers import Billboard, Carrier, Noticeboard
from tests.waiting import until

STAFF = Actor(name="staff", via="cli")
OWN_MEDIA = ("noticeboard", "carrier", "billboard")
"""The strangers of a house: a board, a mailing and a push."""


@dataclass
class JumpyClock:
    """Runs as the machine's own does, and can be set."""

    ahead: timedelta = timedelta(0)

    def now(self) -> datetime:
        return SystemClock().now() + self.ahead


class Shaky(Database):
    """A database that can be told to fail."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.fails: dict[str, list[str]] = {}
        """By the name of the work, how its next times go: "before" nothing has happened, "after" everything has, and
        the answer was lost."""
        self.failed = 0

    async def writes(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await self._shaken(super().writes, work, *args, **kwargs)

    async def writes_next(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await self._shaken(super().writes_next, work, *args, **kwargs)

    async def _shaken(self, writes: Callable[..., Any], work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        how = self.fails.get(work.__name__) or [""]
        this = how.pop(0)
        result = await writes(work, *args, **kwargs) if this != "before" else None
        if this:
            self.failed += 1
            raise OperationalError("reader-1@mail-1.example", {}, Exception("the server went away"))
        return result


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
        rows = [a_reader(n, **{"domain": f"mail-{n % 5}.example", **columns}) for n in range(number)]
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

    def delivery(self, identifier: str, channel: str, part: str | None = None) -> Delivery:
        """The first of this channel, or the one of this part."""
        with self.database.read() as connection:
            issue = issues.get(connection, identifier)
            assert issue is not None
            return next(
                d
                for d in deliveries.of_issue(connection, issue.id)
                if d.channel == channel and (part is None or d.part == part)
            )

    def attempts(self, delivery: Delivery) -> list[State]:
        with self.database.read() as connection:
            return [attempt.state for attempt in deliveries.attempts_of(connection, delivery.id)]

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
            if task.done():
                await task  # a sender that fell down is no sender: say why
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, condition: Callable[[], object]) -> None:
        await until(condition, 30, every=0.01)

    async def until_settled(self, *identifiers: str) -> None:
        await self.until(lambda: all(self.is_settled(identifier) for identifier in identifiers))

    async def sends(self, *identifiers: str) -> None:
        async with self.sender():
            await self.until_settled(*identifiers)


@dataclass(kw_only=True)
class Rehearsal(House):
    """The shipped channels, and the world outside them as stand-ins in this process."""

    app: App
    faults: Faults
    folder: Path

    def mails(self) -> list[smtp.Mail]:
        return list(smtp.received(self.folder / "mail"))

    def arrived(self) -> int:
        folder = self.folder / "mail" / "new"
        return len(os.listdir(folder)) if folder.is_dir() else 0

    def mails_of(self, identifier: str) -> Counter[str]:
        """How often each reader's mail of this message arrived."""
        return Counter(m.recipient for m in self.mails() if m.message_id.startswith(f"<{identifier}."))

    def posts(self) -> list[str]:
        """The texts that stand on X."""
        try:
            told = json.loads((self.folder / "x" / "posts.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        return [post["text"] for post in told if post["deleted_at"] is None]

    def public(self, path: str) -> Path:
        return public_folder(self.settings.home, Mode.LIVE) / path


@asynccontextmanager
async def a_rehearsal(
    folder: Path,
    *,
    url: str | None = None,
    clock: Clock | None = None,
    make: Callable[[str], Database] = Database,
    **options: Mapping[str, object],
) -> AsyncIterator[Rehearsal]:
    """`options` are those of the channels by name, over what is shipped."""
    clock = clock or SystemClock()
    faults = Faults(folder / "faults.json")
    mail = await smtp.start(folder / "mail", faults, clock=clock)
    social = await x.start(folder / "x", faults, clock=clock)
    shipped = configuration.load({"BROADCASTER_HOME": str(folder / "home")})
    given = {name: {**table, **options.get(name, {})} for name, table in shipped.channel_options.items()}
    configured = replace(shipped, channel_options=given)
    app = assembly.assemble(configured, credentials=True, clock=clock, standins={"email": mail.port, "x": social.port})
    database = make(url or configured.database_url)
    database.upgrade()
    channels: dict[Mode, dict[str, Any]] = {mode: dict(named) for mode, named in app.pipeline.channels.items()}
    try:
        yield Rehearsal(
            settings=configured,
            database=database,
            clock=clock,
            channels=channels,
            app=app,
            faults=faults,
            folder=folder,
        )
    finally:
        await app.close()
        database.close()
        await mail.close()
        await social.close()


@contextmanager
def a_house(
    settings: Settings,
    folder: Path,
    *,
    clock: Clock | None = None,
    url: str | None = None,
    make: Callable[[str], Database] = Database,
) -> Iterator[House]:
    database = make(url or f"sqlite:///{folder / 'house.sqlite3'}")
    database.upgrade()
    try:
        yield House(settings=settings, database=database, clock=clock or SystemClock())
    finally:
        database.close()


def notice(house: House, **changes: Any) -> Message:
    """Of this moment, not sent yet, for the house's own media."""
    return replace(a_notice(house.settings, now=house.clock.now(), channels=OWN_MEDIA), sent_at=None, **changes)


def alert(house: House, id: str = "E04", **changes: Any) -> Message:
    return replace(an_alert(house.settings, id, now=house.clock.now(), channels=OWN_MEDIA), sent_at=None, **changes)
