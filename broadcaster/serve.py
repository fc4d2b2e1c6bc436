"""All roles in one command: web, sender, scheduler, and in rehearsal the town, each a process of its own.

A child that dies is started again, at once and then with growing pauses; one that was told to stop is waited for. So a
crash of the web process never stops a send, and the other way round.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

log = structlog.get_logger(__name__)

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
STOP_S = 10.0


@dataclass(kw_only=True)
class Child:
    role: str
    arguments: Sequence[str]
    process: asyncio.subprocess.Process | None = None
    starts: int = field(default=0)


class Supervisor:
    def __init__(self, roles: Sequence[tuple[str, Sequence[str]]]) -> None:
        self.children = [Child(role=role, arguments=arguments) for role, arguments in roles]
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Until SIGINT or SIGTERM."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stopping.set)
        async with asyncio.TaskGroup() as group:
            for child in self.children:
                group.create_task(self._keeps(child))

    async def _keeps(self, child: Child) -> None:
        pause = FIRST_PAUSE_S
        while not self._stopping.is_set():
            began = asyncio.get_running_loop().time()
            child.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "broadcaster", *child.arguments, env=os.environ
            )
            child.starts += 1
            log.info("process.started", role=child.role, pid=child.process.pid)
            ended = asyncio.create_task(child.process.wait())
            stopped = asyncio.create_task(self._stopping.wait())
            await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if self._stopping.is_set():
                await self._stop(child)
                return
            stopped.cancel()
            if asyncio.get_running_loop().time() - began > LONGEST_PAUSE_S:
                pause = FIRST_PAUSE_S
            log.error("process.died", role=child.role, code=child.process.returncode)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    async def _stop(self, child: Child) -> None:
        assert child.process is not None
        if child.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.process.terminate()
            try:
                await asyncio.wait_for(child.process.wait(), STOP_S)
            except TimeoutError:
                child.process.kill()
                await child.process.wait()
