"""The first page: what is in force now, what goes out next, what needs me. And the stream that says "changed"."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from broadcaster.channel import Allowance, Rationed
from broadcaster.message import Mode
from broadcaster.roles import Right
from broadcaster.store import deliveries, drafts, issues, messages, notes
from broadcaster.store.database import Connection, StoreError
from broadcaster.store.messages import Kept
from broadcaster.web.desk.standing import standing
from broadcaster.web.desk.visit import PATH, Desk, Visit

COMING = timedelta(days=14)
MOST_COMING = 12
MOST_STREAMS = 3
"""Open pages of one session that are told of changes at once."""

CHECK_S = 30.0
"""So often a stream looks whether its session still lasts."""


def register(desk: Desk) -> None:
    home = Home(desk)
    desk.get("", Right.READ, home.show)
    desk.get("/home", Right.READ, home.parts)
    desk.get("/keys", Right.READ, lambda visit: visit.page("desk/keys.html"))


def events(desk: Desk) -> Route:
    return Route(f"{PATH}/events", Events(desk), methods=["GET"])


class Home:
    def __init__(self, desk: Desk) -> None:
        self.app = desk.app
        self._enabled = desk.app.settings.enabled

    def show(self, visit: Visit) -> Response:
        return visit.page("desk/home.html", **self._seen(visit))

    def parts(self, visit: Visit) -> Response:
        """The same without the frame: what the page puts in the place of its own when something has changed."""
        return visit.page("desk/home-parts.html", **self._seen(visit))

    def _seen(self, visit: Visit) -> dict[str, Any]:
        now = visit.now
        with self.app.database.read() as connection:
            shown = [standing(connection, issue) for mode in Mode for issue in issues.in_force(connection, mode, now)]
            return {
                "alerts": [one for one in shown if one.message.is_alert],
                "notices": [one for one in reversed(shown) if not one.message.is_alert],
                "coming": self._coming(connection, now),
                "submitted": messages.submitted(connection, 50),
                "to_decide": deliveries.to_decide(connection, 50),
                "reviews": notes.open_reviews(connection),
                "low": self._low(now),
                "drafts": drafts.open_of(connection, visit.person.name, 5),
                "media": self._media(connection),
            }

    def _coming(self, connection: Connection, now: datetime) -> list[Kept]:
        since, until = now - timedelta(days=1), now + COMING
        return list(messages.between(connection, since, until, MOST_COMING, states=messages.COMING))

    def _low(self, now: datetime) -> list[tuple[str, Allowance]]:
        """The media whose posts of the day are running out."""
        live = self.app.pipeline.channels[Mode.LIVE]
        rationed = [(name, channel.allowance(now)) for name, channel in live.items() if isinstance(channel, Rationed)]
        return [(name, left) for name, left in rationed if left is not None and left.is_low]

    def _media(self, connection: Connection) -> list[tuple[str, str, datetime | None]]:
        """Each medium with how it is, a word of `states_delivery`, and when it last settled something."""
        newest = deliveries.newest_states(connection, Mode.LIVE)
        media: list[tuple[str, str, datetime | None]] = []
        for name in self._enabled:
            state, kind, settled_at = newest.get(name, (None, "", None))
            media.append((name, "unused" if state is None else deliveries.ending(state, kind), settled_at))
        return media


class Events:
    """Says "changed" and nothing else; what has changed the page asks for by itself. Without it every page is right
    when it is opened, and asks again by its own clock."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._open: dict[str, int] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._answer(Request(scope, receive))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        session = await asyncio.to_thread(self.desk.session_of, request)
        if session is None or session.ends_at <= self.desk.app.clock.now():
            return Response(status_code=204)  # tells a browser not to ask again
        if self._open.get(session.hash, 0) >= MOST_STREAMS:
            return Response(status_code=204)
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(self._stream(request, session.hash), media_type="text/event-stream", headers=headers)

    async def _stream(self, request: Request, hash: str) -> AsyncIterator[str]:
        wake = self.desk.app.signals.subscribe()
        self._open[hash] = self._open.get(hash, 0) + 1
        loop = asyncio.get_running_loop()
        try:
            yield "retry: 3000\n\n"
            checked_at = loop.time()
            while not await request.is_disconnected():
                rang = await wake.wait(5.0)
                if loop.time() - checked_at > CHECK_S:
                    checked_at = loop.time()
                    if not await self._lasts(request):
                        return
                yield "event: changed\ndata: \n\n" if rang else ": still here\n\n"
                if rang:
                    await asyncio.sleep(1)  # a burst of changes is one
        finally:
            self._open[hash] -= 1
            self.desk.app.signals.unsubscribe(wake)

    async def _lasts(self, request: Request) -> bool:
        try:
            session = await asyncio.to_thread(self.desk.session_of, request)
        except StoreError:
            return True  # the database is away; the next look tells
        return session is not None and session.ends_at > self.desk.app.clock.now()
