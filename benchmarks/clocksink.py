"""A mail sink that remembers when each reader's mail was taken, and whose domains can refuse or hang.

    with a_clocked_sink() as sink: …
    sink.arrivals        # [(seconds on the system's monotonic clock, recipient), …] in the order in which they came

As little as a sink can be, so that it is not the limit: PIPELINING, no check of what it takes. Readers at
`hang-….example` get no answer to RCPT, those at `refuse-….example` a 451.

    python -m benchmarks.clocksink PORT FILE      the process; at SIGTERM it writes what came into the file
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import uvloop

from benchmarks.rounds import free_port, listens, running
from benchmarks.sinks import SINK_CPU

_END = b"\r\n.\r\n"


@dataclass(kw_only=True)
class ClockedSink:
    port: int
    arrivals: list[tuple[float, str]] = field(default_factory=list)
    """When and for whom, in the order in which they came; there when the block has ended."""


@contextmanager
def a_clocked_sink(*, cpu: int | None = SINK_CPU) -> Iterator[ClockedSink]:
    sink = ClockedSink(port=free_port())
    with tempfile.TemporaryDirectory(prefix="sink", dir="/var/tmp") as folder:
        file = Path(folder) / "arrivals"
        arguments = [sys.executable, "-m", "benchmarks.clocksink", str(sink.port), str(file)]
        with running(arguments, log=Path(folder) / "log", ready=lambda: listens(sink.port), cpu=cpu):
            yield sink
        for line in file.read_text(encoding="ascii").splitlines():
            at, recipient = line.split()
            sink.arrivals.append((float(at), recipient))


class Session(asyncio.Protocol):
    def __init__(self, came: list[tuple[float, bytes]]) -> None:
        self._came = came
        self._buffer = b""
        self._recipient = b""
        self._in_text = False
        self._is_hung = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(b"220 sink.test ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        answers = []
        while not self._is_hung:
            end = self._buffer.find(_END if self._in_text else b"\r\n")
            if end < 0:
                break
            line = self._buffer[:end]
            self._buffer = self._buffer[end + (5 if self._in_text else 2) :]
            answers.append(self._taken() if self._in_text else self._answer(line))
        if answers:
            self._transport.write(b"".join(answers))

    def _taken(self) -> bytes:
        self._in_text = False
        self._came.append((time.monotonic(), self._recipient))
        return b"250 2.0.0 Ok\r\n"

    def _answer(self, line: bytes) -> bytes:
        word = line[:4].upper()
        if word == b"EHLO":
            return b"250-sink.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n"
        if word == b"RCPT":
            self._recipient = line[line.index(b"<") + 1 : line.index(b">")]
            domain = self._recipient.rpartition(b"@")[2]
            self._is_hung = domain.startswith(b"hang-")
            if domain.startswith(b"refuse-"):
                self._recipient = b""
                return b"451 4.7.1 not now\r\n"
            return b"" if self._is_hung else b"250 2.1.5 Ok\r\n"
        if word == b"DATA":
            self._in_text = bool(self._recipient)
            return b"354 go on\r\n" if self._in_text else b"503 5.5.1 nobody to deliver to\r\n"
        if word == b"QUIT":
            self._transport.close()
            return b""
        return b"250 2.0.0 Ok\r\n"


async def _serve(port: int, file: Path) -> None:
    came: list[tuple[float, bytes]] = []
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    server = await loop.create_server(lambda: Session(came), "127.0.0.1", port)
    await over.wait()
    server.close()
    file.write_text("".join(f"{at:.6f} {recipient.decode('ascii')}\n" for at, recipient in came), encoding="ascii")


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), Path(sys.argv[2])))
