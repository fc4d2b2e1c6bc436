"""What people say about a message: comments, reasons of a return, and the review that sending alone leaves open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select, update

from broadcaster.store.tables import notes, reviews

COMMENT, RETURNED, ALONE = "comment", "returned", "alone"


@dataclass(frozen=True, kw_only=True)
class Note:
    id: int
    identifier: str
    kind: str
    text: str
    by: str
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Review:
    identifier: str
    opened_by: str
    opened_at: datetime
    reason: str
    text: str | None
    written_by: str | None
    written_at: datetime | None


def add(connection: Connection, identifier: str, kind: str, text: str, *, by: str, at: datetime) -> None:
    connection.execute(insert(notes).values(identifier=identifier, kind=kind, text=text, by=by, at=at))


def of(connection: Connection, identifier: str) -> Sequence[Note]:
    rows = connection.execute(select(notes).where(notes.c.identifier == identifier).order_by(notes.c.id))
    return [Note(**row._mapping) for row in rows]


def open_review(connection: Connection, identifier: str, *, by: str, at: datetime, reason: str) -> None:
    connection.execute(insert(reviews).values(identifier=identifier, opened_by=by, opened_at=at, reason=reason))


def review_of(connection: Connection, identifier: str) -> Review | None:
    row = connection.execute(select(reviews).where(reviews.c.identifier == identifier)).one_or_none()
    return Review(**row._mapping) if row else None


def open_reviews(connection: Connection) -> Sequence[Review]:
    rows = connection.execute(select(reviews).where(reviews.c.written_at.is_(None)).order_by(reviews.c.opened_at))
    return [Review(**row._mapping) for row in rows]


def write_review(connection: Connection, identifier: str, text: str, *, by: str, at: datetime) -> bool:
    """False when it is written already, or by the one who sent alone: that one cannot close it."""
    r = reviews.c
    written = connection.execute(
        update(reviews)
        .where(r.identifier == identifier, r.written_at.is_(None), r.opened_by != by)
        .values(text=text, written_by=by, written_at=at)
    )
    return bool(written.rowcount)
