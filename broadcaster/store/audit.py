"""Who did what: append-only, each entry chained to the one before by SHA-256.

Written in the transaction of the act itself. No address and no secret stands in it. Changing, deleting, swapping or
inserting an entry breaks the chain from there on, and `first_fault` names the place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, text

from broadcaster.message import Mode
from broadcaster.store.tables import audit, microseconds

_DOMAIN = "broadcaster-audit-v1\n"
_FIRST = "0" * 64


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who acts, and by which face: desk, api, cli, rule."""

    name: str
    via: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    seq: int
    at: datetime
    actor: str
    via: str
    act: str
    object: str
    mode: str
    detail: str
    hash: str


def write(
    connection: Connection,
    actor: Actor,
    act: str,
    object: str,
    *,
    at: datetime,
    mode: Mode = Mode.LIVE,
    **detail: Any,
) -> None:
    write_together(connection, actor, act, [(object, mode, detail)], at=at)


def write_together(
    connection: Connection,
    actor: Actor,
    act: str,
    objects: Sequence[tuple[str, Mode, Mapping[str, Any]]],
    *,
    at: datetime,
) -> None:
    """The same act on many: an entry for each `(object, mode, detail)`."""
    if connection.dialect.name == "postgresql":  # one writer at a time, or the chain would fork
        connection.execute(text("SELECT pg_advisory_xact_lock(7301309)"))
    last = connection.execute(select(audit.c.seq, audit.c.hash).order_by(audit.c.seq.desc()).limit(1)).first()
    seq, previous = (last.seq, last.hash) if last else (0, _FIRST)
    rows = []
    for object, mode, detail in objects:
        seq += 1
        values = {
            "seq": seq,
            "at": at,
            "actor": actor.name[:64],
            "via": actor.via,
            "act": act,
            "object": object[:120],
            "mode": mode.value,
            "detail": _canonical(detail),
        }
        previous = _hash(previous, values)
        rows.append({**values, "hash": previous})
    connection.execute(insert(audit), rows)


def entries(connection: Connection, *, after: int = 0, limit: int = 1000) -> Sequence[Entry]:
    rows = connection.execute(select(audit).where(audit.c.seq > after).order_by(audit.c.seq).limit(limit))
    return [Entry(**row._mapping) for row in rows]


def first_fault(connection: Connection) -> int | None:
    """The number of the first entry that is not as it was written; None when the chain holds."""
    previous, expected = _FIRST, 1
    while batch := entries(connection, after=expected - 1):
        for entry in batch:
            values = {name: getattr(entry, name) for name in Entry.__dataclass_fields__ if name != "hash"}
            if entry.seq != expected or entry.hash != _hash(previous, values):
                return expected
            previous, expected = entry.hash, expected + 1
    return None


def _hash(previous: str, values: Mapping[str, Any]) -> str:
    written = {**values, "at": microseconds(values["at"])}
    return hashlib.sha256((_DOMAIN + previous + _canonical(written)).encode()).hexdigest()


def _canonical(values: Mapping[str, Any]) -> str:
    """Keys sorted, no blanks, text as it stands, no floats: RFC 8785 for what we write."""
    return json.dumps(values, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
