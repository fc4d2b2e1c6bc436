"""A screen as its tests meet it: a small service that speaks what the player speaks, and a browser in front of it.

The pages, scripts and worker are the real ones of `broadcaster/web/player.py`, the documents those of the real channel; what
is played here is the other side of a screen: its document, its hints, its heartbeats and its pairing. Time is the
service's own and goes on by itself; `later()` moves it on together with the browser's.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from playwright.async_api import Browser, BrowserContext, Page, Playwright, async_playwright

from broadcaster.channel import Kit
from broadcaster.drill import watermarked
from broadcaster.message import Message, Mode
from broadcaster.settings import Settings
from broadcaster.web import player
from channels.signage import Signage
from tests.makers import NOW, a_kit

CHROMIUM = "/usr/bin/chromium"  # a browser that is missing fails these tests; it does not skip them
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]
LANDSCAPE, PORTRAIT = {"width": 1920, "height": 1080}, {"width": 1080, "height": 1920}
SIZES = {"landscape": LANDSCAPE, "portrait": PORTRAIT}
Document = dict[str, Any]


def a_document(
    settings: Settings,
    messages: Sequence[Message],
    *,
    screen: str = "S01",
    mode: Mode = Mode.LIVE,
    at: datetime = NOW,
    **changes: Any,
) -> Document:
    """What the real channel says on this screen."""
    kit: Kit = a_kit(settings, mode=mode, options=settings.channel_options["signage"])
    pages = Signage.built(kit).compose([watermarked(message, settings.words) for message in messages], at)
    document: Document = json.loads(next(page.body for page in pages if page.path == f"signage/{screen}.json"))
    return {**document, **changes}


def bytes_of(document: Document) -> bytes:
    return json.dumps(document, ensure_ascii=False, sort_keys=True).encode()


def etag_of(document: Document) -> str:
    return f'"{hashlib.sha256(bytes_of(document)).hexdigest()[:16]}"'


class Service:
    """The other side of every screen."""

    def __init__(self, settings: Settings) -> None:
        self.documents: dict[str, bytes] = {}  # by path
        self.media: dict[str, bytes] = {}  # by path
        self.asked: list[tuple[str, bool]] = []  # each question for a document, and whether it was answered with 304
        self.beats: list[Document] = []
        self.taken: dict[int, Document] = {}  # plays by their number
        self.tokens: dict[str, str] = {}  # token → screen
        self.has_hints = True
        self.codes: list[str] = []
        self.claimed: str | None = None  # the screen that somebody at the desk gave to the newest code
        self.port = 0
        self._moved = timedelta()
        self._since = time.monotonic()
        self._listeners: dict[str, set[asyncio.Event]] = {}
        self._stack = contextlib.AsyncExitStack()
        self.site = self._made(settings)

    # Time

    def now(self) -> datetime:
        return NOW + self._moved + timedelta(seconds=time.monotonic() - self._since)

    async def later(self, page: Page | None, *, by: timedelta) -> None:
        """The service and the browser are that much later. What falls due in the browser in between happens once."""
        self._moved += by
        if page is not None:
            await page.clock.fast_forward(int(by.total_seconds() * 1000))

    # What the desk does

    def put(self, document: Document) -> str:
        """Another document for its screen; whoever listens is told. Gives its tag."""
        folder = "/drill" if document["mode"] == "drill" else ""
        path = f"{folder}/signage/{document['screen']['id']}.json"
        self.documents[path] = bytes_of(document)
        if self.has_hints:
            for listener in self._listeners.get(path.removesuffix(".json"), ()):
                listener.set()
        return etag_of(document)

    @property
    def listening(self) -> int:
        return sum(map(len, self._listeners.values()))

    # The network

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def go_online(self) -> None:
        """On the same port as before."""
        await self._stack.enter_async_context(_served(self))

    async def go_offline(self) -> None:
        """The service is not there any more: nothing answers on its port."""
        await self._stack.aclose()

    # What it answers

    def _made(self, settings: Settings) -> FastAPI:
        site = FastAPI(openapi_url=None)
        for folder in ("", "/drill"):
            site.add_api_route(folder + "/signage/{screen}.json", self._document, methods=["GET"])
            site.add_api_route(folder + "/signage/{screen}/events", self._events, methods=["GET"])
            site.add_api_route(folder + "/signage/{screen}/heartbeat", self._heartbeat, methods=["POST"])
        site.add_api_route("/signage/pair", self._pair, methods=["POST"])
        site.add_api_route("/signage/pair/claim", self._claim, methods=["POST"])
        site.add_api_route("/media/{name}", self._media, methods=["GET"])
        site.add_api_route("/emergency", lambda: PlainTextResponse("emergency"), methods=["GET"])
        pages: Any = SimpleNamespace(is_ready=True, get=self.documents.get)
        app: Any = SimpleNamespace(settings=settings)
        site.include_router(player.routes(app, pages))

        @site.middleware("http")
        async def dated(request: Request, follow: Any) -> Response:
            answer: Response = await follow(request)
            answer.headers["date"] = format_datetime(self.now().astimezone(UTC), usegmt=True)
            return answer

        return site

    def _document(self, request: Request, screen: str) -> Response:
        body = self.documents.get(request.url.path)
        if body is None:
            return Response(status_code=404)
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        is_known = request.headers.get("if-none-match") == etag
        self.asked.append((screen, is_known))
        headers = {"etag": etag, "cache-control": "no-cache"}
        return Response(status_code=304, headers=headers) if is_known else Response(body, headers=headers)

    def _events(self, request: Request, screen: str) -> Response:
        if not self.has_hints:
            return Response(status_code=503, headers={"retry-after": "60"})
        path, listener = request.url.path.removesuffix("/events"), asyncio.Event()

        async def hints() -> AsyncIterator[str]:
            self._listeners.setdefault(path, set()).add(listener)
            try:
                yield "retry: 3000\n\n"
                while True:
                    await listener.wait()
                    listener.clear()
                    yield "event: changed\ndata:\n\n"
            finally:
                self._listeners[path].discard(listener)

        return StreamingResponse(hints(), media_type="text/event-stream")

    async def _heartbeat(self, request: Request, screen: str) -> Response:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token not in self.tokens:
            return Response(status_code=401)
        if self.tokens[token] != screen:
            return Response(status_code=409)
        beat = await request.json()
        self.beats.append(beat)
        self.taken.update((play["sequence"], play) for play in beat["plays"])
        return JSONResponse({"server_time": self.now().isoformat(), "taken": max(self.taken, default=0), "beat_s": 30})

    def _pair(self) -> Response:
        code = f"K7Q-4M{len(self.codes) + 2}"
        self.codes.append(code)
        return JSONResponse({"code": code, "claim": f"claim-{code}", "ask_s": 1}, status_code=201)

    async def _claim(self, request: Request) -> Response:
        claim = (await request.json())["claim"]
        if claim != f"claim-{self.codes[-1]}":
            return Response(status_code=410)
        if self.claimed is None:
            return JSONResponse({"ask_s": 1}, status_code=202)
        self.tokens["token"] = self.claimed
        return JSONResponse({"screen": self.claimed, "token": "token"})

    def _media(self, request: Request, name: str) -> Response:
        body = self.media.get(request.url.path)
        return Response(status_code=404) if body is None else Response(body, media_type="image/jpeg")


@asynccontextmanager
async def _served(service: Service) -> AsyncIterator[None]:
    config = uvicorn.Config(
        service.site,
        host="127.0.0.1",
        port=service.port,
        log_level="warning",
        lifespan="off",
        date_header=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(20):
        while not server.started:
            await asyncio.sleep(0.02)
    service.port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield
    finally:
        server.should_exit = server.force_exit = True
        await task


@asynccontextmanager
async def a_service(settings: Settings) -> AsyncIterator[Service]:
    service = Service(settings)
    await service.go_online()
    try:
        yield service
    finally:
        await service.go_offline()


@dataclass(kw_only=True)
class Kiosk:
    """Browsers that are started as an operator starts them."""

    playwright: Playwright
    browser: Browser
    contexts: list[BrowserContext] = field(default_factory=list)

    async def opens(
        self, url: str, *, size: Any = LANDSCAPE, at: datetime = NOW, scripts: Sequence[str] = (), **options: Any
    ) -> Page:
        """A screen of that size whose machine thinks that it is that time."""
        context = await self.browser.new_context(viewport=size, **options)
        self.contexts.append(context)
        return await a_page(context, url, at=at, scripts=scripts)

    @asynccontextmanager
    async def restarted(self, profile: Path, url: str, *, at: datetime = NOW) -> AsyncIterator[Page]:
        """A browser that keeps what it has in this folder, as after its power came back."""
        context = await self.playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=ARGUMENTS, viewport=LANDSCAPE
        )
        try:
            yield await a_page(context, url, at=at)
        finally:
            await context.close()


async def a_page(context: BrowserContext, url: str, *, at: datetime, scripts: Sequence[str] = ()) -> Page:
    await context.clock.install(time=at)
    for script in scripts:
        await context.add_init_script(script)
    page = await context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: problems.append(said.text) if "Content Security Policy" in said.text else None)
    page.problems = problems  # type: ignore[attr-defined]
    await page.goto(url)
    return page


@asynccontextmanager
async def a_kiosk() -> AsyncIterator[Kiosk]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield Kiosk(playwright=playwright, browser=browser)
        finally:
            await browser.close()


async def painted(page: Page, etag: str) -> None:
    """What this document says is on the glass."""
    await page.wait_for_selector(f"body[data-painted='{etag}']")


async def is_kept(page: Page) -> None:
    """The worker has everything: from now on the screen starts without a network."""
    await page.evaluate("navigator.serviceWorker.ready")
    await page.wait_for_function(
        """async () => {
             const names = (await caches.keys()).filter((name) => name.startsWith("signage-shell-"));
             if (names.length === 0) return false;
             const kept = await (await caches.open(names[0])).keys();
             return kept.some((request) => new URL(request.url).pathname === location.pathname);
           }"""
    )


async def text_of(page: Page) -> str:
    """Everything that can be read on the glass."""
    return await page.evaluate("document.body.innerText")
