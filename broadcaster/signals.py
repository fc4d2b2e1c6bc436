"""Wake-ups: "something has changed, look at the database". They carry no content and decide nothing.

Between processes on one machine a datagram socket each, with no server installed; between machines Redis besides, where
one is configured. Every waiter also has a time-out, so a lost wake-up costs at most one poll. No sender of a wake-up
ever waits: not for a dead process, not for a hung Redis.

Why nothing else is kept in Redis. Everything that must be shared is in the database already, and a copy could only
contradict it when it is lost: two schedulers give one run because whoever settles a row of the plan carries it out in the
same transaction (a lease would save the second one a look, not a run); what a day's posts have used up is counted in the
ledger; every web process composes its boards from the issues in force, so their bytes and tags are equal. An emptied
Redis therefore loses nothing, because there was nothing in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Protocol

import redis
import redis.asyncio
import structlog
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from broadcaster.problems import refuse

log = structlog.get_logger(__name__)

POLL_S = 0.5
"""The net below every wake-up: nothing is later than this."""

CHANNEL = "broadcaster:wake"
_REDIS_TIMEOUT_S = 0.5

SILENT_S = 5.0
"""After so long without a word Redis is asked for one, and after as long again its connection is given up. A server that
hung and then went away closes nothing: whoever only listened would be deaf for ever."""

_AGAIN_S = 1.0


class Wake:
    """One waiter's bell. Rings that come while it is busy count as one. Any thread may ring."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._turn = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    def ring(self) -> None:
        with self._turn:
            loop = self._loop
            if loop is None or self._thread == threading.get_ident():
                self._event.set()  # nobody waits yet, or we are the loop's own thread
                return
        with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._event.set)

    async def wait(self, timeout_s: float = POLL_S) -> bool:
        """True when it rang, False when the time ran out. A ring in that very moment is kept for the next time."""
        with self._turn:
            self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Signals(Protocol):
    def notify(self) -> None:
        """Wake everybody who waits, in whatever process. Never blocks, never raises; from any thread."""
        ...

    def subscribe(self) -> Wake:
        """A bell in this process. Needs `start` to hear other processes."""
        ...

    def unsubscribe(self, wake: Wake) -> None:
        """Nobody waits for this bell any more."""
        ...

    async def start(self) -> None: ...

    async def close(self) -> None: ...


class LocalSignals:
    """Within one process."""

    def __init__(self) -> None:
        self._wakes: list[Wake] = []

    def notify(self) -> None:
        for wake in list(self._wakes):
            wake.ring()

    def subscribe(self) -> Wake:
        wake = Wake()
        self._wakes.append(wake)
        return wake

    def unsubscribe(self, wake: Wake) -> None:
        with contextlib.suppress(ValueError):
            self._wakes.remove(wake)

    async def start(self) -> None:
        return None

    async def close(self) -> None:
        self._wakes.clear()


class SocketSignals(LocalSignals):
    """Between the processes of one machine: each listens on a socket in one folder, which only its owner may enter.

    The folder goes with the last who leaves it. What a killed process left is taken away by whoever meets it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = _short(folder)
        self._own: Path | None = None
        self._ear: socket.socket | None = None

    def notify(self) -> None:
        super().notify()
        for path in self._others("*.sock"):
            if not _rang(path):
                self._forget(path)

    def _others(self, *patterns: str) -> Iterator[Path]:
        with contextlib.suppress(OSError):
            found = [path for pattern in patterns for path in self._folder.glob(pattern)]
            yield from (path for path in found if path != self._own)

    def _forget(self, dead: Path) -> None:
        with contextlib.suppress(OSError):
            if _is_ours(self._folder):  # in another's folder we ring, and touch nothing
                dead.unlink()

    async def start(self) -> None:
        while self._own is None:
            with contextlib.suppress(FileNotFoundError):  # another who left has taken the folder away meanwhile
                self._make_folder()
                self._settle_in()
        assert self._ear is not None
        asyncio.get_running_loop().add_reader(self._ear, self._heard)

    def _make_folder(self) -> None:
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._folder.mkdir(mode=0o700)
        except FileExistsError:
            if not _is_ours(self._folder):
                raise refuse(
                    "BROADCASTER_HOME",
                    ja=f"{self._folder} は別の利用者のものです。消してもらうか、BROADCASTER_HOME を短い場所にしてください。",
                    en=f"{self._folder} belongs to another user; have it removed, or choose a shorter BROADCASTER_HOME.",
                ) from None

    def _settle_in(self) -> None:
        """Raises FileNotFoundError when the folder, or the socket before it had its name, was taken away."""
        name = f"{os.getpid()}-{secrets.token_hex(4)}"
        # Between its birth and its binding a socket looks like that of a dead process: it gets its name afterwards.
        born, own = self._folder / f"{name}.new", self._folder / f"{name}.sock"
        ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            ear.setblocking(False)
            ear.bind(str(born))
            born.chmod(0o600)
            born.rename(own)
        except BaseException:
            ear.close()
            raise
        self._ear, self._own = ear, own

    def _heard(self) -> None:
        assert self._ear is not None
        with contextlib.suppress(BlockingIOError):
            while self._ear.recv(16):
                pass
        LocalSignals.notify(self)

    async def close(self) -> None:
        if self._ear is not None:
            asyncio.get_running_loop().remove_reader(self._ear)
            self._ear.close()
            self._ear = None
        if self._own is not None:
            self._own.unlink(missing_ok=True)
            self._own = None
        self._leave()
        await super().close()

    def _leave(self) -> None:
        for path in self._others("*.sock", "*.new"):
            if not _lives(path):
                self._forget(path)
        with contextlib.suppress(OSError):  # somebody is in it
            if _is_ours(self._folder):
                self._folder.rmdir()


def _rang(path: Path) -> bool:
    """False when its process is gone. Whatever else prevents it (no more files, no memory) the poll makes good."""
    return _reached(path, lambda mouth: mouth.sendto(b"1", str(path)))


def _lives(path: Path) -> bool:
    """The same without a ring."""
    return _reached(path, lambda mouth: mouth.connect(str(path)))


def _reached(path: Path, act: Callable[[socket.socket], object]) -> bool:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mouth:
            mouth.setblocking(False)
            act(mouth)
    except ConnectionRefusedError:
        return False
    except OSError:
        return True  # a full queue too: it is awake already
    return True


def _is_ours(folder: Path) -> bool:
    """Ours, and no link of another's that leads to what is ours. Raises FileNotFoundError."""
    return folder.lstat().st_uid == folder.stat().st_uid == os.geteuid()


