"""A long way to the relay, on one machine: everything arrives half a round trip later, both ways, in order.

    with a_way_to(sink.port, round_trip_ms=40) as port:        # hand mails to this port
        ...

A process of its own (`python -m benchmarks.delay PORT TARGET ROUND_TRIP_MS`) on uvloop, so that it costs the sender under
test nothing. It delays what is said, not how much: no loss, no limit of bandwidth. Only TCP's own handshake is not
delayed; for each session that is one round trip less than by a real way, for every sender alike.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from benchmarks.rounds import free_port, listens, running
from benchmarks.sinks import SINK_CPU

HOST = "127.0.0.1"


@contextmanager
def a_way_to(port: int, *, round_trip_ms: float, cpu: int | None = SINK_CPU) -> Iterator[int]:
    """Gives the port at the near end."""
    near = free_port()
    with tempfile.TemporaryDirectory() as folder:
        arguments = [sys.executable, "-m", "benchmarks.delay", str(near), str(port), str(round_trip_ms)]
        log = Path(folder) / "delay.log"
        with running(arguments, log=log, ready=lambda: listens(near), cpu=cpu):
            yield near


class Way:
    """One direction of one connection. `None` in it is the end of what is said."""

    def __init__(self, late_s: float) -> None:
        self._late_s = late_s
        self._loop = asyncio.get_running_loop()
        self._under_way: deque[tuple[float, bytes | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._out: asyncio.Transport | None = None

    def leads_to(self, out: asyncio.Transport) -> None:
        self._out = out
        self._wait()

    def put(self, data: bytes | None) -> None:
        self._under_way.append((self._loop.time() + self._late_s, data))
        self._wait()

    def _wait(self) -> None:
        if self._timer is None and self._under_way and self._out is not None:
            self._timer = self._loop.call_at(self._under_way[0][0], self._arrive)

    def _arrive(self) -> None:
        """One timer for all that is under way: timers of their own could overtake one another."""
        assert self._out is not None
        self._timer = None
        while self._under_way and self._under_way[0][0] <= self._loop.time() + 0.0005:
            _, data = self._under_way.popleft()
            if data is not None:
                self._out.write(data)
            else:
                self._out.close()
        self._wait()


class End(asyncio.Protocol):
    """One end of a connection: what comes in here leaves at the other end, later."""

    def __init__(self, inward: Way, outward: Way) -> None:
        self._inward, self._outward = inward, outward

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._outward.leads_to(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        self._inward.put(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._inward.put(None)


class Door(End):
    """The near end; it opens the far one for each who comes in."""

    def __init__(self, target: int, late_s: float) -> None:
        self._there, self._back = Way(late_s), Way(late_s)
        super().__init__(self._there, self._back)
        self._target = target
        self._opening: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._opening = asyncio.create_task(self._open(cast(asyncio.Transport, transport)))

    async def _open(self, near: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: End(self._back, self._there), HOST, self._target)
        except OSError as error:
            print(f"no way to port {self._target}: {error}", file=sys.stderr)
            near.abort()


async def main(port: int, target: int, round_trip_ms: float) -> None:
    late_s = round_trip_ms / 2 / 1000
    server = await asyncio.get_running_loop().create_server(lambda: Door(target, late_s), HOST, port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
