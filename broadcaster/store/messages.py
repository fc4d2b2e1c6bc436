"""Messages: drafted, approved, scheduled. Every move is a compare-and-swap on state and version."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.engine import Row

from broadcaster.lifecycle import Move, MoveNotAllowed, State, after
from broadcaster.message import Message, content_hash, from_document, to_document
from broadcaster.store import search
from broadcaster.store.tables import issues, messages


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A message with its place in its life."""

    id: int
    message: Message
    state: State
    version: int
    created_at: datetime
    created_by: str
    approved_by: str | None
    approved_hash: str | None
    issued_as: int | None

    @property
    def is_approved_as_it_stands(self) -> bool:
        return self.approved_hash == content_hash(self.message)

    def standing(self, now: datetime) -> str:
        """Its state as people see it, a word of `states_message`: time decides between in force and ended."""
        if self.state not in (State.ISSUED, State.EXPIRED):
            return self.state.value
        return "ended" if self.state is State.EXPIRED or self.message.expires_at <= now else "in_force"


class ChangedMeanwhile(RuntimeError):
    """Somebody else moved this message first."""


def add(connection: Connection, message: Message, *, by: str, at: datetime, state: State = State.DRAFT) -> Kept:
    row = connection.execute(
        insert(messages)
        .values(
            identifier=message.identifier,
            mode=message.mode,
            category=message.category,
            state=state,
            effective_at=message.effective_at,
            expires_at=message.expires_at,
            document=json.dumps(to_document(message), ensure_ascii=False),
            content_hash=content_hash(message),
            created_at=at,
            created_by=by,
        )
        .returning(*messages.c)
    ).one()
    search.put(connection, row.id, row.document)
    return _kept(row)


def get(connection: Connection, identifier: str) -> Kept | None:
    """By its identifier, or by its last letters when they name one message only."""
    row = connection.execute(select(messages).where(messages.c.identifier == identifier)).one_or_none()
    return _kept(row) if row else None


def by_id(connection: Connection, id: int) -> Kept:
    return _kept(connection.execute(select(messages).where(messages.c.id == id)).one())


def many(connection: Connection, ids: Collection[int]) -> dict[int, Kept]:
    rows = connection.execute(select(messages).where(messages.c.id.in_(ids)))
    return {kept.id: kept for kept in map(_kept, rows)}


def move_together(connection: Connection, kept: Mapping[int, Kept], how: Move) -> None:
    """The same move for many, to their issues, all or none. Raises MoveNotAllowed, or ChangedMeanwhile for the first
    that another was faster with."""
    c = messages.c
    # Locked first: on SQLite this transaction has the only write lock, on PostgreSQL these rows are held from here on.
    now = connection.execute(select(c.id, c.version, c.state).where(c.id.in_(kept.keys())).with_for_update()).all()
    found = {row.id: (row.version, row.state) for row in now}
    states = set()
    for id, one in kept.items():
        if found.get(id) != (one.version, one.state):
            raise ChangedMeanwhile(one.message.identifier)
        states.add(one.state)
    for state in states:
        connection.execute(
            update(messages)
            .where(c.id.in_([id for id, one in kept.items() if one.state is state]))
            .values(
                state=after(state, how),
                version=c.version + 1,
                issued_as=select(issues.c.id).where(issues.c.message_id == c.id).scalar_subquery(),
            )
        )


def newest(connection: Connection, limit: int = 50) -> Sequence[Kept]:
    rows = connection.execute(select(messages).order_by(messages.c.created_at.desc()).limit(limit))
    return [_kept(row) for row in rows]


def submitted(connection: Connection, limit: int = 200) -> Sequence[Kept]:
    """What waits for approval, what goes out soonest first."""
    waiting = select(messages).where(messages.c.state == State.SUBMITTED).order_by(messages.c.effective_at).limit(limit)
    return [_kept(row) for row in connection.execute(waiting)]


def number_submitted(connection: Connection) -> int:
    waiting = select(func.count()).select_from(messages).where(messages.c.state == State.SUBMITTED)
    return connection.execute(waiting).scalar_one()


COMING = (State.SUBMITTED, State.SCHEDULED)
"""What goes out at its hour, or waits for approval until then."""