_LONGEST_PATH = 107
"""Bytes of a socket's address (sun_path, unix(7))."""

_LONGEST_NAME = 32


def _short(folder: Path) -> Path:
    """The folder itself, or for one with a long path a folder of the same meaning among the temporary ones."""
    if len(os.fsencode(folder)) + _LONGEST_NAME <= _LONGEST_PATH:
        return folder
    digest = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"broadcaster-{digest}"


class RedisSignals(SocketSignals):
    """Between machines, and on each machine by its sockets as well: Redis may die, be emptied or hang at any moment."""

    def __init__(self, folder: Path, url: str) -> None:
        """Raises Refused with a sentence for a URL that is none of Redis."""
        super().__init__(folder)
        self._url = _checked(url)
        self._publisher = _Publisher(url)
        self._listener: asyncio.Task[None] | None = None

    def notify(self) -> None:
        super().notify()
        self._publisher.ring()

    async def start(self) -> None:
        await super().start()
        self._listener = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        """For ever; while Redis is away the poll is the net."""
        is_lost = False
        while True:
            client = redis.asyncio.Redis.from_url(
                self._url, socket_timeout=SILENT_S, socket_connect_timeout=2, retry=AsyncRetry(NoBackoff(), 0)
            )
            try:
                async with client.pubsub() as hears:
                    await hears.subscribe(CHANNEL)
                    async for _ in _words(hears):
                        if is_lost:
                            log.info("redis.is_back")
                        is_lost = False
                        LocalSignals.notify(self)
            except (redis.RedisError, OSError) as error:
                if not is_lost:
                    log.warning("redis.is_lost", why=type(error).__name__)
                is_lost = True
            finally:
                with contextlib.suppress(redis.RedisError, OSError):
                    await client.aclose()
            await asyncio.sleep(_AGAIN_S)

    async def close(self) -> None:
        await asyncio.to_thread(self._publisher.close)
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        await super().close()


async def _words(hears: redis.asyncio.client.PubSub) -> AsyncIterator[None]:
    """Each ring, and one at the beginning: something may have been missed. Raises redis.TimeoutError when Redis has gone
    silent."""
    is_asked = False
    while True:
        said = await hears.get_message(timeout=SILENT_S)
        if said is None and is_asked:
            raise redis.TimeoutError("no answer")
        is_asked = said is None
        if said is None:
            await hears.ping()
        elif said["type"] != "pong":
            yield


class _Publisher:
    """Tells Redis, in a thread of its own with short time-outs: nobody waits for it. Rings meanwhile count as one."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._news = threading.Condition()
        self._is_rung = self._is_over = False
        self._thread: threading.Thread | None = None

    def ring(self) -> None:
        with self._news:
            if self._thread is None:
                self._thread = threading.Thread(target=self._tell, name="redis-wake", daemon=True)
                self._thread.start()
            self._is_rung = True
            self._news.notify()

    def _tell(self) -> None:
        client = redis.Redis.from_url(
            self._url,
            socket_timeout=_REDIS_TIMEOUT_S,
            socket_connect_timeout=_REDIS_TIMEOUT_S,
            # Once more on a new connection: the one in hand may have died since the last ring.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        )
        while self._waits_for_news():
            with contextlib.suppress(redis.RedisError, OSError):
                client.publish(CHANNEL, b"1")
        client.close()

    def _waits_for_news(self) -> bool:
        """Whether there is something to tell; False at the end, when everything has been told."""
        with self._news:
            self._news.wait_for(lambda: self._is_rung or self._is_over)
            is_rung, self._is_rung = self._is_rung, False
            return is_rung

    def close(self) -> None:
        """The last ring still goes out, if Redis takes it in time."""
        with self._news:
            self._is_over = True
            self._news.notify()
        if self._thread is not None:
            self._thread.join(2 * _REDIS_TIMEOUT_S)


def _checked(url: str) -> str:
    try:
        redis.Redis.from_url(url).close()  # dials nothing yet
    except ValueError:
        raise refuse(
            "BROADCASTER_REDIS_URL",
            ja="Redis の場所を読めません。redis://ホスト:6379/0 の形で書いてください。",
            en="The Redis URL cannot be read; write redis://HOST:6379/0.",
        ) from None
    return url
