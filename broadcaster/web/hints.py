"""Push hints for screens: a stream that says "changed" and nothing else.

    GET /signage/S01/events        GET /drill/signage/S01/events

A hint carries no content and may be lost: the player asks for its document as it always does, only sooner. A screen is
told when its own document has become another one, so that a notice for one district wakes no other district's screens.

Answered before any routing, because thousands may be open: a stream is a task of the server's own and one that waits for
its end. There are at most `MOST_STREAMS` in one process; whoever comes then is told when to come again, and polls on.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as ToServer

from broadcaster.message import Mode
from broadcaster.web.pages import Boards

MOST_STREAMS = 10_000
STILL_HERE_S = 15.0
"""A proxy that hears nothing for longer closes the connection (nginx: 60 s)."""

_EVENTS = re.compile(r"(/drill)?/signage/([A-Za-z0-9_-]{1,40})/events", re.ASCII)
_START: ToServer = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"text/event-stream"),
        (b"cache-control", b"no-store"),
        (b"x-accel-buffering", b"no"),
        (b"x-content-type-options", b"nosniff"),
    ],
}


def _part(words: bytes) -> ToServer:
    return {"type": "http.response.body", "body": words, "more_body": True}


_FIRST, _CHANGED, _STILL_HERE = _part(b"retry: 3000\n\n"), _part(b"event: changed\ndata: \n\n"), _part(b":\n\n")


class Hints:
    """ASGI: the streams are answered here; everything else goes on to the application."""

    def __init__(self, app: ASGIApp, pages: Boards) -> None:
        self._app, self._pages = app, pages
        self._turns: dict[Mode, asyncio.Future[None]] = {}
        self.open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _EVENTS.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "GET" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        mode = Mode.DRILL if found[1] else Mode.LIVE
        document = scope["path"].removesuffix("/events") + ".json"
        if not self._pages.is_ready or self.open >= MOST_STREAMS:
            await _come_again(send)
        elif self._pages.get(document) is None:
            await self._app(scope, receive, send)  # says that there is no such page
        else:
            self.open += 1
            try:
                await self._stream(mode, document, receive, send)
            finally:
                self.open -= 1

    async def _stream(self, mode: Mode, document: str, receive: Receive, send: Send) -> None:
        """Until the screen goes."""
        turn, etag = self._turn(mode), self._etag(document)
        await send(_START)
        await send(_FIRST)
        gone = asyncio.ensure_future(_gone(receive))
        try:
            while not gone.done():
                await asyncio.wait((turn, gone), return_when=asyncio.FIRST_COMPLETED)
                turn, before = self._turn(mode), etag
                etag = self._etag(document)
                await send(_STILL_HERE if etag == before else _CHANGED)
        finally:
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await gone

    def _turn(self, mode: Mode) -> asyncio.Future[None]:
        """Done at the next change, or when it is time to say that one is still here: one for all streams. A clock for
        each would have to be taken off the list of all the others when it rings."""
        turn = self._turns.get(mode)
        if turn is None or turn.done():
            loop = asyncio.get_running_loop()
            turn = self._turns[mode] = loop.create_future()
            change = self._pages.change(mode)
            told = functools.partial(_is_over, turn)
            clock = loop.call_later(STILL_HERE_S, _is_over, turn)
            change.add_done_callback(told)
            turn.add_done_callback(functools.partial(_stop_waiting, clock, change, told))
        return turn

    def _etag(self, document: str) -> bytes:
        answer = self._pages.get(document)
        return answer.etag if answer is not None else b""


def _is_over(turn: asyncio.Future[None], _: object = None) -> None:
    if not turn.done():
        turn.set_result(None)


def _stop_waiting(
    clock: asyncio.TimerHandle, change: asyncio.Future[None], told: Callable[[Any], object], _: object
) -> None:
    clock.cancel()
    change.remove_done_callback(told)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _come_again(send: Send) -> None:
    headers = [(b"retry-after", b"30"), (b"content-length", b"0"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
