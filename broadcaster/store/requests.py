"""API requests by the client's own key (`Idempotency-Key`): asked twice, done once.

The row is written in the transaction of the act, so that a repeat after a lost answer finds it, and a repeat after a
failed act does not.
"""

from __future__ import annotations

import hashlib
from datetime import datetime

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from broadcaster.store.tables import requests


class KeyUsedForAnother(ValueError):
    """The same key came with another request."""


class AlreadyKept(RuntimeError):
    """The same request is being answered at the same moment."""


def key_of(token_id: str, client_key: str) -> str:
    return _hash(f"{token_id}\n{client_key}".encode())


def find(connection: Connection, key: str, body: bytes) -> str | None:
    """The identifier that this request made before. Raises KeyUsedForAnother."""
    row = connection.execute(select(requests).where(requests.c.key == key)).one_or_none()
    if row is None:
        return None
    if row.body_hash != _hash(body):
        raise KeyUsedForAnother(key)
    return str(row.identifier)


def keep(connection: Connection, key: str, body: bytes, identifier: str, at: datetime) -> None:
    """Raises AlreadyKept, and so undoes the act, when the same request was faster."""
    try:
        connection.execute(insert(requests).values(key=key, body_hash=_hash(body), identifier=identifier, at=at))
    except IntegrityError as error:
        raise AlreadyKept(key) from error


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
