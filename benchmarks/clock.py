"""Seven in the morning is everybody's favourite hour: a thousand notices fall due at one instant.

Measured on SQLite with `synchronous=FULL`, in the scheduler's own code and with its own tables:

- the clock's own part: find the thousand that are due and take them, once however many schedulers there are; beside it in
  the same round a job of APScheduler for each, kept in its SQLAlchemyJobStore, doing nothing;
- the whole: every notice issued on dial, signage, mail and feeds, every second one on X too, with its frozen document,
  its 19 deliveries with their words, its end planned and its entry in the log, until the senders are woken. It is made
  ready in the minute before. Beside it the same rows copied by SQLite itself from another file, in one transaction;
- the same when nothing could be made ready, because nobody was there in the minute before;
- how long another process waits for the database's lock meanwhile: that is what an emergency would feel;
- the tick of an idle clock, and a look at the table with 1,000 and with 100,000 plans in it.

    python -m benchmarks N10

What limits it: the clock's own part is one query along an index and one statement. The whole is 20,000 rows of about
1 KB in four indexes; it goes in bundles of 16 with pauses, which keep the lock free for others.
How it grows: in step with what is due, and not with what is planned for later.
"""

from __future__ import annotations

import asyncio
import select
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from benchmarks.rounds import (
    ROUNDS,
    ROUNDS_QUICK,
    Figure,
    Spread,
    at_least,
    at_most,
    cpu_s,
    plain,
    ratio,
    rounds,
    running,
    spread,
)
from broadcaster import app as assembly
from broadcaster import settings as configuration
from broadcaster.app import App
from broadcaster.clock import FrozenClock
from broadcaster.message import Info, Message, Mode
from broadcaster.scheduler import TOGETHER, Scheduler
from broadcaster.settings import Settings
from broadcaster.signals import LocalSignals
from broadcaster.store import plans
from broadcaster.store.audit import Actor
from broadcaster.store.database import Database

TITLE = "A thousand notices at one hour"
WHY = __doc__

