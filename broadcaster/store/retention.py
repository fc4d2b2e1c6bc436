"""What is not kept for ever: who exactly got which mail, what was discarded, what has run out. Counts stay; the log of
acts is never touched.

In small transactions, oldest first, with a mark of how far it has come: an alert never waits for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select

from broadcaster.store import meta, sessions
from broadcaster.store.database import Connection, Database
from broadcaster.store.deliveries import MAILING
from broadcaster.store.tables import deliveries, draft_versions, drafts, openings, recipients, staff_mails

BATCH = 2_000
_EVIDENCE_UNTIL = "evidence_until"


@dataclass(frozen=True, kw_only=True)
class Rules:
    evidence: timedelta  # rows of evidence, a reader each
    discarded: timedelta  # drafts that were put away
    staff_mails: timedelta


@dataclass(frozen=True, kw_only=True)
class Removed:
    evidence: int
    drafts: int
    staff_mails: int

    @property
    def is_nothing(self) -> bool:
        return not (self.evidence or self.drafts or self.staff_mails)


def sweep(database: Database, rules: Rules, now: datetime) -> Removed:
    """Remove what is over. A second sweep at the same time finds less and harms nothing."""
    with database.write() as connection:
        sessions.sweep(connection, now)
        connection.execute(delete(openings).where(openings.c.seen_at < now - timedelta(days=1)))
    return Removed(
        evidence=_until_none(database, lambda connection: _evidence(connection, now - rules.evidence)),
        drafts=_until_none(database, lambda connection: _drafts(connection, now - rules.discarded)),
        staff_mails=_until_none(database, lambda connection: _staff_mails(connection, now - rules.staff_mails)),
    )


def _until_none(database: Database, step: Callable[[Connection], int | None]) -> int:
    """`step` gives how many rows it removed; None: there are no more."""
    removed = 0
    while True:
        with database.write() as connection:
            done = step(connection)
        if done is None:
            return removed
        removed += done


def _evidence(connection: Connection, before: datetime) -> int | None:
    """The next rows of the oldest mailing that has been settled for so long."""
    d, r = deliveries.c, recipients.c
    known = int(meta.get(connection, _EVIDENCE_UNTIL) or 0)
    mailing = connection.execute(
        select(d.id, d.settled_at).where(d.id > known, d.kind == MAILING).order_by(d.id).limit(1)
    ).one_or_none()
    if mailing is None or mailing.settled_at is None or mailing.settled_at >= before:
        return None
    some = select(r.subscriber_id).where(r.delivery_id == mailing.id).limit(BATCH)
    done = connection.execute(delete(recipients).where(r.delivery_id == mailing.id, r.subscriber_id.in_(some))).rowcount
    if done < BATCH:
        meta.put(connection, _EVIDENCE_UNTIL, str(mailing.id))
    return done


def _drafts(connection: Connection, before: datetime) -> int | None:
    over = select(drafts.c.id).where(drafts.c.discarded_at < before).limit(BATCH)
    ids = list(connection.execute(over).scalars())
    if not ids:
        return None
    connection.execute(delete(draft_versions).where(draft_versions.c.draft_id.in_(ids)))
    return connection.execute(delete(drafts).where(drafts.c.id.in_(ids))).rowcount


def _staff_mails(connection: Connection, before: datetime) -> int | None:
    over = select(staff_mails.c.id).where(staff_mails.c.settled_at < before).limit(BATCH)
    done = connection.execute(delete(staff_mails).where(staff_mails.c.id.in_(over))).rowcount
    return done or None
