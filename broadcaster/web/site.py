"""The web process: boards first, then leaving the list, pictures, the API, health. It holds no channel's credential."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from broadcaster import __version__, images
from broadcaster.app import App
from broadcaster.lifecycle import MoveNotAllowed
from broadcaster.problems import Refused
from broadcaster.store.database import StoreError
from broadcaster.store.messages import ChangedMeanwhile
from broadcaster.store.requests import KeyUsedForAnother
from broadcaster.web import api, desk, leave, metrics, player
from broadcaster.web.api import NotAllowed
from broadcaster.web.hints import Hints
from broadcaster.web.hosts import Hosts
from broadcaster.web.pages import Boards, BoardsFirst

log = structlog.get_logger(__name__)

_PICTURE = re.compile(r"[0-9a-f]{64}\.(?:jpg|png)")
_TOO_LARGE = 1 << 20
_WITH_PICTURES = 12 << 20
"""A picture of a notice, 10 MB at most, and the notice around it."""


def create(parts: App) -> ASGIApp:
    """The ASGI application of one web process."""
    pages = Boards(parts.pipeline)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await parts.signals.start()
        keeper = asyncio.create_task(pages.keep_current())
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            await parts.close()

    site = FastAPI(
        title="品川区 広報デスク",
        version=__version__,
        lifespan=lifespan,
        openapi_url="/api/openapi.json",
        docs_url=None,  # it would load scripts from elsewhere
        redoc_url=None,
    )
    site.include_router(api.routes(parts))
    site.include_router(leave.routes(parts))
    site.include_router(metrics.routes(parts, pages))
    site.include_router(player.routes(parts, pages))
    site.add_api_route("/media/{name}", _media(parts), methods=["GET"], include_in_schema=False)
    if parts.settings.is_rehearsal:
        from broadcaster.web import rehearsal

        site.include_router(rehearsal.routes(parts))
    for error in (Refused, NotAllowed, KeyUsedForAnother, ChangedMeanwhile, MoveNotAllowed):
        site.add_exception_handler(error, _said)
    site.add_exception_handler(RequestValidationError, _not_understood)
    site.add_exception_handler(HTTPException, _plain)
    site.add_exception_handler(StoreError, _unavailable)
    site.add_exception_handler(Exception, _failed)
    inside = _Guard(_with_desk(site, desk.application(parts)), Hosts(parts.settings))
    return BoardsFirst(Hints(inside, pages), pages)


def _with_desk(site: ASGIApp, staff: ASGIApp) -> ASGIApp:
    """The desk is a house of its own beside the public one: its pages, its errors, its door."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        is_desk = scope["type"] == "http" and (path == desk.PATH or path.startswith(f"{desk.PATH}/"))
        await (staff if is_desk else site)(scope, receive, send)

    return app


def _media(parts: App) -> Any:
    def picture(name: str) -> Response:
        if not _PICTURE.fullmatch(name):
            return PlainTextResponse("そのページはありません。", status_code=404)
        path = images.path_of(parts.media_folder, name.partition(".")[0])
        if not path.is_file() or path.name != name:
            return PlainTextResponse("そのページはありません。", status_code=404)
        return FileResponse(path, headers={"cache-control": "public, max-age=31536000, immutable"})

    return picture


async def _said(_: Request, error: Exception) -> Response:
    return api.answer_to(error)


async def _not_understood(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [
        {
            "where": ".".join(str(step) for step in fault["loc"] if step != "body") or "body",
            "ja": "この値は使えません。/api/openapi.json の形で書いてください。",
            "en": fault["msg"],
        }
        for fault in error.errors()
    ]
    return JSONResponse({"problems": problems}, status_code=422)


async def _plain(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {
        404: ("そのページはありません。", "No such page."),
        405: ("その使い方はできません。", "Not possible here."),
    }
    ja, en = words.get(error.status_code, ("できません。", "Not possible."))
    problems = [{"where": "request", "ja": ja, "en": en}]
    return JSONResponse({"problems": problems}, status_code=error.status_code, headers=error.headers)


async def _unavailable(_: Request, error: Exception) -> Response:
    log.error("store.unavailable", why=type(error).__name__)
    problems = [
        {"where": "database", "ja": "ただいまデータベースを使えません。", "en": "The database does not answer."}
    ]
    return JSONResponse({"problems": problems}, status_code=503, headers={"retry-after": "5"})


async def _failed(_: Request, error: Exception) -> Response:
    log.error("request.failed", exc_info=error)
    return api.answer_to(error)


_NOT_OURS = PlainTextResponse(
    "このアドレスでは答えません。お知らせにあるアドレスを開いてください。\nNot answered at this address.\n",
    status_code=421,
)


class _Guard:
    """For every answer: the headers that keep browsers careful. For every request: a name that is ours, a bounded body.

    The boards are answered before: they are the same public bytes by whatever name, and hold no link made of it."""

    HEADERS = (
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"same-origin"),
        (b"cross-origin-opener-policy", b"same-origin"),
    )
    CSP = b"default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        names = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(names) > 1 or not self._hosts.are_ours(names[0] if names else "", scope["path"]):
            await _NOT_OURS(scope, receive, send)
            return
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        most = _WITH_PICTURES if scope["path"].startswith(f"{desk.PATH}/") else _TOO_LARGE
        if not announced.isdigit() or int(announced) > most:
            refused = api.answer_to(NotAllowed(413, "大きすぎます。1 MB までにしてください。", "Larger than 1 MiB."))
            await refused(scope, receive, send)
            return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in message["headers"]}
                more = [pair for pair in self.HEADERS if pair[0] not in names]
                if b"content-security-policy" not in names:
                    more.append((b"content-security-policy", self.CSP))
                message["headers"] = [*message["headers"], *more]
            await send(message)

        await self._app(scope, receive, guarded)
