"""Leases: what a sender has in hand of a mailing, as a stretch of the queue.

The queue is the queued rows of `recipients` by the time at which they are due and the reader's number; a lease names its
first and its last. To take four hundred letters in hand is one row here and no change there. Leases of one mailing do not
overlap, and a row that has been settled, or put back for later, is in the queue, or at that place of it, no more.

A lease ends when the last of its letters is written down. Whoever was given up for dead has none: what they write down
after that is not written.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    SmallInteger,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal,
    literal_column,
    select,
    tuple_,
    update,
)

from broadcaster.delivery import State
from broadcaster.message import Mode
from broadcaster.store import deliveries as ledger
from broadcaster.store.prepared import Prepared, listed, one_of
from broadcaster.store.tables import deliveries, leases, recipients

Place = tuple[int, int]
"""In the queue of one mailing: when it is due, in microseconds, and the reader's number."""

_L, _R = leases.c, recipients.c
_QUEUED = literal_column("0", SmallInteger)  # spelled out, so that the partial index is used
_FIRST = tuple_(_L.first_due_at, _L.first_subscriber_id)
_LAST = tuple_(_L.last_due_at, _L.last_subscriber_id)


class Lease(NamedTuple):
    id: int
    delivery_id: int
    first: Place
    last: Place


def is_leased() -> ColumnElement[bool]:
    """Of a queued row of `recipients`: somebody has it in hand."""
    return exists().where(_L.delivery_id == _R.delivery_id, _stands_between(_FIRST, _LAST))


def _stands_between(first: ColumnElement[Any], last: ColumnElement[Any]) -> ColumnElement[bool]:
    at = tuple_(_R.due_at, _R.subscriber_id)
    return and_(first <= at, at <= last)


_GRANT = Prepared(
    lambda _dialect: (
        insert(leases)
        .values({column.name: bindparam(f"its_{column.name}") for column in leases.c if not column.primary_key})
        .returning(_L.id)
    )
)


def grant(connection: Connection, delivery_id: int, worker: int, first: Place, last: Place) -> int:
    """Gives its number, which never comes back."""
    id: int = _GRANT.run(
        connection,
        its_delivery_id=delivery_id,
        its_worker_id=worker,
        its_first_due_at=first[0],
        its_first_subscriber_id=first[1],
        its_last_due_at=last[0],
        its_last_subscriber_id=last[1],
    ).scalar_one()
    return id


_AFTER = Prepared(
    lambda _dialect: (
        select(_L.first_due_at, _L.first_subscriber_id)
        .where(
            _L.delivery_id == bindparam("delivery"),
            tuple_(bindparam("due", type_=BigInteger), bindparam("subscriber", type_=BigInteger)) < _FIRST,
        )
        .order_by(_L.first_due_at, _L.first_subscriber_id)
        .limit(1)
    )
)


def first_after(connection: Connection, delivery_id: int, place: Place) -> Place | None:
    """Where the next lease of this mailing begins."""
    row = _AFTER.run(connection, delivery=delivery_id, due=place[0], subscriber=place[1]).one_or_none()
    return None if row is None else (row.first_due_at, row.first_subscriber_id)


def of_mailing(connection: Connection, delivery_id: int) -> Sequence[Lease]:
    return [_lease(row) for row in connection.execute(select(leases).where(_L.delivery_id == delivery_id))]


def _standing(dialect: str) -> Select[tuple[int]]:
    return select(_L.id).where(one_of(dialect, _L.id, "ids")).with_for_update()


_STANDING = Prepared(_standing)


def standing(connection: Connection, ids: Collection[int]) -> set[int]:
    """Which of these have not been taken away; nobody does before this transaction ends."""
    return set(_STANDING.run(connection, ids=listed(connection, ids)).scalars())


def end(connection: Connection, ids: Collection[int]) -> None:
    """Nothing of these is in hand any longer; what is queued of them may be claimed again."""
    if ids:
        _END.run(connection, ids=listed(connection, ids))


_END = Prepared(lambda dialect: delete(leases).where(one_of(dialect, _L.id, "ids")))


def in_hand(connection: Connection, delivery_id: int) -> int:
    """How many letters of a mailing somebody has in hand."""
    stretch = and_(_R.delivery_id == _L.delivery_id, _R.state == _QUEUED, _stands_between(_FIRST, _LAST))
    query = select(func.count()).select_from(leases.join(recipients, stretch)).where(_L.delivery_id == delivery_id)
    return connection.execute(query).scalar_one()


def give_back(connection: Connection, channel: str, mode: Mode, *, worker: int, kept: Collection[int]) -> int:
    """End the leases of this worker for this channel that are not among those it knows: of a claim whose end it did not
    hear. Gives how many."""
    mine = connection.execute(select(_L.id, _L.delivery_id).where(_L.worker_id == worker)).all()
    lost = {row.id: row.delivery_id for row in mine if row.id not in kept}
    d = deliveries.c
    of_channel = set(
        connection.execute(
            select(d.id).where(d.id.in_(set(lost.values())), d.channel == channel, d.mode == mode)
        ).scalars()
    )
    ids = [id for id, delivery_id in lost.items() if delivery_id in of_channel]
    end(connection, ids)
    return len(ids)


def release(connection: Connection, worker_ids: Collection[int], now: datetime) -> int:
    """End the leases of dead workers; gives how many letters that were.

    Each may have gone out: it is tried again with the same Message-ID. Of a mailing that has been stopped meanwhile it
    becomes unknown."""
    if not worker_ids:
        return 0
    held = connection.execute(select(leases).where(_L.worker_id.in_(list(worker_ids))).order_by(_L.delivery_id))
    found = [_lease(row) for row in held]
    ledger.hold(connection, {lease.delivery_id for lease in found})
    released = sum(_release(connection, lease, now) for lease in found)
    end(connection, [lease.id for lease in found])
    return released


def _release(connection: Connection, lease: Lease, now: datetime) -> int:
    stretch = _stands_between(_place(lease.first), _place(lease.last))
    letters = update(recipients).where(_R.delivery_id == lease.delivery_id, _R.state == _QUEUED, stretch)
    if not ledger.get(connection, lease.delivery_id).is_stopping:
        return connection.execute(letters.values(is_in_doubt=True)).rowcount
    unknown = connection.execute(letters.values(state=int(State.UNKNOWN), settled_at=now)).rowcount
    ledger.count(connection, lease.delivery_id, now, unknown=unknown)
    return unknown


def _place(place: Place) -> ColumnElement[Any]:
    return tuple_(*(literal(number, BigInteger) for number in place))


def _lease(row: Any) -> Lease:
    return Lease(
        row.id,
        row.delivery_id,
        (row.first_due_at, row.first_subscriber_id),
        (row.last_due_at, row.last_subscriber_id),
    )
