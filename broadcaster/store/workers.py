"""Who is alive. A worker that stops saying so is given up for dead, and what it held is taken from it.

Silence is not read off a wall clock, which may be set, and differs between machines: who looks twice and finds the same
beat has seen a silence, whatever the time is. `alive_until` is for people and for what they watch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, SmallInteger, delete, func, insert, literal_column, select, update

from broadcaster.store.tables import EPOCH, deliveries, leases, workers


def enlist(connection: Connection, *, role: str, pid: int, now: datetime, lasts: timedelta) -> int:
    id: int = connection.execute(
        insert(workers).values(role=role, pid=pid, started_at=now, alive_until=now + lasts).returning(workers.c.id)
    ).scalar_one()
    return id


def beat(connection: Connection, id: int, *, now: datetime, lasts: timedelta) -> bool:
    """Say that one lives on. False when one was given up for dead: drop everything and enlist anew."""
    return bool(
        connection.execute(
            update(workers).where(workers.c.id == id, workers.c.alive_until > EPOCH).values(alive_until=now + lasts)
        ).rowcount
    )


def beats(connection: Connection) -> Mapping[int, datetime]:
    """The last beat of every worker that has not been given up."""
    rows = connection.execute(select(workers.c.id, workers.c.alive_until).where(workers.c.alive_until > EPOCH))
    return {row.id: row.alive_until for row in rows}


def give_up(connection: Connection, id: int, beat: datetime) -> bool:
    """Strike it off. False when it has said something since that beat.

    The newest row stays: SQLite would give its number to the next worker, and a number must never come back."""
    c = workers.c
    given_up = connection.execute(update(workers).where(c.id == id, c.alive_until == beat).values(alive_until=EPOCH))
    newest = select(func.max(c.id)).scalar_subquery()
    connection.execute(delete(workers).where(c.alive_until == EPOCH, c.id < newest))
    return bool(given_up.rowcount)


def retire(connection: Connection, id: int) -> None:
    """Leave in good order. What one held is taken up by the next who looks."""
    connection.execute(update(workers).where(workers.c.id == id).values(alive_until=EPOCH))


def struck_off(connection: Connection) -> Collection[int]:
    """Workers that hold something and are in the list no more. One that was given up may have been on the way to a
    claim just then."""
    listed = select(workers.c.id).where(workers.c.alive_until > EPOCH)
    held = select(deliveries.c.worker_id).where(
        deliveries.c.state == literal_column("1", SmallInteger), deliveries.c.worker_id.not_in(listed)
    )
    letters = select(leases.c.worker_id).where(leases.c.worker_id.not_in(listed))
    return set(connection.execute(held.union(letters)).scalars())


def alive(connection: Connection, now: datetime) -> Sequence[tuple[int, str, int]]:
    rows = connection.execute(
        select(workers.c.id, workers.c.role, workers.c.pid).where(workers.c.alive_until > now).order_by(workers.c.id)
    )
    return [(row.id, row.role, row.pid) for row in rows]
