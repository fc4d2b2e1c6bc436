"""Wake-ups: "something has changed, look at the database". They carry no content and decide nothing.

Between processes on one machine a datagram socket each, with no server installed; between machines Redis besides, where
one is configured. Every waiter also has a time-out, so a lost wake-up costs at most one poll. No sender of a wake-up
ever waits: not for a dead process, not for a hung Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from broadcaster.problems import refuse

POLL_S = 0.5
"""The net below every wake-up: nothing is later than this."""

CHANNEL = "broadcaster:wake"
_REDIS_TIMEOUT_S = 0.5


class Wake:
    """One waiter's bell. Rings that come while it is busy count as one."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()

    async def wait(self, timeout_s: float = POLL_S) -> bool:
        """True when it rang, False when the time ran out."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Signals(Protocol):
    def notify(self) -> None:
        """Wake everybody who waits, in whatever process. Never blocks, never raises."""
        ...

    def subscribe(self) -> Wake:
        """A bell in this process. Needs `start` to hear other processes."""
        ...

    async def start(self) -> None: ...

    async def close(self) -> None: ...


class LocalSignals:
    """Within one process."""

    def __init__(self) -> None:
        self._wakes: list[Wake] = []

    def notify(self) -> None:
        for wake in self._wakes:
            wake.ring()

    def subscribe(self) -> Wake:
        wake = Wake()
        self._wakes.append(wake)
        return wake

    async def start(self) -> None:
        return None

    async def close(self) -> None:
        self._wakes.clear()


class SocketSignals(LocalSignals):
    """Between the processes of one machine: each listens on a socket in one folder, only its owner may enter."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = _short(folder)
        self._own: Path | None = None
        self._ear: socket.socket | None = None

    def notify(self) -> None:
        super().notify()
        for path in self._others():
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mouth:
                mouth.setblocking(False)
                try:
                    mouth.sendto(b"1", str(path))
                except BlockingIOError:
                    continue  # its queue is full: it is awake already
                except OSError:
                    with contextlib.suppress(OSError):
                        path.unlink()  # its process is gone

    def _others(self) -> Iterator[Path]:
        try:
            names = sorted(self._folder.glob("*.sock"))
        except OSError:
            return
        yield from (path for path in names if path != self._own)

    async def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._folder.stat().st_uid != os.geteuid():
            raise refuse(
                "BROADCASTER_HOME",
                ja=f"{self._folder} は別の利用者のものです。消してもらうか、BROADCASTER_HOME を短い場所にしてください。",
                en=f"{self._folder} belongs to another user; have it removed, or choose a shorter BROADCASTER_HOME.",
            )
        self._own = self._folder / f"{os.getpid()}-{id(self):x}.sock"
        self._ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ear.setblocking(False)
        self._ear.bind(str(self._own))
        self._own.chmod(0o600)
        asyncio.get_running_loop().add_reader(self._ear, self._heard)

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
        await super().close()


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
        super().__init__(folder)
        self._url = url
        self._due = threading.Event()
        self._over = threading.Event()
        self._publisher: threading.Thread | None = None
        self._listener: asyncio.Task[None] | None = None

    def notify(self) -> None:
        super().notify()
        if self._publisher is None:
            self._publisher = threading.Thread(target=self._publish, name="redis-wake", daemon=True)
            self._publisher.start()
        self._due.set()

    def _publish(self) -> None:
        """In a thread of its own with short time-outs and no retries: nobody waits for it."""
        client = redis.Redis.from_url(
            self._url,
            socket_timeout=_REDIS_TIMEOUT_S,
            socket_connect_timeout=_REDIS_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        while self._due.wait(1.0) or not self._over.is_set():
            if self._due.is_set():
                self._due.clear()
                with contextlib.suppress(redis.RedisError):
                    client.publish(CHANNEL, b"1")
        client.close()

    async def start(self) -> None:
        await super().start()
        self._listener = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        """For ever; between two tries the poll is the net."""
        while True:
            client = redis.asyncio.Redis.from_url(
                self._url, socket_timeout=None, socket_connect_timeout=2, retry=AsyncRetry(NoBackoff(), 0)
            )
            try:
                async with client.pubsub() as hears:
                    await hears.subscribe(CHANNEL)
                    async for _ in hears.listen():
                        LocalSignals.notify(self)
            except redis.RedisError:
                await asyncio.sleep(1)
            finally:
                await client.aclose()

    async def close(self) -> None:
        self._over.set()
        if self._publisher is not None:
            await asyncio.to_thread(self._publisher.join, 2)
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        await super().close()
