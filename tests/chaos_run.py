"""One run of the crash matrix: a small town, what goes on in it, and who dies."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import signal
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, select, tuple_

from broadcaster import mailroom, worker
from broadcaster.delivery import UNSETTLED, State
from broadcaster.message import Change, Message, Mode
from broadcaster.rehearsal import town as standins
from broadcaster.rehearsal.faults import Fault, Kind
from broadcaster.roles import Role
from broadcaster.store import leases, plans, tables, tokens
from tests.makers import a_sample, an_alert
from tests.town import STAFF, Town

DATABASES = ("sqlite", "postgresql")
"""SQLite with sockets only; PostgreSQL with a Redis for the signals besides."""

LINES = 20
"""Warm lines to the relay, as `config/channels.toml` has it. Each has one letter's body on the wire."""

MOST_REPEATS = LINES + mailroom.UNRECORDED
"""The bound: so many letters may come twice for each sender that was killed."""

TAKEN_UP = timedelta(seconds=15)
"""Work of a process that died is done by then, counted from the last time it said that it lives."""

PATIENCE_S = 90.0


class Broken(AssertionError):
    """A run that could not be carried out: the step was not met, or the work did not end."""


@dataclass(frozen=True, kw_only=True)
class Death:
    """What the ledger said of a sender right after its death."""

    last_sign_at: datetime
    letters: Collection[tuple[int, int]]
    deliveries: Collection[int]


