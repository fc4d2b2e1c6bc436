"""Notices while they are written: manuscripts with gaps, every saved version kept.

A draft becomes a message when approval is asked for, and then carries its identifier; a message that is returned is
written on in the same draft. Saving is a compare-and-swap on the version: two people never overwrite each other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.engine import Row

from broadcaster.message import Mode
from broadcaster.store.messages import ChangedMeanwhile
from broadcaster.store.tables import draft_versions, drafts, openings

PRESENT_FOR = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class Draft:
    id: int
    mode: Mode
    title: str
    version: int
    manuscript: Mapping[str, Any]
    identifier: str | None
    asked_version: int | None
    created_by: str
    created_at: datetime
    saved_by: str
    saved_at: datetime
    discarded_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Version:
    version: int
    manuscript: Mapping[str, Any]
    saved_by: str
    saved_at: datetime


def add(
    connection: Connection,
    manuscript: Mapping[str, Any],
    *,
    by: str,
    at: datetime,
    mode: Mode = Mode.LIVE,
    identifier: str | None = None,
) -> Draft:
    row = connection.execute(
        insert(drafts)
        .values(
            mode=mode,
            title=_title(manuscript),
            manuscript=_written(manuscript),
            identifier=identifier,
            created_by=by,
            created_at=at,
            saved_by=by,
            saved_at=at,
        )
        .returning(*drafts.c)
    ).one()
    _keep_version(connection, row.id, 1, manuscript, by, at)
    return _draft(row)


def get(connection: Connection, id: int) -> Draft | None:
    row = connection.execute(select(drafts).where(drafts.c.id == id)).one_or_none()
    return _draft(row) if row else None


def of_message(connection: Connection, identifier: str) -> Draft | None:
    row = connection.execute(select(drafts).where(drafts.c.identifier == identifier)).one_or_none()
    return _draft(row) if row else None


def save(
    connection: Connection, draft: Draft, manuscript: Mapping[str, Any], *, by: str, at: datetime, version: int
) -> Draft:
    """`version` is the one that was on the page. Raises ChangedMeanwhile when somebody saved since. The same words
    again are no new version."""
    if draft.version == version and _written(manuscript) == _written(draft.manuscript):
        return draft
    row = connection.execute(
        update(drafts)
        .where(drafts.c.id == draft.id, drafts.c.version == version)
        .values(
            title=_title(manuscript),
            manuscript=_written(manuscript),
            version=version + 1,
            saved_by=by,
            saved_at=at,
        )
        .returning(*drafts.c)
    ).one_or_none()
    if row is None:
        raise ChangedMeanwhile(str(draft.id))
    _keep_version(connection, draft.id, version + 1, manuscript, by, at)
    return _draft(row)


def asked(connection: Connection, draft: Draft, identifier: str) -> None:
    """Approval is asked for this version; the draft belongs to that message from now on."""
    values = {"identifier": identifier, "asked_version": draft.version}
    connection.execute(update(drafts).where(drafts.c.id == draft.id).values(values))


def discard(connection: Connection, draft: Draft, at: datetime | None) -> None:
    """Put away for 30 days, or taken back (None)."""
    connection.execute(update(drafts).where(drafts.c.id == draft.id).values(discarded_at=at))


def open_of(connection: Connection, name: str, limit: int = 50) -> Sequence[Draft]:
    """What this person has begun, the newest first."""
    d = drafts.c
    rows = connection.execute(
        select(drafts)
        .where(d.identifier.is_(None), d.discarded_at.is_(None), d.created_by == name)
        .order_by(d.saved_at.desc())
        .limit(limit)
    )
    return [_draft(row) for row in rows]


def all_open(connection: Connection, limit: int = 50) -> Sequence[Draft]:
    d = drafts.c
    rows = connection.execute(
        select(drafts).where(d.identifier.is_(None), d.discarded_at.is_(None)).order_by(d.saved_at.desc()).limit(limit)
    )
    return [_draft(row) for row in rows]


def discarded(connection: Connection, since: datetime, limit: int = 50) -> Sequence[Draft]:
    d = drafts.c
    rows = connection.execute(select(drafts).where(d.discarded_at > since).order_by(d.discarded_at.desc()).limit(limit))
    return [_draft(row) for row in rows]


def versions(connection: Connection, id: int) -> Sequence[Version]:
    """The newest first."""
    v = draft_versions.c
    rows = connection.execute(select(draft_versions).where(v.draft_id == id).order_by(v.version.desc()))
    return [
        Version(
            version=row.version,
            manuscript=json.loads(row.manuscript),
            saved_by=row.saved_by,
            saved_at=row.saved_at,
        )
        for row in rows
    ]


# Who has it open


def opened(connection: Connection, object: str, name: str, now: datetime) -> None:
    o = openings.c
    connection.execute(
        delete(openings).where((o.seen_at < now - PRESENT_FOR) | ((o.object == object) & (o.name == name)))
    )
    connection.execute(insert(openings).values(object=object, name=name, seen_at=now))


def others_at(connection: Connection, object: str, name: str, now: datetime) -> Sequence[tuple[str, datetime]]:
    o = openings.c
    rows = connection.execute(
        select(o.name, o.seen_at).where(o.object == object, o.name != name, o.seen_at > now - PRESENT_FOR)
    )
    return [(row.name, row.seen_at) for row in rows]


def _keep_version(
    connection: Connection, id: int, version: int, manuscript: Mapping[str, Any], by: str, at: datetime
) -> None:
    connection.execute(
        insert(draft_versions).values(
            draft_id=id, version=version, manuscript=_written(manuscript), saved_by=by, saved_at=at
        )
    )


def _title(manuscript: Mapping[str, Any]) -> str:
    return str(manuscript.get("title") or "")[:200]


def _written(manuscript: Mapping[str, Any]) -> str:
    return json.dumps(manuscript, ensure_ascii=False, sort_keys=True)


def _draft(row: Row[tuple[object, ...]]) -> Draft:
    v = row._mapping
    return Draft(
        id=v["id"],
        mode=Mode(v["mode"]),
        title=v["title"],
        version=v["version"],
        manuscript=json.loads(v["manuscript"]),
        identifier=v["identifier"],
        asked_version=v["asked_version"],
        created_by=v["created_by"],
        created_at=v["created_at"],
        saved_by=v["saved_by"],
        saved_at=v["saved_at"],
        discarded_at=v["discarded_at"],
    )
