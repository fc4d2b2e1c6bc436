"""Deliveries: one row per channel, part and act, written with the issue and settled once; attempts are only added.

A delivery is *held* by one worker at a time. Every completing statement names the worker that holds it, so a worker that
was given up for dead cannot overwrite what its successor has found out.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    Connection,
    Integer,
    SmallInteger,
    Update,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.engine import Row

from broadcaster.channel import Payload
from broadcaster.delivery import UNSETTLED, Counts, Lane, State, Tried
from broadcaster.message import Mode
from broadcaster.store.prepared import Prepared, listed, one_of
from broadcaster.store.tables import attempts, deliveries, microseconds

PUSH, MAILING, BOARD, RETRACT = "push", "mailing", "board", "retract"
"""The kinds of delivery."""


@dataclass(frozen=True, kw_only=True)
class Delivery:
    id: int
    issue_id: int
    key: str
    channel: str
    part: str
    kind: str
    mode: Mode
    lane: Lane
    state: State
    attempts: int
    due_at: datetime
    expires_at: datetime
    payload: Payload | None
    after_id: int | None
    worker_id: int | None
    is_in_doubt: bool
    evidence: str
    detail: str
    created_at: datetime
    first_attempt_at: datetime | None
    settled_at: datetime | None
    audience: Mapping[str, Any]
    fanned_to: int | None
    is_stopping: bool
    counts: Counts


@dataclass(frozen=True, kw_only=True)
class Attempt:
    number: int
    began_at: datetime
    ended_at: datetime
    state: State
    detail: str
    evidence: str


def ending(state: State, kind: str, attempts: int = 0) -> str:
    """How a delivery stands, a word of `states_delivery`. What a relay took is not yet in anybody's box."""
    if state in UNSETTLED:
        return "retrying" if attempts > 1 else "pending"
    if state is State.DELIVERED:
        return "accepted" if kind == MAILING else "delivered"
    return state.name.lower()


def add(
    connection: Connection,
    *,
    issue_id: int,
    key: str,
    channel: str,
    part: str,
    kind: str,
    mode: Mode,
    lane: Lane,
    due_at: datetime,
    expires_at: datetime,
    payload: Payload | None = None,
    after_id: int | None = None,
    audience: Mapping[str, Any] | None = None,
    evidence: str = "",
) -> int:
    id: int = connection.execute(
        insert(deliveries)
        .values(
            issue_id=issue_id,
            key=key,
            channel=channel,
            part=part,
            kind=kind,
            mode=mode,
            lane=lane,
            state=State.QUEUED,
            due_at=due_at,
            created_at=due_at,
            expires_at=expires_at,
            payload=written_payload(payload),
            after_id=after_id,
            audience=written_audience(audience),
            fanned_to=0 if audience is not None else None,
            evidence=evidence,
        )
        .returning(deliveries.c.id)
    ).scalar_one()
    return id


def written_payload(payload: Payload | None) -> str:
    return json.dumps(dict(payload.content), ensure_ascii=False) if payload else ""


def written_audience(audience: Mapping[str, Any] | None) -> str:
    return json.dumps(audience) if audience is not None else ""


class Written(NamedTuple):
    """A delivery written out before its hour, as the driver takes it: all but the number of its issue."""

    key: str
    channel: str
    part: str
    kind: str
    mode: str
    lane: int
    due_at: int
    created_at: int
    expires_at: int
    payload: str
    audience: str
    after_key: str | None

    @classmethod
    def of(
        cls,
        *,
        key: str,
        channel: str,
        part: str,
        kind: str,
        mode: Mode,
        lane: Lane,
        due_at: datetime,
        expires_at: datetime,
        payload: Payload | None,
        audience: Mapping[str, Any] | None,
        after_key: str | None,
    ) -> Written:
        due = microseconds(due_at)
        return cls(
            key=key,
            channel=channel,
            part=part,
            kind=kind,
            mode=mode.value,
            lane=int(lane),
            due_at=due,
            created_at=due,
            expires_at=microseconds(expires_at),
            payload=written_payload(payload),
            audience=written_audience(audience),
            after_key=after_key,
        )


