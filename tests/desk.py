"""The desk as its tests meet it: an application with its sample people, a client for each, and a server for a browser."""

from __future__ import annotations

import asyncio
import io
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2 as httpx
from axe_playwright_python.async_playwright import Axe
from PIL import Image

from broadcaster import app as assembly
from broadcaster import reports
from broadcaster import settings as configuration
from broadcaster.app import App
from broadcaster.clock import Clock, SystemClock, local
from broadcaster.delivery import Lane
from broadcaster.message import Message, Mode
from broadcaster.rehearsal import seed, smtp, x
from broadcaster.rehearsal.faults import Faults
from broadcaster.scheduler import Scheduler
from broadcaster.store import drafts, messages, subscribers
from broadcaster.store.audit import Actor
from broadcaster.web import create
from tests.browser import NoAnswer
from tests.makers import a_reader, a_sample, an_alert
from tests.servers import served

ORIGIN = "http://127.0.0.1"


AA = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}


async def violations(page: Any) -> list[tuple[str, list[str]]]:
    """What axe finds on this page at WCAG 2.1 AA. A page that renews itself in the middle takes axe with it, and nobody
    is told: then it is asked once more."""
    try:
        found = await Axe().run(page, options=AA)
    except NoAnswer:
        await page.reload()
        found = await Axe().run(page, options=AA)
    return [(each["id"], [node["html"][:160] for node in each["nodes"]][:4]) for each in found.response["violations"]]


async def picture(page: Any, name: str) -> None:
    """For the guides: `make pictures` has these tests draw docs/pictures/ anew. Few colours, so that they stay small."""
    if folder := os.environ.get("PICTURES"):
        drawn = Image.open(io.BytesIO(await page.screenshot()))
        Path(folder).mkdir(parents=True, exist_ok=True)
        drawn.convert("RGB").quantize(96).save(Path(folder) / f"{name}.png", optimize=True)


@dataclass
class Person:
    """Somebody at the desk with a browser: keeps cookies, sends forms as the page has them."""

    client: Any
    origin: str = ORIGIN
    csrf: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    async def get(self, path: str) -> Any:
        answer = await self.client.get(path, headers=self.headers)
        if found := re.search(r'name="csrf" value="([^"]+)"', answer.text):
            self.csrf = found[1]
        return answer

    async def post(self, path: str, **fields: Any) -> Any:
        """Sends a form; the token is that of the last page seen."""
        data = {"csrf": self.csrf, **fields}
        files = data.pop("files", None)
        return await self.client.post(path, data=data, files=files, headers={"origin": self.origin, **self.headers})

    async def sign_in(self, name: str) -> Person:
        answer = await self.post("/desk/sign-in/as", name=name)
        assert answer.status_code == 303, answer.text
        await self.get("/desk")
        return self

    @staticmethod
    def hidden(answer: Any, name: str) -> str:
        """What a hidden field of this page holds."""
        found = re.search(rf'name="{name}" value="([^"]*)"', answer.text)
        assert found, f"no field {name}"
        return found[1]


@dataclass(kw_only=True)
class DeskUnderTest:
    app: App
    url: str = ""
    folder: Path = Path()
    transport: Any = None
    clients: list[Any] = field(default_factory=list)

    async def person(self, name: str = "") -> Person:
        client = httpx.AsyncClient(transport=self.transport, base_url=ORIGIN, follow_redirects=False)
        self.clients.append(client)
        person = Person(client)
        return await person.sign_in(name) if name else person

    def readers(self, number: int, *, is_drill: bool = False, **columns: Any) -> None:
        columns = {"districts": self.app.settings.ward.all_district_bits, **columns}
        with self.app.database.write() as connection:
            subscribers.put(connection, [a_reader(n, **columns) for n in range(number)], is_drill=is_drill)

    def kept(self, identifier: str) -> messages.Kept:
        with self.app.database.read() as connection:
            found = messages.get(connection, identifier)
        assert found is not None
        return found

    def newest(self, mode: Mode = Mode.LIVE) -> messages.Kept | None:
        with self.app.database.read() as connection:
            return next((kept for kept in messages.newest(connection) if kept.message.mode is mode), None)

    def mails(self) -> list[smtp.Mail]:
        """What has arrived at readers."""
        return list(smtp.received(self.folder / "mail"))

    def mails_of(self, identifier: str) -> list[smtp.Mail]:
        return [mail for mail in self.mails() if mail.message_id.startswith(f"<{identifier}.")]

    def report(self, identifier: str) -> dict[str, Any]:
        with self.app.database.read() as connection:
            return reports.of(connection, identifier)

    def messages(self) -> list[Message]:
        with self.app.database.read() as connection:
            return [kept.message for kept in messages.newest(connection)]


