"""Plans: what is due when. The table is the plan, APScheduler only the clock.

A plan's key says what it is and for when, so that a run exists once however many schedulers there are and however
often they restart; it ends as *done* or as *skipped, because …*.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, Select, func, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from broadcaster.store.tables import plans

ISSUE, EXPIRE, ROUTINE = "issue", "expire", "routine"


class Plan(NamedTuple):
    """A row, its columns in the table's order."""

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


def drop(connection: Connection, key: str, *, at: datetime, reason: str) -> bool:
    """It will not be made, and why. False when it was made already, or never planned."""
    return bool(
        connection.execute(
            update(plans)
            .where(plans.c.key == key, plans.c.state == "planned")
            .values(state="skipped", reason=reason, settled_at=at)
        ).rowcount
    )


def add_again(connection: Connection, *, key: str, due_at: datetime) -> None:
    """The run by this key, planned anew for another hour."""
    connection.execute(
        update(plans).where(plans.c.key == key).values(state="planned", reason="", due_at=due_at, settled_at=None)
    )


def due_of(connection: Connection, key: str) -> datetime | None:
    """When this run falls due, while it is planned."""
    planned = select(plans.c.due_at).where(plans.c.key == key, plans.c.state == "planned")
    return connection.execute(planned).scalar()


def due_query(now: datetime, limit: int) -> Select[tuple[int]]:
    return (
        select(plans.c.id)
        .where(text("state = 'planned'"), plans.c.due_at <= now)
        .order_by(plans.c.due_at, plans.c.id)
        .limit(limit)
    )


def due(connection: Connection, now: datetime, limit: int = 100) -> Sequence[Plan]:
    rows = connection.execute(due_query(now, limit).with_only_columns(*plans.c))
    return [Plan._make(row) for row in rows]


def settle(connection: Connection, plan: Plan, *, at: datetime, skipped: str = "", reason: str = "") -> bool:
    """Whoever settles it first carries it out, in the same transaction; False for everybody else."""
    return bool(
        connection.execute(
            update(plans)
            .where(plans.c.id == plan.id, plans.c.state == "planned")
            .values(state="skipped" if skipped else "done", reason=skipped or reason, settled_at=at)
        ).rowcount
    )


def settle_together(connection: Connection, ids: list[int], *, at: datetime) -> set[int]:
    """The same for plans that are done in one transaction; gives those that nobody was faster with."""
    # One value for all of them: a thousand parameters take longer to write down than to look up.
    is_sqlite = connection.dialect.name == "sqlite"
    chosen = select(func.json_each(json.dumps(ids)).table_valued("value").c.value) if is_sqlite else ids
    statement = (
        update(plans)
        .where(plans.c.id.in_(chosen), plans.c.state == "planned")
        .values(state="done", reason="", settled_at=at)
        .returning(plans.c.id)
    )
    return set(connection.execute(statement).scalars())


def add_together(connection: Connection, rows: Sequence[Mapping[str, object]]) -> None:
    """Plan many that are not planned yet: rows of `key, kind, due_at, message_id`."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(plans).on_conflict_do_nothing(index_elements=["key"])
    connection.execute(statement, [{**row, "state": "planned"} for row in rows])


def issues_until(connection: Connection, until: datetime, limit: int) -> Sequence[Plan]:
    """The sendings that fall due before this instant, the soonest first."""
    rows = connection.execute(due_query(until, limit).where(plans.c.kind == ISSUE).with_only_columns(*plans.c))
    return [Plan._make(row) for row in rows]


def next_due_at(connection: Connection) -> datetime | None:
    return connection.execute(select(func.min(plans.c.due_at)).where(text("state = 'planned'"))).scalar()


def of_rule(connection: Connection, rule: str, limit: int = 1000) -> Sequence[Plan]:
    rows = connection.execute(select(plans).where(plans.c.rule == rule).order_by(plans.c.due_at).limit(limit))
    return [Plan._make(row) for row in rows]


def newest(connection: Connection, limit: int = 100) -> Sequence[Plan]:
    return [Plan._make(row) for row in connection.execute(select(plans).order_by(plans.c.due_at.desc()).limit(limit))]
