"""Issues: the frozen copy of what is transmitted. Identifier and time of sending never change.

`document` is the message as it went out; every payload can be made from it again with no other table.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
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
        insert(issues).values(**frozen(message, message_id=message_id, lane=lane)).returning(*issues.c)
    ).one()
    return _issue(row)


def frozen(message: Message, *, message_id: int, lane: Lane) -> dict[str, object]:
    """The row of an issue, before it has a number."""
    return {
        "message_id": message_id,
        "identifier": message.identifier,
        "mode": message.mode,
        "lane": lane,
        "sent_at": message.sent_at,
        "effective_at": message.effective_at,
        "expires_at": message.expires_at,
        "document": json.dumps(to_document(message), ensure_ascii=False),
    }


def freeze_together(connection: Connection, rows: Sequence[Mapping[str, object]]) -> dict[int, int]:
    """Many at once, as `frozen` gives them: the number of each issue by that of its message."""
    connection.execute(insert(issues), rows)
    ids = [row["message_id"] for row in rows]
    found = connection.execute(select(issues.c.message_id, issues.c.id).where(issues.c.message_id.in_(ids)))
    return {row.message_id: row.id for row in found}


def get(connection: Connection, identifier: str) -> Issue | None:
    row = connection.execute(select(issues).where(issues.c.identifier == identifier)).one_or_none()
    return _issue(row) if row else None


def by_id(connection: Connection, id: int) -> Issue:
    return _issue(connection.execute(select(issues).where(issues.c.id == id)).one())


def held(connection: Connection, id: int) -> Issue:
    """As it is, and nobody ends it before this transaction is over."""
    return _issue(connection.execute(select(issues).where(issues.c.id == id).with_for_update()).one())


def in_force(connection: Connection, mode: Mode, at: datetime) -> Sequence[Issue]:
    """In the order in which they were issued.

    Not asked: whether it has begun. What was issued has, and a clock that is set back must not hide an alert."""
    c = issues.c
    rows = connection.execute(select(issues).where(c.mode == mode, c.expires_at > at, c.ended_at.is_(None)))
    # Sorted here: to have them in order SQLite, once it has statistics, would walk through all that was ever issued.
    return sorted(map(_issue, rows), key=lambda issue: issue.id)


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


def live_before(connection: Connection, before: int | None, limit: int) -> Sequence[Issue]:
    """Live issues by their numbers, newest first; `before` is the last one of the batch before."""
    c = issues.c
    earlier = [c.id < before] if before is not None else []
    rows = connection.execute(select(issues).where(c.mode == Mode.LIVE, *earlier).order_by(c.id.desc()).limit(limit))
    return [_issue(row) for row in rows]


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
