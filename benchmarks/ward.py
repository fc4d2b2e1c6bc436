"""A ward to measure on: an installation of its own in a temporary folder, readers, and the product's sender as a process.

The sender is the one that ships (`broadcaster work`), in rehearsal, with its mail relay at a port that the bench names: a
sink, a relay with a delay, a real Postfix. Everything a real sending does is done: the claim, 3 KB of Japanese text and
HTML spliced for each reader, a row of evidence for each, `synchronous=FULL`. The times are the ledger's own.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy
import yaml

from broadcaster import app as assembly
from broadcaster import manuscript, presets, reports
from broadcaster import settings as configuration
from broadcaster.app import App
from broadcaster.message import Message, Mode
from broadcaster.store.audit import Actor
from broadcaster.store.tables import subscribers

BENCH = Actor(name="bench", via="cli")
SENDER_CPU, SINK_CPU = 0, 1
ROUTINE, EMERGENCY = 1 << 3, 1 << 5
"""The readers' topics: of the notice, and of alerts (bits of config/ward.toml)."""

DOMAINS = 20
_CHUNK = 20_000


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One sending, from the ledger. Seconds count from the commit of the issue."""

    readers: int
    delivered: int
    first_s: float
    last_s: float

    @property
    def per_s(self) -> float:
        return self.readers / self.last_s


@dataclass(frozen=True, kw_only=True)
class Instants:
    """By channel, in seconds."""

    first_attempts: Mapping[str, float]
    settled: Mapping[str, float]


@dataclass(kw_only=True)
class Ward:
    home: Path
    environment: Mapping[str, str]
    app: App
    sender: subprocess.Popen[bytes] | None = None
    town: subprocess.Popen[bytes] | None = None
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def readers(self, number: int, *, topics: int = 63, is_drill: bool = False, at: str = "mail") -> None:
        """So many more, at twenty domains `mail-….example`; all read HTML in Japanese and live anywhere in the ward."""
        with self.app.database.read() as connection:
            known = connection.execute(sqlalchemy.select(sqlalchemy.func.max(subscribers.c.id))).scalar() or 0
        for first in range(known, known + number, _CHUNK):
            rows = [self._reader(n, topics, is_drill, at) for n in range(first, min(first + _CHUNK, known + number))]
            with self.app.database.write() as connection:
                connection.execute(sqlalchemy.insert(subscribers), rows)

    def _reader(self, n: int, topics: int, is_drill: bool, at: str) -> dict[str, Any]:
        domain = f"{at}-{n % DOMAINS}.example"
        return {
            "email": f"reader-{n}@{domain}",
            "domain": domain,
            "language": "ja",
            "format": "html",
            "topics": topics,
            "districts": self.app.settings.ward.all_district_bits,
            "frequency": "at_once",
            "registered_at": datetime.now(UTC),
            "method": "form",
            "state": "active",
            "is_drill": is_drill,
            "epoch": 0,
        }

    def starts_sender(self, *, cpu: int | None = SENDER_CPU) -> None:
        """Started and warm: its lines are connected."""
        with (self.home / "sender.log").open("ab") as log:
            self.sender = subprocess.Popen(
                [sys.executable, "-m", "broadcaster", "work", "--lane", "all"],
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=log,
                preexec_fn=None if cpu is None else pinned_to(cpu),
            )
        until = time.monotonic() + 30
        while not self._is_at_work():
            if self.sender.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the sender did not start: {(self.home / 'sender.log').read_text()[-2000:]}")
            time.sleep(0.05)
        time.sleep(0.5)  # twenty handshakes

    def _is_at_work(self) -> bool:
        with self.app.database.read() as connection:
            pids = connection.execute(sqlalchemy.text("SELECT pid FROM workers")).scalars().all()
        return self.sender is not None and self.sender.pid in pids

    def starts_social(self) -> subprocess.Popen[bytes]:
        """X as a stand-in beside the mail relay of the bench: before the sender is started."""
        file = assembly.ports_file(self.home)
        mail = json.loads(file.read_text(encoding="utf-8"))["email"]
        file.unlink()
        with (self.home / "town.log").open("ab") as log:
            self.town = subprocess.Popen(
                [sys.executable, "-m", "broadcaster", "rehearsal"],
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=log,
                preexec_fn=pinned_to(SINK_CPU),
            )
        self.until(file.exists, 30)
        ports = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps({**ports, "email": mail}), encoding="utf-8")
        return self.town

    def stops_town(self) -> None:
        if self.town is not None:
            self.town.send_signal(signal.SIGTERM)
            self.town.wait(30)
            self.town = None

    def kills_sender(self) -> None:
        """Without waiting for what it has in hand."""
        if self.sender is not None:
            self.sender.kill()
            self.sender.wait(30)
            self.sender = None

    def stops_sender(self) -> None:
        if self.sender is not None:
            self.sender.send_signal(signal.SIGTERM)
            self.sender.wait(30)
            self.sender = None

    def bulk(self, *, channels: tuple[str, ...] = ("email",)) -> str:
        """Issue the notice to all its readers; gives its identifier."""
        now = self.app.clock.now()
        identifier = f"13109-bulk-{now:%H%M%S}-{next(self._numbers)}"
        message = replace(the_notice(self.app, now), sent_at=None, identifier=identifier, channels=channels)
        return self.app.pipeline.hand_in(message, BENCH).message.identifier

    def alert(self, *, channels: tuple[str, ...] = ("email",)) -> str:
        """Issue the earthquake preset; gives its identifier."""
        settings, now = self.app.settings, self.app.clock.now()
        message = presets.compose_alert(
            settings.presets["E08"],
            ward=settings.ward,
            now=now,
            mode=Mode.LIVE,
            channels=channels,
            values={},
            use_examples=True,
        )
        message = replace(message, identifier=f"13109-alert-{now:%H%M%S}-{next(self._numbers)}")
        return self.app.pipeline.hand_in(message, BENCH).message.identifier

    def report(self, identifier: str) -> dict[str, Any]:
        with self.app.database.read() as connection:
            return reports.of(connection, identifier)

    def sent(self, identifier: str, *, within_s: float) -> Sent:
        """Wait until every delivery of it is settled."""
        self.until(lambda: self._is_settled(identifier), within_s)
        report = self.report(identifier)
        rows = report["deliveries"]
        created_at = min(_at(row["created_at"]) for row in rows)
        first_at = [_at(row["first_attempt_at"]) for row in rows if row["first_attempt_at"]]
        settled_at = [_at(row["settled_at"]) for row in rows if row["counts"]["total"]]
        return Sent(
            readers=report["counts"]["total"],
            delivered=report["counts"]["delivered"],
            first_s=(min(first_at) - created_at).total_seconds(),
            last_s=(max(settled_at) - created_at).total_seconds(),
        )

    def instants(self, identifier: str, *, since: datetime) -> Instants:
        first: dict[str, list[float]] = {}
        settled: dict[str, list[float]] = {}
        for row in self.report(identifier)["deliveries"]:
            for name, found in (("first_attempt_at", first), ("settled_at", settled)):
                if row[name]:
                    found.setdefault(row["channel"], []).append((_at(row[name]) - since).total_seconds())
        return Instants(
            first_attempts={channel: min(seconds) for channel, seconds in first.items()},
            settled={channel: max(seconds) for channel, seconds in settled.items()},
        )

    def _is_settled(self, identifier: str) -> bool:
        with self.app.database.read() as connection:
            unsettled = connection.execute(
                sqlalchemy.text(
                    "SELECT count(*) FROM deliveries d JOIN issues i ON i.id = d.issue_id "
                    "WHERE i.identifier = :id AND d.settled_at IS NULL"
                ),
                {"id": identifier},
            ).scalar_one()
        return not unsettled

    def until(self, condition: Callable[[], bool], within_s: float) -> None:
        until = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > until:
                raise TimeoutError(f"not within {within_s} s: {(self.home / 'sender.log').read_text()[-1000:]}")
            time.sleep(0.02)


def the_notice(app: App, now: datetime) -> Message:
    """A routine notice of 3 KB as a mail in Japanese with text and HTML (sample N14, without its pictures)."""
    settings = app.settings
    text = (settings.config / "rehearsal" / "notices.yaml").read_text(encoding="utf-8")
    source = next(notice for notice in yaml.safe_load(text)["notices"] if notice["id"] == "N14")
    source = {name: value for name, value in manuscript.moved_manuscript(source, now).items() if name != "images"}
    message = manuscript.read(source, ward=settings.ward, media=settings.enabled, now=now)
    return replace(message, channels=("email",))


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def pinned_to(cpu: int) -> Callable[[], None]:
    """For a child process: on this core, where the machine has it, so that client and sink do not share one."""
    return lambda: os.sched_setaffinity(0, {cpu} & os.sched_getaffinity(0) or os.sched_getaffinity(0))


@contextmanager
def a_ward(port: int, *, url: str | None = None, **environment: str) -> Iterator[Ward]:
    """An installation whose relay listens on this port of this machine."""
    with tempfile.TemporaryDirectory(prefix="ward", dir="/var/tmp") as folder:
        home = Path(folder) / "home"
        named = {"BROADCASTER_HOME": str(home), "BROADCASTER_LOG": "WARNING", **environment}
        if url is not None:
            named["BROADCASTER_DATABASE_URL"] = url
        app = assembly.assemble(configuration.load(named), standins={"email": port})
        app.database.upgrade()
        file = assembly.ports_file(home)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"email": port}), encoding="utf-8")
        ward = Ward(home=home, environment=named, app=app)
        try:
            yield ward
        finally:
            ward.stops_sender()
            ward.stops_town()
            asyncio.run(app.close())
