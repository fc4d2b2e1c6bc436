"""The desk as its tests meet it: an application with its sample people, a client for each, and a server for a browser."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
import uvicorn

from broadcaster import app as assembly
from broadcaster import settings as configuration
from broadcaster.app import App
from broadcaster.clock import Clock, SystemClock
from broadcaster.message import Message, Mode
from broadcaster.rehearsal import seed
from broadcaster.store import messages, subscribers
from broadcaster.web import create
from tests.makers import NOW

ORIGIN = "http://127.0.0.1"


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
    transport: Any = None
    clients: list[Any] = field(default_factory=list)

    async def person(self, name: str = "") -> Person:
        client = httpx.AsyncClient(transport=self.transport, base_url=ORIGIN, follow_redirects=False)
        self.clients.append(client)
        person = Person(client)
        return await person.sign_in(name) if name else person

    def readers(self, number: int, *, is_drill: bool = False, **columns: Any) -> None:
        rows = [
            {
                "email": f"reader-{n}@mail.example",
                "domain": "mail.example",
                "language": "ja",
                "format": "text",
                "topics": 63,
                "districts": self.app.settings.ward.all_district_bits,
                "frequency": "at_once",
                "registered_at": NOW,
                "method": "form",
                "state": "active",
                **columns,
            }
            for n in range(number)
        ]
        with self.app.database.write() as connection:
            subscribers.put(connection, rows, is_drill=is_drill)

    def kept(self, identifier: str) -> messages.Kept:
        with self.app.database.read() as connection:
            found = messages.get(connection, identifier)
        assert found is not None
        return found

    def newest(self, mode: Mode = Mode.LIVE) -> messages.Kept | None:
        with self.app.database.read() as connection:
            return next((kept for kept in messages.newest(connection) if kept.message.mode is mode), None)

    def messages(self) -> list[Message]:
        with self.app.database.read() as connection:
            return [kept.message for kept in messages.newest(connection)]


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
    app = an_app(folder, clock=clock, url=url)
    site = create(app)
    desk = DeskUnderTest(app=app, transport=httpx.ASGITransport(app=site))
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
    server = uvicorn.Server(uvicorn.Config(create(app), host="127.0.0.1", port=0, log_level="warning", lifespan="on"))
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(20):
        while not server.started:
            await asyncio.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield DeskUnderTest(app=app, url=f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        await task
