"""Mails to staff: rows that the sender sends, the urgent ones first, each until it was taken or a day is over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, insert, select, update

from broadcaster.store.tables import people, staff_mails

GIVEN_UP_AFTER = timedelta(hours=24)


@dataclass(frozen=True, kw_only=True)
class StaffMail:
    id: int
    to: str
    subject: str
    body: str
    attempts: int
    created_at: datetime


def add(connection: Connection, person_id: int, *, subject: str, body: str, is_urgent: bool, at: datetime) -> None:
    connection.execute(
        insert(staff_mails).values(
            person_id=person_id, subject=subject, body=body, is_urgent=is_urgent, due_at=at, created_at=at
        )
    )


def due(connection: Connection, now: datetime, limit: int = 50) -> Sequence[StaffMail]:
    m = staff_mails.c
    rows = connection.execute(
        select(m.id, m.subject, m.body, m.attempts, m.created_at, people.c.email)
        .join(people, people.c.id == m.person_id)
        .where(m.settled_at.is_(None), m.due_at <= now)
        .order_by(m.is_urgent.desc(), m.due_at)
        .limit(limit)
    )
    return [
        StaffMail(
            id=row.id,
            to=row.email,
            subject=row.subject,
            body=row.body,
            attempts=row.attempts,
            created_at=row.created_at,
        )
        for row in rows
    ]


def settle(connection: Connection, id: int, now: datetime, detail: str) -> None:
    connection.execute(update(staff_mails).where(staff_mails.c.id == id).values(settled_at=now, detail=detail[:200]))


def again(connection: Connection, id: int, due_at: datetime, detail: str) -> None:
    m = staff_mails.c
    connection.execute(
        update(staff_mails).where(m.id == id).values(attempts=m.attempts + 1, due_at=due_at, detail=detail[:200])
    )
