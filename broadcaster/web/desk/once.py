"""A press that counts once: a key in the form makes a double click, a reload and a second tab one act.

The key is new with each page that offers the act. It counts for its person and its form; the row that remembers it is
written in the transaction of the act, so that a repeat finds the act and a failed act leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from broadcaster.store import requests
from broadcaster.store.database import Connection
from broadcaster.store.requests import AlreadyKept
from broadcaster.web.desk.visit import Visit

__all__ = ["AlreadyKept", "done", "kept"]

Also = Callable[[Connection, str], None]
"""Done in the transaction of an act, with the identifier of what it made."""


def done(visit: Visit, connection: Connection) -> str | None:
    """What this press made already, by its identifier. A form without its key is none of ours."""
    return requests.find(connection, _key_of(visit), _form_of(visit))


def kept(visit: Visit) -> Also:
    """To be done in the transaction of the act. Raises AlreadyKept there when the same press was a moment earlier."""
    return partial(_keep, visit)


def _keep(visit: Visit, connection: Connection, made: str) -> None:
    requests.keep(connection, _key_of(visit), _form_of(visit), made, visit.now)


def _key_of(visit: Visit) -> str:
    if not (key := visit.field("key")):
        visit.stop("desk/says.html", status=422, what="unreadable")
    return requests.key_of(f"desk/{visit.person.name}", f"{visit.request.url.path}\n{key}")


def _form_of(visit: Visit) -> bytes:
    return visit.request.url.path.encode()