_TOGETHER = (
    "INSERT INTO deliveries (issue_id, state, fanned_to, settled_at, key, channel, part, kind, mode, lane, due_at, "
    "created_at, expires_at, payload, audience, after_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, "
    "(SELECT id FROM deliveries AS before WHERE before.key = ?))"
)


def add_together(connection: Connection, rows: Sequence[tuple[int, Written, bool]]) -> None:
    """Many at once: the number of the issue, the delivery, and whether it is a mailing that has readers. One that goes
    after another follows it in the list, and names it by its key. A mailing without readers is finished at once."""
    queued, finished = int(State.QUEUED), int(State.DELIVERED)
    values = [
        (issue_id, finished, None, row.due_at, *row)
        if row.audience and not has_readers
        else (issue_id, queued, 0 if row.audience else None, None, *row)
        for issue_id, row, has_readers in rows
    ]
    # In the driver's own words: for rows like these SQLAlchemy takes as long to bind the values as SQLite to write them.
    is_sqlite = connection.dialect.name == "sqlite"
    connection.exec_driver_sql(_TOGETHER if is_sqlite else _TOGETHER.replace("?", "%s"), values)


def get(connection: Connection, id: int, *, is_mine: bool = False) -> Delivery:
    """`is_mine`: nobody else may change it before this transaction ends."""
    one = select(deliveries).where(deliveries.c.id == id)
    return _delivery(connection.execute(one.with_for_update() if is_mine else one).one())


def hold(connection: Connection, ids: Collection[int]) -> None:
    """Nobody else changes these before this transaction ends. In the order of their numbers, so that two who hold some of
    the same do not wait for each other; on SQLite nobody else writes."""
    if ids and connection.dialect.name != "sqlite":
        _HOLD.run(connection, ids=listed(connection, ids))


_HOLD = Prepared(
    lambda dialect: (
        select(deliveries.c.id)
        .where(one_of(dialect, deliveries.c.id, "ids"))
        .order_by(deliveries.c.id)
        .with_for_update()
    )
)


def find(connection: Connection, id: int) -> Delivery | None:
    row = connection.execute(select(deliveries).where(deliveries.c.id == id)).one_or_none()
    return _delivery(row) if row else None


def of_issue(connection: Connection, issue_id: int) -> Sequence[Delivery]:
    rows = connection.execute(select(deliveries).where(deliveries.c.issue_id == issue_id).order_by(deliveries.c.id))
    return [_delivery(row) for row in rows]


# Taking and settling: pushes, boards, retractions