DUE = 1000
BEGIN = datetime(2026, 11, 30, 15, 0, tzinfo=UTC)
HOUR = BEGIN + timedelta(hours=1)
_TABLES = ("issues", "deliveries", "plans", "audit")


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One contender in one round."""

    seconds: float
    first_s: float = 0.0
    held_ms: list[float] = field(default_factory=list)  # the write lock, by bundle
    waited_ms: list[float] = field(default_factory=list)  # for the lock, in another process
    ready_s: float = 0.0


def run(quick: bool) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="bench-clock-", dir="/var/tmp") as temporary:
        ground = Ground(Path(temporary))
        turns: dict[str, Callable[[], Turn]] = {
            "clock": ground.taken,
            "jobs": ground.a_job_each,
            "whole": ground.whole,
            "late": ground.late,
            "copied": ground.copied,
        }
        results = rounds(turns, ROUNDS_QUICK if quick else ROUNDS)
        tick, looks = ground.ticks(), ground.looks()
        idle_us = ground.idle_process(3 if quick else 10)
    own = spread(results, "clock", _ms)
    whole, late = spread(results, "whole", _ms), spread(results, "late", _ms)
    held = [ms for result in results for ms in result["whole"].held_ms]
    waited = sorted(ms for result in results for ms in result["whole"].waited_ms)
    ready = spread(results, "whole", lambda turn: turn.ready_s)
    return [
        Figure(
            name="N10 the clock's own part: 1,000 due found and taken",
            value=own,
            unit="ms",
            bar=at_most(10),
            against=f"a job each: {spread(results, 'jobs', _ms)} ms",
            note="one query, one statement, one commit",
        ),
        Figure(
            name="N10 a job of APScheduler each, the clock = 1",
            value=ratio(results, "jobs", "clock", _ms),
            unit="×",
            bar=at_least(50),
            against="SQLAlchemyJobStore on SQLite, jobs that do nothing",
        ),
        Figure(
            name="N10 the tick of an idle clock",
            value=tick,
            unit="µs",
            bar=at_most(20),
            against=f"a look at the table: {looks[1000]} µs",
            note=f"with 100,000 plans instead of 1,000 a look takes {looks[100_000]} µs; "
            f"the whole idle process: {plain(idle_us)} µs of CPU a second",
        ),
        Figure(
            name="N10 the whole: 1,000 notices issued, from the hour until the last is with the senders",
            value=whole,
            unit="ms",
            bar=at_most(1000),
            against=f"SQLite copying the same rows: {spread(results, 'copied', _ms)} ms",
            note=f"the bar is the promise of ± 1 s: 10 ms is out of reach for rows that are written at the hour; "
            f"the first {TOGETHER} after {spread(results, 'whole', lambda turn: turn.first_s * 1000)} ms; "
            f"made ready before in {ready} s; nothing made ready: {late} ms",
        ),
        Figure(
            name="N10 another process waits for the lock meanwhile: p99",
            value=_percentile(waited, 0.99),
            unit="ms",
            bar=at_most(20),
            against=f"a bundle holds it for {plain(statistics.median(held))} ms, at the most {plain(max(held))} ms",
            note=f"half of {len(waited)} waits: {plain(_percentile(waited, 0.5))} ms; longest {plain(waited[-1])} ms",
        ),
    ]


def _ms(turn: Turn) -> float:
    return turn.seconds * 1000


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def nothing() -> None:
    """What a job of the peer does."""
    global _done
    _done += 1


_done = 0


class Ground:
    """A thousand notices, planned for one hour by the product itself; each turn works on a copy of that database."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._template = folder / "template.sqlite3"
        self._last = self._template
        with self._app(self._template) as (app, settings, _):
            app.database.upgrade()
            Scheduler(app.pipeline, settings).carry_out()
            for number in range(DUE):
                app.pipeline.hand_in(_notice(settings, number), Actor(name="bench", via="cli"))

    @contextmanager
    def _app(self, file: Path) -> Iterator[tuple[App, Settings, FrozenClock]]:
        home = self._folder / "home"
        settings = configuration.load({"BROADCASTER_HOME": str(home), "BROADCASTER_DATABASE_URL": f"sqlite:///{file}"})
        clock = FrozenClock(BEGIN)
        app = assembly.assemble(settings, clock=clock, standins={"email": 1, "x": 1})
        try:
            yield app, settings, clock
        finally:
            asyncio.run(app.close())

    def _copy(self) -> Path:
        file = self._folder / f"turn-{time.monotonic_ns()}.sqlite3"
        shutil.copyfile(self._template, file)
        return file

    def taken(self) -> Turn:
        with self._app(self._copy()) as (app, settings, clock):
            scheduler = Scheduler(app.pipeline, settings)
            scheduler.carry_out()
            with app.database.write() as connection:  # as in a process that has been running since yesterday
                plans.settle_together(connection, [], at=BEGIN)
            clock.move_to(HOUR)
            began = time.perf_counter()
            due = scheduler._due()
            with app.database.write() as connection:
                mine = plans.settle_together(connection, [plan.id for plan in due], at=HOUR)
            took = time.perf_counter() - began
            assert len(mine) == DUE
            return Turn(seconds=took)

    def a_job_each(self) -> Turn:
        return asyncio.run(self._a_job_each())

    async def _a_job_each(self) -> Turn:
        global _done
        file = self._folder / f"jobs-{time.monotonic_ns()}.sqlite3"
        timer = AsyncIOScheduler(jobstores={"default": SQLAlchemyJobStore(url=f"sqlite:///{file}")}, timezone="UTC")
        timer.start(paused=True)
        hour = datetime.now(UTC)
        for _ in range(DUE):
            timer.add_job(nothing, "date", run_date=hour, misfire_grace_time=None)
        _done = 0
        began = time.perf_counter()
        timer.resume()
        while _done < DUE:
            await asyncio.sleep(0.001)
        took = time.perf_counter() - began
        timer.shutdown()
        return Turn(seconds=took)

    def whole(self) -> Turn:
        return self._issued(is_ready=True)

    def late(self) -> Turn:
        return self._issued(is_ready=False)

    def _issued(self, *, is_ready: bool) -> Turn:
        """From the hour to the ring for the last bundle."""
        file = self._copy()
        with self._app(file) as (app, settings, clock):
            scheduler = Scheduler(app.pipeline, settings)
            scheduler.carry_out()
            clock.move_to(HOUR - timedelta(seconds=30))
            began = time.perf_counter()
            if is_ready:
                made = scheduler.make_ready()
                assert made == DUE
            ready_s = time.perf_counter() - began
            rings: list[float] = []
            app.pipeline.signals = _Bell(rings)
            held: list[float] = []
            clock.move_to(HOUR if is_ready else HOUR + timedelta(minutes=5))
            with _watched_lock(app.database, held), _a_neighbour(file) as waited:
                began = time.perf_counter()
                done = scheduler.carry_out()
                took = rings[-1] - began
            assert done == DUE
            self._last = file
            return Turn(seconds=took, first_s=rings[0] - began, held_ms=held, waited_ms=waited, ready_s=ready_s)

    def copied(self) -> Turn:
        """The limit: SQLite itself writes the same rows, from one file into another, in one transaction."""
        file = self._copy()
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("ATTACH ? AS done", [str(self._last)])
            began = time.perf_counter()
            connection.execute("BEGIN IMMEDIATE")
            for table in _TABLES:
                connection.execute(f"INSERT OR IGNORE INTO main.{table} SELECT * FROM done.{table}")
            connection.execute("COMMIT")
            return Turn(seconds=time.perf_counter() - began)

    def ticks(self) -> Spread:
        """Of one tick, in µs, as the timer calls it."""
        with self._app(self._copy()) as (app, settings, clock):
            scheduler = Scheduler(app.pipeline, settings)
            scheduler._looked_at, scheduler._look_at = clock.now(), clock.now() + timedelta(seconds=5)
            times = []
            for _ in range(ROUNDS):
                began = time.perf_counter()
                for _ in range(1000):
                    scheduler._tick()
                times.append((time.perf_counter() - began) * 1000)
            assert not scheduler._look.is_set()
            return Spread.of(times)

    def looks(self) -> dict[int, Spread]:
        """Of one look at the table when nothing is due, in µs, by the number of plans in it."""
        found = {}
        with self._app(self._copy()) as (app, settings, _):
            scheduler = Scheduler(app.pipeline, settings)
            for number in (1000, 100_000):
                with app.database.write() as connection:
                    rows = [
                        {"key": f"far/{n}", "kind": "routine", "due_at": HOUR + timedelta(days=n), "message_id": None}
                        for n in range(number - DUE)
                    ]
                    if rows:
                        plans.add_together(connection, rows)
                scheduler.carry_out()
                times = []
                for _ in range(ROUNDS):
                    began = time.perf_counter()
                    for _ in range(50):
                        scheduler.carry_out()
                    times.append((time.perf_counter() - began) / 50 * 1e6)
                found[number] = Spread.of(times)
        return found

    def idle_process(self, seconds: int) -> float:
        """CPU that the real process uses while it has nothing to do: µs for a second."""
        home = self._folder / "idle"
        environment = {"BROADCASTER_HOME": str(home), "BROADCASTER_LOG": "INFO"}
        app = assembly.assemble(configuration.load(environment), standins={"email": 1, "x": 1})
        app.database.upgrade()
        asyncio.run(app.close())
        log = self._folder / "schedule.log"
        arguments = [sys.executable, "-m", "broadcaster", "schedule"]
        with running(
            arguments, log=log, env=environment, ready=lambda: "scheduler.started" in log.read_text(errors="replace")
        ) as process:
            time.sleep(2)  # its first look writes a week of rules
            before = _cpu_ns(process.pid)
            time.sleep(seconds)
            return (_cpu_ns(process.pid) - before) / 1000 / seconds


