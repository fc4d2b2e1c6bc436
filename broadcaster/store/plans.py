"""Plans: what is due when. The table is the plan, APScheduler only the clock.

A plan's key says what it is and for when, so that a run exists once however many schedulers there are and however
often they restart; it ends as *done* or as *skipped, because …*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Select, func, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from broadcaster.store.tables import plans

ISSUE, EXPIRE, ROUTINE = "issue", "expire", "routine"


@dataclass(frozen=True, kw_only=True)
class Plan:
    id: int
    key: str
    kind: str
    due_at: datetime
    message_id: int | None
    rule: str | None
    state: str
    reason: str
    settled_at: datetime | None


def add(
    connection: Connection,
    *,
    key: str,
    kind: str,
    due_at: datetime,
    message_id: int | None = None,
    rule: str | None = None,
    skipped: str = "",
    reason: str = "",
    at: datetime | None = None,
) -> bool:
    """Plan it once; False when it is planned already. `skipped` records a run that will not be made, and why;
    `reason` says why a run stands where it stands."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = (
        dialect.insert(plans)
        .values(
            key=key,
            kind=kind,
            due_at=due_at,
            message_id=message_id,
            rule=rule,
            state="skipped" if skipped else "planned",
            reason=skipped or reason,
            settled_at=at if skipped else None,
        )
        .on_conflict_do_nothing(index_elements=["key"])
        .execution_options(preserve_rowcount=True)
    )
    return bool(connection.execute(statement).rowcount)


def due_query(now: datetime, limit: int) -> Select[tuple[int]]:
    return (
        select(plans.c.id)
        .where(text("state = 'planned'"), plans.c.due_at <= now)
        .order_by(plans.c.due_at, plans.c.id)
        .limit(limit)
    )


def due(connection: Connection, now: datetime, limit: int = 100) -> Sequence[Plan]:
    rows = connection.execute(select(plans).where(plans.c.id.in_(due_query(now, limit).scalar_subquery())))
    return sorted((Plan(**row._mapping) for row in rows), key=lambda plan: (plan.due_at, plan.id))


def settle(connection: Connection, plan: Plan, *, at: datetime, skipped: str = "", reason: str = "") -> bool:
    """Whoever settles it first carries it out, in the same transaction; False for everybody else."""
    return bool(
        connection.execute(
            update(plans)
            .where(plans.c.id == plan.id, plans.c.state == "planned")
            .values(state="skipped" if skipped else "done", reason=skipped or reason, settled_at=at)
        ).rowcount
    )


def withdraw(connection: Connection, message_id: int, *, at: datetime, reason: str) -> None:
    connection.execute(
        update(plans)
        .where(plans.c.message_id == message_id, plans.c.state == "planned")
        .values(state="skipped", reason=reason, settled_at=at)
    )


def next_due_at(connection: Connection) -> datetime | None:
    return connection.execute(select(func.min(plans.c.due_at)).where(text("state = 'planned'"))).scalar()


def of_rule(connection: Connection, rule: str, limit: int = 1000) -> Sequence[Plan]:
    rows = connection.execute(select(plans).where(plans.c.rule == rule).order_by(plans.c.due_at).limit(limit))
    return [Plan(**row._mapping) for row in rows]


def newest(connection: Connection, limit: int = 100) -> Sequence[Plan]:
    return [
        Plan(**row._mapping) for row in connection.execute(select(plans).order_by(plans.c.due_at.desc()).limit(limit))
    ]
