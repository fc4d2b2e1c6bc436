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

from sqlalchemy import Connection, insert, select, text, update

from broadcaster.message import Mode
from broadcaster.store.tables import audit, meta, microseconds

_DOMAIN = "broadcaster-audit-v1\n"
_FIRST = "0" * 64
_CHECKED = "audit.checked"


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


def about(connection: Connection, object: str, *, limit: int = 500) -> Sequence[Entry]:
    """What was done with one message or one thing, in order."""
    rows = connection.execute(select(audit).where(audit.c.object == object).order_by(audit.c.seq).limit(limit))
    return [Entry(**row._mapping) for row in rows]


def first_fault(connection: Connection) -> int | None:
    """The number of the first entry that is not as it was written; None when the chain holds."""
    return _first_fault_after(connection, 0, _FIRST)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """How far the chain was found to hold, and where it breaks."""

    number: int
    at: datetime | None
    fault: int | None


def check(connection: Connection, *, from_first: bool = False) -> Checked:
    """Goes on where the last check ended, or begins at the first entry. What is remembered is the last entry that held,
    with its hash: an older entry that was changed since is found only from the first on."""
    kept = connection.execute(select(meta.c.value).where(meta.c.name == _CHECKED)).scalar_one_or_none()
    known: tuple[int, str] = tuple(json.loads(kept)) if kept else (0, _FIRST)
    # What held before must still be there, wherever the look begins: a log that was cut off at its end, or written anew
    # from the first entry on, is a chain that holds in itself.
    fault = _lost(connection, *known)
    if fault is None:
        fault = _first_fault_after(connection, *((0, _FIRST) if from_first else known))
    if fault is not None:
        return Checked(number=fault - 1, at=None, fault=fault)
    last = connection.execute(select(audit).order_by(audit.c.seq.desc()).limit(1)).first()
    if last is None:
        return Checked(number=0, at=None, fault=None)
    value = json.dumps([last.seq, last.hash])
    if not connection.execute(update(meta).where(meta.c.name == _CHECKED).values(value=value)).rowcount:
        connection.execute(insert(meta).values(name=_CHECKED, value=value))
    return Checked(number=last.seq, at=last.at, fault=None)


def _lost(connection: Connection, seq: int, hash: str) -> int | None:
    """The first entry that is missing, or no longer the one that was seen."""
    if not seq:
        return None
    newest = connection.execute(select(audit.c.seq).order_by(audit.c.seq.desc()).limit(1)).scalar() or 0
    if newest < seq:
        return newest + 1
    held = connection.execute(select(audit.c.hash).where(audit.c.seq == seq)).scalar_one_or_none()
    return None if held == hash else seq


def _first_fault_after(connection: Connection, seq: int, previous: str) -> int | None:
    expected = seq + 1
    while batch := entries(connection, after=expected - 1):
        for entry in batch:
            values = {name: getattr(entry, name) for name in Entry.__dataclass_fields__ if name != "hash"}
            if entry.seq != expected or entry.hash != _hash(previous, values):
                return expected
            previous, expected = entry.hash, expected + 1
    return None


def newest(
    connection: Connection,
    *,
    actor: str = "",
    act: str = "",
    object: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
    before: int | None = None,
    limit: int = 100,
) -> Sequence[Entry]:
    c = audit.c
    asked = [column == value for column, value in ((c.actor, actor), (c.act, act), (c.object, object)) if value]
    if since is not None:
        asked.append(c.at >= since)
    if until is not None:
        asked.append(c.at < until)
    if before is not None:
        asked.append(c.seq < before)
    rows = connection.execute(select(audit).where(*asked).order_by(c.seq.desc()).limit(limit))
    return [Entry(**row._mapping) for row in rows]


def _hash(previous: str, values: Mapping[str, Any]) -> str:
    written = {**values, "at": microseconds(values["at"])}
    return hashlib.sha256((_DOMAIN + previous + _canonical(written)).encode()).hexdigest()


def _canonical(values: Mapping[str, Any]) -> str:
    """Keys sorted, no blanks, text as it stands, no floats: RFC 8785 for what we write."""
    return json.dumps(values, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