GOES_OUT = (*COMING, State.ISSUED, State.UPDATED, State.CANCELLED, State.EXPIRED)
"""That, and what has gone out."""


def between(
    connection: Connection,
    since: datetime,
    until: datetime,
    limit: int = 1_000,
    *,
    states: Collection[State] = GOES_OUT,
) -> Sequence[Kept]:
    """What goes out between two instants, or went out, in order."""
    c = messages.c
    rows = connection.execute(
        select(messages)
        .where(c.state.in_(states), c.effective_at >= since, c.effective_at < until)
        .order_by(c.effective_at)
        .limit(limit)
    )
    return [_kept(row) for row in rows]


def of_category(connection: Connection, category: str, since: datetime, until: datetime) -> Sequence[Kept]:
    """What goes out, or went out, in this category between two instants."""
    c = messages.c
    rows = connection.execute(
        select(messages)
        .where(
            c.category == category,
            c.effective_at.between(since, until),
            c.state.in_([State.SCHEDULED, State.ISSUED, State.UPDATED, State.EXPIRED]),
        )
        .order_by(c.effective_at)
    )
    return [_kept(row) for row in rows]


def move(connection: Connection, kept: Kept, how: Move, **columns: object) -> Kept:
    """Make the move. Raises MoveNotAllowed, or ChangedMeanwhile when another was faster."""
    row = connection.execute(
        update(messages)
        .where(messages.c.id == kept.id, messages.c.version == kept.version, messages.c.state == kept.state)
        .values(state=after(kept.state, how), version=kept.version + 1, **columns)
        .returning(*messages.c)
    ).one_or_none()
    if row is None:
        raise ChangedMeanwhile(kept.message.identifier)
    return _kept(row)


def rewrite(connection: Connection, kept: Kept, message: Message, how: Move) -> Kept:
    """The same message with other words. Raises MoveNotAllowed or ChangedMeanwhile. An approval does not outlive it."""
    assert message.identifier == kept.message.identifier
    written = move(
        connection,
        kept,
        how,
        document=json.dumps(to_document(message), ensure_ascii=False),
        content_hash=content_hash(message),
        category=message.category,
        effective_at=message.effective_at,
        expires_at=message.expires_at,
        approved_hash=None,
        approved_by=None,
    )
    search.put(connection, written.id, json.dumps(to_document(message), ensure_ascii=False))
    return written


def reschedule(connection: Connection, kept: Kept, message: Message, *, by: str) -> Kept:
    """The same words at another hour, approved by whoever moves them. Raises ChangedMeanwhile, or MoveNotAllowed for
    what is not planned."""
    if kept.state is not State.SCHEDULED:
        raise MoveNotAllowed(kept.state, Move.SCHEDULE)
    row = connection.execute(
        update(messages)
        .where(messages.c.id == kept.id, messages.c.version == kept.version, messages.c.state == kept.state)
        .values(
            version=kept.version + 1,
            document=json.dumps(to_document(message), ensure_ascii=False),
            content_hash=content_hash(message),
            effective_at=message.effective_at,
            expires_at=message.expires_at,
            approved_hash=content_hash(message),
            approved_by=by,
        )
        .returning(*messages.c)
    ).one_or_none()
    if row is None:
        raise ChangedMeanwhile(kept.message.identifier)
    return _kept(row)


def approve(connection: Connection, kept: Kept, *, by: str, seen: str) -> Kept:
    """Approve exactly what was seen. Raises ChangedMeanwhile when the words are other ones now."""
    if content_hash(kept.message) != seen:
        raise ChangedMeanwhile(kept.message.identifier)
    return move(connection, kept, Move.APPROVE, approved_hash=seen, approved_by=by)


def _kept(row: Row[tuple[object, ...]]) -> Kept:
    values = row._mapping
    return Kept(
        id=values["id"],
        message=from_document(json.loads(values["document"])),
        state=State(values["state"]),
        version=values["version"],
        created_at=values["created_at"],
        created_by=values["created_by"],
        approved_by=values["approved_by"],
        approved_hash=values["approved_hash"],
        issued_as=values["issued_as"],
    )
