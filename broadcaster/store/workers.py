"""Who is alive. A worker that stops saying so is given up for dead, and what it held is taken from it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, insert, select, update

from broadcaster.store.tables import deliveries, recipients, workers


def enlist(connection: Connection, *, role: str, pid: int, now: datetime, lasts: timedelta) -> int:
    id: int = connection.execute(
        insert(workers).values(role=role, pid=pid, started_at=now, alive_until=now + lasts).returning(workers.c.id)
    ).scalar_one()
    return id


def beat(connection: Connection, id: int, *, now: datetime, lasts: timedelta) -> bool:
    """Say that one lives on. False when one was given up for dead: drop everything and enlist anew."""
    return bool(
        connection.execute(
            update(workers).where(workers.c.id == id, workers.c.alive_until > now).values(alive_until=now + lasts)
        ).rowcount
    )


def dead(connection: Connection, now: datetime) -> Sequence[int]:
    return list(connection.execute(select(workers.c.id).where(workers.c.alive_until <= now)).scalars())


def alive(connection: Connection, now: datetime) -> Sequence[tuple[int, str, int]]:
    rows = connection.execute(
        select(workers.c.id, workers.c.role, workers.c.pid).where(workers.c.alive_until > now).order_by(workers.c.id)
    )
    return [(row.id, row.role, row.pid) for row in rows]


def retire(connection: Connection, id: int, now: datetime) -> None:
    """Leave in good order: nothing is held any more."""
    connection.execute(update(workers).where(workers.c.id == id).values(alive_until=now))


def bury(connection: Connection, ids: Sequence[int]) -> None:
    """Forget the dead who hold nothing."""
    for id in ids:
        holds = (
            connection.execute(
                select(deliveries.c.id).where(deliveries.c.worker_id == id, deliveries.c.state == 1).limit(1)
            ).first()
            or connection.execute(
                select(recipients.c.delivery_id).where(recipients.c.worker_id == id, recipients.c.state == 1).limit(1)
            ).first()
        )
        if not holds:
            connection.execute(delete(workers).where(workers.c.id == id))
