"""Leaving one category of しなメール by the link in a mail. GET shows, POST acts (RFC 8058: no cookie, no redirect).

Mail scanners open every link; so opening must not change anything. A wrong link and an unknown one look alike.
"""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from broadcaster.app import App
from broadcaster.render import renderer
from broadcaster.resources import packaged
from broadcaster.store import audit, subscribers
from broadcaster.store.audit import Actor
from broadcaster.store.database import Connection

_HEADERS = {"cache-control": "no-store", "referrer-policy": "no-referrer", "x-robots-tag": "noindex"}
READER = Actor(name="reader", via="mail")


def routes(app: App) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    render = renderer(packaged("templates"), app.settings.words)

    def page(kind: str, status: int = 200, category: str = "") -> HTMLResponse:
        body = render("web/leave.html", kind=kind, category=category, ward=app.settings.ward)
        return HTMLResponse(body, status_code=status, headers=_HEADERS)

    def known(connection: Connection, token: str) -> tuple[int, str] | None:
        """The reader and the category that a link names."""
        read = app.keyring.read_leave(token, lambda id: subscribers.epoch_of(connection, id))
        if read is None:
            return None
        subscriber, topic = read
        category = next((c.id for c in app.settings.ward.categories if c.bit == topic), None)
        return (subscriber, category) if category else None

    @router.get("/u/{token}")
    def show(token: str) -> HTMLResponse:
        with app.database.read() as connection:
            found = known(connection, token)
        if found is None:
            return page("unknown", 404)
        return page("ask", category=app.settings.ward.category_by_id(found[1]).name)

    @router.post("/u/{token}")
    def act(token: str) -> HTMLResponse:
        with app.database.write() as connection:
            found = known(connection, token)
            if found is None:
                return page("unknown", 404)
            subscriber, category = found
            if subscribers.leave(connection, subscriber, app.settings.ward.topic_bit(category)):
                audit.write(connection, READER, "subscriber.left", category, at=app.clock.now(), subscriber=subscriber)
        return page("left", category=app.settings.ward.category_by_id(category).name)

    return router
