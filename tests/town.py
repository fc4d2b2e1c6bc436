"""The rehearsal town for real: the shipped configuration, processes of their own, killed where a test says so."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broadcaster import app as assembly
from broadcaster import reports
from broadcaster import settings as configuration
from broadcaster.app import App
from broadcaster.delivery import Counts
from broadcaster.rehearsal import smtp, town
from broadcaster.store import subscribers
from broadcaster.store.audit import Actor
from tests.chaos_process import Child
from tests.makers import a_reader
from tests.waiting import until

STAFF = Actor(name="staff", via="cli")

Process = subprocess.Popen[bytes] | Child

_MIGRATING = threading.Lock()
"""Alembic keeps the migration that it is at in a global of the process; towns may be built in several threads."""


@dataclass(kw_only=True)
class Town:
    home: Path
    environment: dict[str, str]
    app: App
    processes: dict[str, Process] = field(default_factory=dict)

    def start(self, role: str, *arguments: str, orders: Mapping[str, Any] | None = None) -> Process:
        """With `orders`, a forked process that does as `tests/chaos_process.py` says."""
        path = self.home / f"{role}.log"
        environment = {**os.environ, **self.environment}
        process: Process
        if orders is not None:
            process = Child(arguments or (role,), orders, environment, path)
        else:
            with path.open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "broadcaster", *(arguments or (role,))],
                    env=environment,
                    stdout=log,
                    stderr=log,
                )
        self.processes[role] = process
        return process

    def kill(self, role: str) -> None:
        process = self.processes.pop(role)
        process.send_signal(signal.SIGKILL)
        process.wait(10)

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)

    def readers(self, number: int) -> None:
        wide = self.app.settings.ward.all_district_bits
        rows = [a_reader(n, domain=f"mail-{n % 7}.example", districts=wide) for n in range(number)]
        with self.app.database.write() as connection:
            for batch in subscribers.batches(rows):
                subscribers.put(connection, batch)

    def received(self) -> Counter[str]:
        """How often each Message-ID arrived."""
        return Counter(mail.message_id for mail in smtp.received(town.mail_folder(self.home)))

    def arrived(self) -> int:
        folder = town.mail_folder(self.home) / "new"
        return len(os.listdir(folder)) if folder.is_dir() else 0

    def report(self, identifier: str) -> dict[str, object]:
        with self.app.database.read() as connection:
            return reports.of(connection, identifier)

    def counts(self, identifier: str) -> Counts:
        return Counts(**self.report(identifier)["counts"])  # type: ignore[arg-type]

    def is_settled(self, identifier: str) -> bool:
        rows = self.report(identifier)["deliveries"]
        return all(row["state"] not in ("queued", "in_flight") for row in rows)  # type: ignore[union-attr]

    async def until(self, condition: Callable[[], object], seconds: float = 60, *, every: float = 0.02) -> None:
        await until(condition, seconds, every=every)

    async def until_settled(self, *identifiers: str, seconds: float = 60) -> None:
        await self.until(lambda: all(self.is_settled(identifier) for identifier in identifiers), seconds)


def a_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def a_town(folder: Path, *, url: str | None = None, **environment: str) -> Iterator[Town]:
    home = folder / "home"
    named = {"BROADCASTER_HOME": str(home), "BROADCASTER_LOG": "WARNING", **environment}
    if url is not None:
        named["BROADCASTER_DATABASE_URL"] = url
    app = assembly.assemble(configuration.load(named), standins={"email": 1, "x": 1})
    with _MIGRATING:
        app.database.upgrade()
    here = Town(home=home, environment=named, app=app)
    try:
        yield here
    finally:
        here.stop()
        with ThreadPoolExecutor(1) as elsewhere:  # a test may have a loop of its own running
            elsewhere.submit(asyncio.run, app.close()).result()
