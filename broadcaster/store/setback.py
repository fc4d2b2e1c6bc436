"""When the wall clock is set back, what waits for an instant of the old time would wait as long as the clock was wrong.

So it is moved with the clock. What was written after the change may move too and is then tried too early, once: that is
harmless, a wait of an hour before an alert is not. Plans stay where they are: their hour is an hour on the wall.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import Connection, SmallInteger, literal, literal_column, select, update

from broadcaster.delivery import State
from broadcaster.store import leases
from broadcaster.store.deliveries import MAILING
from broadcaster.store.tables import deliveries, microseconds, recipients

_QUEUED = literal(int(State.QUEUED), literal_execute=True)


def bring_deliveries_back(connection: Connection, now: datetime) -> Collection[int]:
    """What waits for a later instant may be tried now. Gives the mailings that are not finished."""
    d = deliveries.c
    connection.execute(update(deliveries).where(d.state == _QUEUED, d.due_at > now).values(due_at=now))
    unfinished = select(d.id).where(d.state == _QUEUED, d.kind == MAILING).order_by(d.lane, d.id)
    return list(connection.execute(unfinished).scalars())


def bring_letters_back(connection: Connection, mailing: int, now: datetime, by: timedelta) -> None:
    """The letters of one mailing keep the distances between them; those in somebody's hand wait for nothing."""
    r = recipients.c
    queued = r.state == literal_column("0", SmallInteger)  # spelled out, so that the partial index is used
    connection.execute(
        update(recipients)
        .where(r.delivery_id == mailing, queued, r.due_at > microseconds(now), ~leases.is_leased())
        .values(due_at=r.due_at - by // timedelta(microseconds=1))
    )