def _taking() -> Update:
    """What may be tried now, the oldest first, taken in hand. A part waits for the part before it.

    A common table: PostgreSQL may run a subquery again for each row, and take more than was asked for."""
    d, before = deliveries.c, deliveries.alias("before")
    due = (
        select(d.id)
        .where(
            d.channel == bindparam("its_channel"),
            d.mode == bindparam("its_mode"),
            d.lane == bindparam("its_lane"),
            d.state == literal_column("0", SmallInteger),  # spelled out, so that the partial index is used
            d.due_at <= bindparam("now"),
            d.kind != MAILING,
            or_(
                d.after_id.is_(None),
                exists().where(before.c.id == d.after_id, before.c.state == int(State.DELIVERED)),
            ),
        )
        .order_by(d.due_at, d.id)
        .limit(bindparam("most", type_=Integer))
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    return (
        update(deliveries)
        .where(d.id.in_(select(due.c.id)), d.state == int(State.QUEUED))
        .values(
            state=int(State.IN_FLIGHT),
            worker_id=bindparam("worker"),
            attempts=d.attempts + 1,
            first_attempt_at=func.coalesce(d.first_attempt_at, bindparam("now", type_=d.due_at.type)),
        )
        .returning(*d)
    )


_TAKE_DUE = _taking()
"""Made once: making it costs ten times as much as running it, and in an alert every medium runs it at once."""


def take_due(
    connection: Connection, *, channel: str, mode: Mode, lane: Lane, worker: int, now: datetime, limit: int
) -> Sequence[Delivery]:
    values = {"its_channel": channel, "its_mode": mode, "its_lane": lane, "worker": worker, "now": now, "most": limit}
    rows = connection.execute(_TAKE_DUE, values)
    return sorted((_delivery(row) for row in rows), key=lambda delivery: (delivery.due_at, delivery.id))


Place = tuple[str, Mode, Lane]
"""Where a delivery is worked: the channel, its mode, the lane."""

_NEXT_DUE_AT = select(func.min(deliveries.c.due_at)).where(
    deliveries.c.channel == bindparam("channel"),
    deliveries.c.mode == bindparam("mode"),
    deliveries.c.lane == bindparam("lane"),
    deliveries.c.state == literal_column("0", SmallInteger),  # spelled out, so that the partial index is used
    deliveries.c.kind != MAILING,
)


def next_due_at(connection: Connection, *, channel: str, mode: Mode, lane: Lane) -> datetime | None:
    due_at: datetime | None = connection.execute(
        _NEXT_DUE_AT, {"channel": channel, "mode": mode, "lane": lane}
    ).scalar()
    return due_at


def next_due(connection: Connection, places: Iterable[Place]) -> Mapping[Place, datetime]:
    """When the next delivery of each of these places falls due; places without one are left out."""
    found = {place: next_due_at(connection, channel=place[0], mode=place[1], lane=place[2]) for place in places}
    return {place: due_at for place, due_at in found.items() if due_at is not None}


def settle(connection: Connection, delivery: Delivery, tried: Tried, *, began_at: datetime, ended_at: datetime) -> bool:
    """Write down one attempt and what it means. False when another worker holds the delivery by now."""
    again = tried.state is State.QUEUED
    done = connection.execute(
        update(deliveries)
        .where(deliveries.c.id == delivery.id, deliveries.c.worker_id == delivery.worker_id)
        .values(
            state=tried.state,
            worker_id=None,
            due_at=tried.retry_at if again else deliveries.c.due_at,
            settled_at=None if again else ended_at,
            is_in_doubt=tried.is_in_doubt,
            detail=tried.detail,
            evidence=tried.evidence or deliveries.c.evidence,
        )
    ).rowcount
    connection.execute(
        insert(attempts).values(
            delivery_id=delivery.id,
            number=delivery.attempts,
            began_at=began_at,
            ended_at=ended_at,
            state=tried.state,
            detail=tried.detail,
            evidence=tried.evidence,
        )
    )
    if done and tried.state in (State.FAILED, State.STOPPED, State.UNKNOWN):
        state = State.STOPPED if tried.state is State.UNKNOWN else tried.state
        _give_up_followers(connection, delivery.id, state, ended_at)
    return bool(done)


def _give_up_followers(connection: Connection, id: int, state: State, at: datetime) -> None:
    """The later parts of a thread cannot stand without the earlier one."""
    followers = connection.execute(
        update(deliveries)
        .where(deliveries.c.after_id == id, deliveries.c.state == int(State.QUEUED))
        .values(state=state, settled_at=at, detail="前の部分が出なかったため、出しませんでした。")
        .returning(deliveries.c.id)
    ).scalars()
    for follower in list(followers):
        _give_up_followers(connection, follower, state, at)


def release(connection: Connection, worker_ids: Collection[int]) -> int:
    """Give back what dead workers held. A push may have gone out: it is looked up before it is tried again."""
    return connection.execute(
        update(deliveries)
        .where(
            deliveries.c.state == literal(int(State.IN_FLIGHT), literal_execute=True),
            deliveries.c.worker_id.in_(list(worker_ids)),
        )
        .values(state=int(State.QUEUED), worker_id=None, is_in_doubt=deliveries.c.kind == PUSH)
    ).rowcount


def give_back(connection: Connection, *, channel: str, mode: Mode, lane: Lane, worker: int) -> int:
    """What this worker holds of one lane of a channel without knowing of it: the end of a claim was not heard."""
    return connection.execute(
        update(deliveries)
        .where(
            deliveries.c.state == literal(int(State.IN_FLIGHT), literal_execute=True),
            deliveries.c.worker_id == worker,
            deliveries.c.channel == channel,
            deliveries.c.mode == mode,
            deliveries.c.lane == lane,
            deliveries.c.kind != MAILING,
        )
        .values(state=int(State.QUEUED), worker_id=None, is_in_doubt=deliveries.c.kind == PUSH)
    ).rowcount


def waiting(connection: Connection, channel: str, mode: Mode, lane: Lane, most: int) -> int:
    """How many wait, counted up to `most`."""
    some = (
        select(deliveries.c.id)
        .where(
            deliveries.c.channel == channel,
            deliveries.c.mode == mode,
            deliveries.c.lane == lane,
            deliveries.c.state == literal(int(State.QUEUED), literal_execute=True),
        )
        .limit(most)
    )
    return connection.execute(select(func.count()).select_from(some.subquery())).scalar_one()


def delivered_since(connection: Connection, channel: str, mode: Mode, since: datetime) -> int:
    """How many parts of pushes went out here since then, whichever sender sent them."""
    c = deliveries.c
    return connection.execute(
        select(func.count()).where(
            c.channel == channel,
            c.mode == mode,
            c.kind == literal(PUSH, literal_execute=True),
            c.state == literal(int(State.DELIVERED), literal_execute=True),
            c.settled_at >= since,
        )
    ).scalar_one()


def stop_waiting(connection: Connection, issue_ids: Collection[int], *, at: datetime, detail: str) -> int:
    """Stop every push of these issues that has not been on its way. What may have gone out is looked up first, or it
    could stand for ever with nobody to take it back. Mailings are stopped letter by letter."""
    return connection.execute(
        update(deliveries)
        .where(
            deliveries.c.issue_id.in_(list(issue_ids)),
            deliveries.c.state == int(State.QUEUED),
            deliveries.c.kind == PUSH,
            deliveries.c.is_in_doubt.is_(False),
        )
        .values(state=State.STOPPED, settled_at=at, detail=detail)
    ).rowcount


def unfinished_mailings(connection: Connection, issue_ids: Collection[int]) -> Sequence[int]:
    c = deliveries.c
    unfinished = (
        select(c.id)
        .where(c.issue_id.in_(list(issue_ids)), c.kind == MAILING, c.state == int(State.QUEUED))
        .order_by(c.id)
    )
    return list(connection.execute(unfinished).scalars())


def stop_mailings(connection: Connection, issue_ids: Collection[int]) -> Sequence[int]:
    """Mark the unfinished mailings of these issues as stopping; gives their ids."""
    return list(
        connection.execute(
            update(deliveries)
            .where(
                deliveries.c.issue_id.in_(list(issue_ids)),
                deliveries.c.kind == MAILING,
                deliveries.c.state == int(State.QUEUED),
            )
            .values(is_stopping=True)
            .returning(deliveries.c.id)
        ).scalars()
    )


def stop(connection: Connection, ids: Collection[int]) -> None:
    """Mark these mailings as stopping: their time is over."""
    connection.execute(update(deliveries).where(deliveries.c.id.in_(list(ids))).values(is_stopping=True))


def to_decide(connection: Connection, limit: int = 100) -> Sequence[Delivery]:
    """What failed or is unknown, newest first: a person decides."""
    states = [int(State.FAILED), int(State.UNKNOWN)]
    rows = connection.execute(
        select(deliveries)
        .where(deliveries.c.state.in_([literal(state, literal_execute=True) for state in states]))
        .order_by(deliveries.c.id.desc())
        .limit(limit)
    )
    return [_delivery(row) for row in rows]


def holds(connection: Connection, id: int, state: State, settled_at: datetime | None) -> bool:
    """Whether it is still as it was seen; from here on nobody else changes it before this transaction ends."""
    row = connection.execute(
        select(deliveries.c.state, deliveries.c.settled_at).where(deliveries.c.id == id).with_for_update()
    ).one_or_none()
    return row is not None and (row.state, row.settled_at) == (int(state), settled_at)


def put_back(connection: Connection, id: int, now: datetime, **fewer: int) -> None:
    """It is to be tried again, at once, as if it had not been tried. Of a mailing `fewer` says how many letters of each
    end go again. The parts that were given up with it wait for it again."""
    c = deliveries.c
    counts = {name: c[name] - number for name, number in fewer.items()}
    again = {
        "state": int(State.QUEUED),
        "worker_id": None,
        "attempts": 0,
        "due_at": now,
        "settled_at": None,
        "detail": "",
    }
    connection.execute(update(deliveries).where(c.id == id).values({**again, **counts}))
    followers = connection.execute(
        select(c.id).where(c.after_id == id, c.state.in_([int(State.FAILED), int(State.STOPPED)]))
    ).scalars()
    for follower in list(followers):
        put_back(connection, follower, now)


def decide(
    connection: Connection,
    id: int,
    state: State,
    *,
    at: datetime,
    detail: str,
    evidence: str = "",
    moved: Mapping[str, int],
) -> None:
    """A person says how it ended. `moved`: how many letters of a mailing went from one end to another."""
    c = deliveries.c
    values: dict[str, Any] = {"state": int(state), "worker_id": None, "settled_at": at, "detail": detail}
    values |= {name: c[name] + number for name, number in moved.items()}
    if evidence:
        values["evidence"] = evidence
    if state is State.DELIVERED:
        values["is_in_doubt"] = False
    connection.execute(update(deliveries).where(c.id == id).values(values))


def newest_states(
    connection: Connection, mode: Mode, limit: int = 300
) -> Mapping[str, tuple[State, str, datetime | None]]:
    """How each medium is, by its newest delivery among the last ones of all: its state, its kind, when it was settled."""
    c = deliveries.c
    rows = connection.execute(
        select(c.channel, c.state, c.kind, c.settled_at, c.mode).order_by(c.id.desc()).limit(limit)
    )
    found: dict[str, tuple[State, str, datetime | None]] = {}
    for row in rows:
        if row.mode == mode:
            found.setdefault(row.channel, (State(row.state), row.kind, row.settled_at))
    return found


def attempts_of(connection: Connection, delivery_id: int) -> Sequence[Attempt]:
    rows = connection.execute(select(attempts).where(attempts.c.delivery_id == delivery_id).order_by(attempts.c.id))
    return [
        Attempt(
            number=row.number,
            began_at=row.began_at,
            ended_at=row.ended_at,
            state=State(row.state),
            detail=row.detail,
            evidence=row.evidence,
        )
        for row in rows
    ]


# Mailings


def open_mailings(connection: Connection, channel: str, mode: Mode) -> Sequence[Delivery]:
    """Mailings that are not finished, in the order in which they are served; without their payloads, because this is
    asked all the time while letters go out."""
    rows = connection.execute(
        select(
            *(column if column is not deliveries.c.payload else literal("").label("payload") for column in deliveries.c)
        )
        .where(
            deliveries.c.channel == channel,
            deliveries.c.mode == mode,
            deliveries.c.lane.in_([int(lane) for lane in Lane]),
            deliveries.c.state == literal(int(State.QUEUED), literal_execute=True),
            deliveries.c.kind == MAILING,
        )
        .order_by(deliveries.c.lane, deliveries.c.due_at, deliveries.c.id)
    )
    return [_delivery(row) for row in rows]


def note_first_attempt(connection: Connection, id: int, at: datetime) -> None:
    connection.execute(_NOTE_FIRST_ATTEMPT, {"delivery": id, "at": at})


_NOTE_FIRST_ATTEMPT = (
    update(deliveries)
    .where(deliveries.c.id == bindparam("delivery"), deliveries.c.first_attempt_at.is_(None))
    .values(first_attempt_at=bindparam("at"))
)
_COUNTED = ("delivered", "failed", "unknown", "stopped")
_COUNT = Prepared(
    lambda _: (
        update(deliveries)
        .where(deliveries.c.id == bindparam("delivery"))
        .values({name: deliveries.c[name] + bindparam(f"more_{name}", type_=Integer) for name in _COUNTED})
        .returning(deliveries.c.fanned_to, deliveries.c.total, *(deliveries.c[name] for name in _COUNTED))
    )
)
"""This one runs for every batch of letters, the one above at most once a claim: neither is made anew."""


def count(connection: Connection, id: int, now: datetime, **more: int) -> None:
    """Add to the counts of a mailing, and settle it when that was its last letter."""
    added = {f"more_{name}": more.get(name, 0) for name in _COUNTED}
    if not any(added.values()):
        return
    # Compared here: SQLite 3.40 finds `fanned_to IS NULL` false in a RETURNING clause, whatever stands there.
    fanned_to, total, *settled = list(_COUNT.run(connection, delivery=id, **added).one())
    if fanned_to is None and sum(settled) == total:
        finish_mailings(connection, [id], now)


def fanned(connection: Connection, id: int, *, to: int | None, more: int, stopped: int = 0) -> None:
    """The fan-out has come to subscriber `to`, or to its end (None)."""
    connection.execute(
        update(deliveries)
        .where(deliveries.c.id == id)
        .values(fanned_to=to, total=deliveries.c.total + more, stopped=deliveries.c.stopped + stopped)
    )


def finish_mailings(connection: Connection, ids: Collection[int], at: datetime) -> Sequence[int]:
    """Settle the mailings whose every reader is settled; gives their ids."""
    c = deliveries.c
    return list(
        connection.execute(
            update(deliveries)
            .where(
                c.id.in_(list(ids)),
                c.state == int(State.QUEUED),
                c.fanned_to.is_(None),
                c.delivered + c.failed + c.unknown + c.stopped == c.total,
            )
            .values(
                settled_at=at,
                state=case(
                    (c.stopped > 0, int(State.STOPPED)),
                    (c.unknown > 0, int(State.UNKNOWN)),
                    (and_(c.failed > 0, c.delivered == 0), int(State.FAILED)),
                    else_=int(State.DELIVERED),
                ),
            )
            .returning(c.id)
        ).scalars()
    )


def _delivery(row: Row[Any]) -> Delivery:
    v = row._mapping
    return Delivery(
        id=v["id"],
        issue_id=v["issue_id"],
        key=v["key"],
        channel=v["channel"],
        part=v["part"],
        kind=v["kind"],
        mode=Mode(v["mode"]),
        lane=Lane(v["lane"]),
        state=State(v["state"]),
        attempts=v["attempts"],
        due_at=v["due_at"],
        expires_at=v["expires_at"],
        payload=Payload(part=v["part"], content=json.loads(v["payload"])) if v["payload"] else None,
        after_id=v["after_id"],
        worker_id=v["worker_id"],
        is_in_doubt=v["is_in_doubt"],
        evidence=v["evidence"],
        detail=v["detail"],
        created_at=v["created_at"],
        first_attempt_at=v["first_attempt_at"],
        settled_at=v["settled_at"],
        audience=json.loads(v["audience"]) if v["audience"] else {},
        fanned_to=v["fanned_to"],
        is_stopping=v["is_stopping"],
        counts=_counts(v),
    )


def _counts(v: Any) -> Counts:
    settled = v["delivered"] + v["failed"] + v["unknown"] + v["stopped"]
    return Counts(
        total=v["total"],
        queued=v["total"] - settled,  # those in flight among them: the recipients' own rows tell them apart
        delivered=v["delivered"],
        failed=v["failed"],
        unknown=v["unknown"],
        stopped=v["stopped"],
    )
