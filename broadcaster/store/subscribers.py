"""The readers of しなメール: address, topics, districts, language — and nothing else about them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from broadcaster.store.tables import subscribers


@dataclass(frozen=True, kw_only=True)
class Subscriber:
    id: int
    email: str
    domain: str
    language: str
    format: str
    topics: int
    districts: int
    frequency: str
    registered_at: datetime
    method: str
    state: str
    is_drill: bool
    epoch: int


def put(connection: Connection, rows: Sequence[Mapping[str, object]], *, is_drill: bool = False) -> int:
    """Add readers, or renew the ones with the same address. Gives how many rows were written."""
    if not rows:
        return 0
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(subscribers)
    renewed = {
        name: statement.excluded[name]
        for name in (
            "domain",
            "language",
            "format",
            "topics",
            "districts",
            "frequency",
            "registered_at",
            "method",
            "state",
        )
    }
    connection.execute(
        statement.on_conflict_do_update(index_elements=["email", "is_drill"], set_=renewed),
        [{**row, "is_drill": is_drill} for row in rows],
    )
    return len(rows)


def count(connection: Connection, *, is_drill: bool = False, state: str = "active") -> int:
    c = subscribers.c
    return connection.execute(
        select(func.count()).select_from(subscribers).where(c.is_drill == is_drill, c.state == state)
    ).scalar_one()


def get(connection: Connection, id: int) -> Subscriber | None:
    row = connection.execute(select(subscribers).where(subscribers.c.id == id)).one_or_none()
    return Subscriber(**row._mapping) if row else None


def epoch_of(connection: Connection, id: int) -> int | None:
    return connection.execute(select(subscribers.c.epoch).where(subscribers.c.id == id)).scalar()


def leave(connection: Connection, id: int, topic: int) -> bool:
    """Take one topic away; False when the reader did not have it. A reader without topics has left."""
    c = subscribers.c
    reader = get(connection, id)
    if reader is None or not reader.topics & topic:
        return False
    rest = reader.topics & ~topic
    connection.execute(
        update(subscribers).where(c.id == id).values(topics=rest, state=reader.state if rest else "left")
    )
    return True


def everyone(connection: Connection, *, is_drill: bool = False, batch: int = 2_000) -> Iterator[Subscriber]:
    """In the order of their numbers, in batches: a list of a million is never in memory."""
    last = 0
    while True:
        rows = connection.execute(
            select(subscribers)
            .where(subscribers.c.id > last, subscribers.c.is_drill == is_drill)
            .order_by(subscribers.c.id)
            .limit(batch)
        ).all()
        if not rows:
            return
        yield from (Subscriber(**row._mapping) for row in rows)
        last = rows[-1].id


def batches(rows: Iterable[Mapping[str, object]], size: int = 1_000) -> Iterator[list[Mapping[str, object]]]:
    batch: list[Mapping[str, object]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
