"""Issues: the frozen copy of what is transmitted. Identifier and time of sending never change.

`document` is the message as it went out; every payload can be made from it again with no other table.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.engine import Row

from broadcaster.delivery import Lane
from broadcaster.message import Message, Mode, from_document, to_document
from broadcaster.store.tables import issues


@dataclass(frozen=True, kw_only=True)
class Issue:
    id: int
    message_id: int
    message: Message
    lane: Lane
    sent_at: datetime
    expires_at: datetime
    ended_at: datetime | None
    ended_by: str | None


def freeze(connection: Connection, message: Message, *, message_id: int, lane: Lane) -> Issue:
    row = connection.execute(
        insert(issues)
        .values(
            message_id=message_id,
            identifier=message.identifier,
            mode=message.mode,
            lane=lane,
            sent_at=message.sent_at,
            effective_at=message.effective_at,
            expires_at=message.expires_at,
            document=json.dumps(to_document(message), ensure_ascii=False),
        )
        .returning(*issues.c)
    ).one()
    return _issue(row)


def get(connection: Connection, identifier: str) -> Issue | None:
    row = connection.execute(select(issues).where(issues.c.identifier == identifier)).one_or_none()
    return _issue(row) if row else None


def by_id(connection: Connection, id: int) -> Issue:
    return _issue(connection.execute(select(issues).where(issues.c.id == id)).one())


def in_force(connection: Connection, mode: Mode, at: datetime) -> Sequence[Issue]:
    rows = connection.execute(in_force_query(mode, at))
    return [_issue(row) for row in rows]


def in_force_query(mode: Mode, at: datetime):  # type: ignore[no-untyped-def]  # SQLAlchemy's Select spells out every column
    return (
        select(issues)
        .where(
            issues.c.mode == mode,
            issues.c.expires_at > at,
            issues.c.ended_at.is_(None),
            issues.c.effective_at <= at,
        )
        .order_by(issues.c.id)
    )


def end(connection: Connection, identifiers: Iterable[str], *, by: str, at: datetime) -> Sequence[Issue]:
    """Take these out of force, each once; gives the ones that were still in it."""
    rows = connection.execute(
        update(issues)
        .where(issues.c.identifier.in_(list(identifiers)), issues.c.ended_at.is_(None))
        .values(ended_at=at, ended_by=by)
        .returning(*issues.c)
    )
    return [_issue(row) for row in rows]


def newest(connection: Connection, limit: int = 50) -> Sequence[Issue]:
    return [_issue(row) for row in connection.execute(select(issues).order_by(issues.c.sent_at.desc()).limit(limit))]


def newest_id(connection: Connection) -> int:
    return connection.execute(select(issues.c.id).order_by(issues.c.id.desc()).limit(1)).scalar() or 0


def _issue(row: Row[tuple[object, ...]]) -> Issue:
    values = row._mapping
    return Issue(
        id=values["id"],
        message_id=values["message_id"],
        message=from_document(json.loads(values["document"])),
        lane=Lane(values["lane"]),
        sent_at=values["sent_at"],
        expires_at=values["expires_at"],
        ended_at=values["ended_at"],
        ended_by=values["ended_by"],
    )