def a_day(app: App) -> None:
    """The middle of a day: alerts and a drill in force, notices that wait for approval and for their hour."""
    now, settings = app.clock.now(), app.settings
    duty, writer = Actor(name="duty", via="desk"), Actor(name="writer", via="desk")
    for id in ("E04", "E08"):
        app.pipeline.hand_in(replace(an_alert(settings, id, now=now), sent_at=None), duty)
    drill = replace(an_alert(settings, "E02", now=now, mode=Mode.DRILL), sent_at=None, identifier="13109-drill")
    app.pipeline.hand_in(drill, duty)
    for number, id in enumerate(("N01", "N03", "N05", "N08")):
        sample = replace(a_sample(settings, id, now=now), sent_at=None, images=(), identifier=f"13109-today-{number}")
        later = replace(
            sample, effective_at=now + timedelta(hours=3 + number), expires_at=now + timedelta(days=2 + number)
        )
        (app.pipeline.propose if number % 2 else app.pipeline.hand_in)(later, writer)
    with app.database.write() as connection:
        drafts.add(connection, {"title": "図書館の休館", "body": "12月3日は休館します。"}, by="admin", at=now)


def pages(app: App) -> tuple[str, ...]:
    """Every page that shows something of that day."""
    day = f"{local(app.clock.now()):%Y-%m-%d}"
    return (
        "/desk",
        "/desk/messages",
        "/desk/messages?q=図書館",
        "/desk/messages/new",
        "/desk/drafts",
        "/desk/drafts/1",
        "/desk/drafts/1/history",
        "/desk/approvals",
        "/desk/approvals/13109-today-1",
        "/desk/messages/13109-today-0",
        "/desk/messages/13109-today-0/move",
        f"/desk/calendar?view=month&day={day}",
        f"/desk/calendar?view=week&day={day}",
        f"/desk/calendar?view=list&day={day}",
        "/desk/emergency",
        "/desk/emergency/live",
        "/desk/emergency/live/E04/fill",
        "/desk/emergency/drill",
        "/desk/emergency/drill/E04/fill",
        "/desk/sent/13109-E04",
        "/desk/sent/13109-drill",
        "/desk/sent/13109-E04/report",
        "/desk/sent/13109-E04/correction",
        "/desk/sent/13109-E04/update",
        "/desk/sent/13109-E04/cancel",
        "/desk/sent/13109-E04/all_clear",
        "/desk/decisions",
        "/desk/records",
        "/desk/people",
        "/desk/me",
        "/desk/keys",
        "/desk/nowhere",
    )


def an_app(folder: Path, *, clock: Clock | None = None, url: str | None = None, **environment: str) -> App:
    values = {"BROADCASTER_HOME": str(folder / "home"), **environment}
    if url:
        values["BROADCASTER_DATABASE_URL"] = url
    app = assembly.assemble(configuration.load(values), clock=clock or SystemClock(), standins={"email": 1, "x": 1})
    app.database.upgrade()
    with app.database.write() as connection:
        seed.add_sample_staff(connection, app.clock.now())
    return app


@asynccontextmanager
async def a_desk(folder: Path, *, clock: Clock | None = None, url: str | None = None) -> AsyncIterator[DeskUnderTest]:
    """Without a server: requests go straight into the application."""
    async with a_desk_of(an_app(folder, clock=clock, url=url)) as desk:
        yield desk


@asynccontextmanager
async def a_desk_of(app: App) -> AsyncIterator[DeskUnderTest]:
    """The desk of this application, which ends with it."""
    desk = DeskUnderTest(app=app, transport=httpx.ASGITransport(app=create(app)))
    try:
        yield desk
    finally:
        for client in desk.clients:
            await client.aclose()
        await app.close()


@asynccontextmanager
async def a_desk_server(folder: Path, *, clock: Clock | None = None) -> AsyncIterator[DeskUnderTest]:
    """With a real server, for a real browser."""
    app = an_app(folder, clock=clock)
    async with served(create(app)) as url:
        yield DeskUnderTest(app=app, url=url)


@asynccontextmanager
async def a_desk_with_relay(folder: Path) -> AsyncIterator[DeskUnderTest]:
    """An application with its credentials, and the world outside as stand-ins with their real protocols."""
    faults = Faults(folder / "faults.json")
    mail = await smtp.start(folder / "mail", faults, clock=SystemClock())
    social = await x.start(folder / "x", faults, clock=SystemClock())
    configured = configuration.load({"BROADCASTER_HOME": str(folder / "home")})
    app = assembly.assemble(configured, credentials=True, standins={"email": mail.port, "x": social.port})
    app.database.upgrade()
    with app.database.write() as connection:
        seed.add_sample_staff(connection, app.clock.now())
    await app.signals.start()
    try:
        yield DeskUnderTest(app=app, folder=folder)
    finally:
        await app.close()
        await mail.close()
        await social.close()


@asynccontextmanager
async def a_whole_desk(folder: Path) -> AsyncIterator[DeskUnderTest]:
    """Everything that is at work behind the desk: the server, the sender, the scheduler."""
    async with a_desk_with_relay(folder) as desk, served(create(_lent(desk.app))) as url:
        desk.url = url
        roles = [
            asyncio.create_task(desk.app.sender(list(Lane)).run()),
            asyncio.create_task(Scheduler(desk.app.pipeline, desk.app.settings).run()),
        ]
        try:
            yield desk
        finally:
            for role in roles:
                role.cancel()
            await asyncio.gather(*roles, return_exceptions=True)


class _Lent:
    """An application that others go on using when the server ends."""

    def __init__(self, app: App) -> None:
        self._app = app

    def __getattr__(self, name: str) -> Any:
        return getattr(self._app, name)

    async def close(self) -> None:
        return None


def _lent(app: App) -> Any:
    return _Lent(app)