def _cpu_ns(pid: int) -> float:
    """Nanoseconds on a processor, by thread, where the kernel tells; a tick of /proc/PID/stat is 10 ms."""
    try:
        return sum(float(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    except OSError:
        return cpu_s(pid) * 1e9


def _notice(settings: Settings, number: int) -> Message:
    title = f"図書館の休館のお知らせ（その{number}）"
    body = "設備の点検のため休館します。図書の返却は入口の返却口へお願いします。"
    x = ("x",) if number % 2 else ()  # at the most 500 posts may wait for X
    return Message(
        identifier=f"13109-hour-{number}",
        mode=Mode.LIVE,
        category="notice",
        infos=(Info(language="ja", headline=title, summary=title, description=body, spoken=body),),
        areas=(settings.ward.whole(),),
        channels=("dial", "signage", "email", "rss", *x),
        effective_at=HOUR,
        expires_at=HOUR + timedelta(days=2),
    )


class _Bell(LocalSignals):
    """In place of the sockets: when each ring came."""

    def __init__(self, rings: list[float]) -> None:
        super().__init__()
        self._rings = rings

    def notify(self) -> None:
        self._rings.append(time.perf_counter())


@contextmanager
def _watched_lock(database: Database, held: list[float]) -> Iterator[None]:
    """Add how long each write transaction of this block lasts, in ms."""
    write = database.write

    @contextmanager
    def watched() -> Iterator[object]:
        with write() as connection:
            began = time.perf_counter()
            yield connection
        held.append((time.perf_counter() - began) * 1000)

    with patch.object(database, "write", watched):
        yield


@contextmanager
def _a_neighbour(file: Path) -> Iterator[list[float]]:
    """Another process that wants the lock again and again, as the web process and the sender do; fills in how long it
    waited each time, in ms."""
    waited: list[float] = []
    arguments = [sys.executable, "-m", "benchmarks.clock", str(file)]
    neighbour = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert neighbour.stdout is not None
    try:
        assert neighbour.stdout.readline() == "ready\n"
        yield waited
        said, _ = neighbour.communicate("enough\n", timeout=60)
        waited += [float(line) for line in said.split()]
    finally:
        if neighbour.poll() is None:
            neighbour.kill()
            neighbour.wait(10)


def _wants_the_lock(file: str) -> None:
    """The other process: takes the lock every 20 ms, writes nothing, and gives it up."""
    database = Database(f"sqlite:///{file}")
    with database.write():
        pass
    print("ready", flush=True)
    waited = []
    while not select.select([sys.stdin], [], [], 0.02)[0]:
        began = time.perf_counter()
        with database.write():
            waited.append((time.perf_counter() - began) * 1000)
    database.close()
    print("\n".join(f"{ms:.3f}" for ms in waited))


RUNS = {"N10": run}

if __name__ == "__main__":
    _wants_the_lock(sys.argv[1])