@dataclass(kw_only=True)
class Run:
    town: Town
    dice: random.Random
    step: Step
    port: int
    kills: Counter[str] = field(default_factory=Counter)
    deaths: list[Death] = field(default_factory=list)
    issued: int = 0  # how many messages there must be
    must_be_taken_up: bool = False  # within TAKEN_UP, because nobody was started again

    @property
    def readers(self) -> int:
        with self.town.app.database.read() as connection:
            return len(connection.execute(select(tables.subscribers.c.id)).all())

    # Processes

    def start(self, role: str, *, armed: bool = False) -> None:
        orders = self.step.orders(self.dice) if armed else {}
        self.town.start(role, *self.arguments(role), orders=orders)

    def arguments(self, role: str) -> Sequence[str]:
        named: dict[str, Sequence[str]] = {
            "rehearsal": ("rehearsal",),
            "scheduler": ("schedule",),
            "web": ("web", "--port", str(self.port)),
        }
        return named.get(role, ("work", "--lane", "all"))

    def command(self, *arguments: str, armed: bool = False) -> None:
        """The command line, started; `dies` or `ends` waits for it."""
        self.town.start("command", *arguments, orders=self.step.orders(self.dice) if armed else {})

    async def dies(self, role: str) -> None:
        """Wait until it has killed itself at its step."""
        code = await self._ended(role, f"{role} did not come to {self.step.at}")
        if code != -signal.SIGKILL:
            raise Broken(f"{role} ended with {code} and not at {self.step.at}: {self._said(role)}")
        self._count(role)

    async def ends(self) -> None:
        if (code := await self._ended("command", "the command did not end")) != 0:
            raise Broken(f"the command ended with {code}: {self._said('command')}")

    def somebody_died(self) -> bool:
        return any(process.poll() is not None for role, process in self.town.processes.items() if role != "command")

    def ended_by_themselves(self) -> list[str]:
        ended = ((role, process.poll()) for role, process in self.town.processes.items() if role != "command")
        return [f"{role} ended by itself with {code}: {self._said(role)}" for role, code in ended if code is not None]

    def kill(self, role: str) -> None:
        self.town.kill(role)
        self._count(role)

    def _count(self, role: str) -> None:
        self.kills[role.partition("-")[0]] += 1
        if role.startswith("sender"):
            self.deaths.extend(self._death())

    async def _ended(self, role: str, otherwise: str) -> int:
        process = self.town.processes[role]
        await self.until(lambda: process.poll() is not None, lambda: f"{otherwise}: {self._said(role)}")
        return self.town.processes.pop(role).wait(10)

    def _said(self, role: str) -> str:
        return (self.town.home / f"{role}.log").read_text(encoding="utf-8", errors="replace")[-600:]

    def _death(self) -> Iterator[Death]:
        living = {process.pid for process in self.town.processes.values()}
        r, d, w = tables.recipients.c, tables.deliveries.c, tables.workers.c
        lease = tables.leases.c
        stretch = and_(
            lease.delivery_id == r.delivery_id,
            tuple_(lease.first_due_at, lease.first_subscriber_id) <= tuple_(r.due_at, r.subscriber_id),
            tuple_(lease.last_due_at, lease.last_subscriber_id) >= tuple_(r.due_at, r.subscriber_id),
        )
        with self.town.app.database.read() as connection:
            for row in connection.execute(select(w.id, w.pid, w.alive_until)).all():
                if row.pid in living:
                    continue
                held = select(r.delivery_id, r.subscriber_id).join_from(tables.recipients, tables.leases, stretch)
                letters = connection.execute(held.where(lease.worker_id == row.id, r.state == int(State.QUEUED))).all()
                taken = connection.execute(
                    select(d.id).where(d.worker_id == row.id, d.state == int(State.IN_FLIGHT))
                ).scalars()
                yield Death(
                    last_sign_at=row.alive_until - worker.ALIVE_FOR,
                    letters=[(row.delivery_id, row.subscriber_id) for row in letters],
                    deliveries=list(taken),
                )

    # Work

    def notice(self, *channels: str, at: datetime | None = None) -> str:
        """Hand in a routine notice to all readers; gives its identifier."""
        now = self.town.app.clock.now()
        sample = a_sample(self.town.app.settings, "N05", now=now)
        return self._hand_in(replace(sample, images=(), channels=channels, effective_at=at or now))

    def soon(self, notices: int) -> datetime:
        """An instant before which so many notices can be handed in, on a busy machine too."""
        return self.town.app.clock.now() + timedelta(seconds=4 + 2 * notices)

    def alert(self) -> str:
        now = self.town.app.clock.now()
        return self._hand_in(an_alert(self.town.app.settings, self.dice.choice(["E04", "E08"]), now=now))

    def _hand_in(self, message: Message) -> str:
        self.issued += 1
        own = replace(message, sent_at=None, identifier=f"13109-chaos-{self.issued}")
        return self.town.app.pipeline.hand_in(own, STAFF).message.identifier

    def cancel(self, identifier: str) -> str:
        self.issued += 1
        return self.town.app.pipeline.change(identifier, Change.CANCEL, STAFF).message.identifier

    def slow_relay(self, seconds: float) -> None:
        """Each letter is taken at once and answered late."""
        standins.faults_of(self.town.home).set("email", Fault(kind=Kind.DRIP, stage="data", seconds=seconds))

    async def arrived(self, letters: int) -> None:
        """Until so many have arrived, or somebody has died before."""
        await self.until(
            lambda: self.town.arrived() >= letters or self.somebody_died(),
            f"{letters} letters did not arrive",
        )

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)  # the seed's own instant, which no event tells

    async def released(self) -> None:
        """Until what the dead sender held belongs to nobody, or to a living one."""
        before = self._leases_of(next(iter(self.deaths[-1].letters))[0])
        await self.until(
            lambda: not before & self._leases_of(next(iter(self.deaths[-1].letters))[0]),
            "letters are still held by the dead",
        )

    def _leases_of(self, delivery_id: int) -> set[int]:
        with self.town.app.database.read() as connection:
            return {lease.id for lease in leases.of_mailing(connection, delivery_id)}

    async def settled(self) -> None:
        """Everything that was handed in has come to an end."""
        await self.until(lambda: not self.unsettled(), lambda: f"not settled: {self.unsettled()[:5]}")

    async def until(self, condition: Callable[[], object], otherwise: str | Callable[[], str]) -> None:
        try:
            await self.town.until(condition, PATIENCE_S, every=0.05)
        except TimeoutError:
            raise Broken(otherwise if isinstance(otherwise, str) else otherwise()) from None

    # What the ledger says

    def identifiers(self) -> list[str]:
        """Of everything that people handed in; the calendar's own notices may fall into a run."""
        m = tables.messages.c
        query = select(m.identifier).where(m.created_by != "scheduler").order_by(m.id)
        with self.town.app.database.read() as connection:
            return list(connection.execute(query).scalars())

    def senders(self) -> int:
        """How many say that they live."""
        w = tables.workers.c
        with self.town.app.database.read() as connection:
            return len(connection.execute(select(w.id).where(w.alive_until > self.town.app.clock.now())).all())

    def unsettled(self) -> list[str]:
        """Notices whose hour has not come, and deliveries that are under way, with their counts. In this order: what is
        issued between the two questions is then seen by one of them."""
        d, p = tables.deliveries.c, tables.plans.c
        with self.town.app.database.read() as connection:
            due = connection.execute(select(p.key).where(p.state == "planned", p.kind == plans.ISSUE)).scalars().all()
            under_way = connection.execute(
                select(d.key, d.state, d.total, d.delivered, d.failed, d.unknown, d.stopped).where(
                    d.state.in_([int(state) for state in UNSETTLED])
                )
            )
            return [*due, *(" ".join(map(str, row)) for row in under_way)]

    # The API, as a partner's program asks it

    def a_token(self) -> str:
        app = self.town.app
        with app.database.write() as connection:
            return tokens.create(connection, name="chaos", role=Role.ADMIN, mode=Mode.LIVE, now=app.clock.now())

    async def web_is_ready(self) -> None:
        await self.until(lambda: self._get("/readyz"), lambda: f"the web process is not ready: {self._said('web')}")

    def _get(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    async def post(self, token: str, key: str) -> str | None:
        """Issue an alert by the API; its identifier, or None when the answer never came."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/v1/alerts",
            data=json.dumps({"preset": "E08"}).encode(),
            headers={
                "authorization": f"Bearer {token}",
                "idempotency-key": key,
                "content-type": "application/json",
            },
        )
        try:
            answer = await asyncio.to_thread(self._answer, request)
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError):
            return None
        return str(answer["identifier"])

    def _answer(self, request: urllib.request.Request) -> dict[str, Any]:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return dict(json.load(answer))


Work = Callable[[Run], Awaitable[None]]
Scene = Callable[[Run], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Step:
    """Where a process dies, and what is going on at that moment."""

    name: str
    means: str
    scene: Scene
    at: str = ""
    moment: str = "before"
    nth: int = 1  # the seed chooses a call from the first to this one
    narrowed: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)

    def orders(self, dice: random.Random) -> dict[str, object]:
        nth = dice.randint(1, self.nth)
        return {
            "blow": {"at": self.at, "moment": self.moment, "nth": nth, "with": dict(self.narrowed)},
            "set": dict(self.settings),
        }
