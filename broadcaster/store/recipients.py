"""Recipients: a row of evidence for each reader of each mailing — state, time, the mail server's answer.

The fan-out is set-based and resumable: a chunk of readers in the order of their numbers, with the cursor in the same
transaction. Claims and marks go by batches along partial indexes, so their cost does not grow with history.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Select,
    SmallInteger,
    Subquery,
    Text,
    Update,
    any_,
    bindparam,
    case,
    cast,
    exists,
    func,
    insert,
    literal,
    literal_column,
    select,
    type_coerce,
    update,
)

from broadcaster.delivery import Counts, State
from broadcaster.message import Mode
from broadcaster.store import deliveries as ledger
from broadcaster.store.deliveries import Delivery
from broadcaster.store.prepared import Prepared
from broadcaster.store.tables import deliveries, microseconds, recipients, subscribers

CHUNK = 10_000
"""Readers written in one transaction: 10–20 ms on SQLite, so that an emergency never waits long for the lock."""


class Claimed(NamedTuple):
    """A letter in hand. Without an address: a reader who has been deleted."""

    subscriber_id: int
    attempts: int
    address: str
    domain: str
    epoch: int
    is_in_doubt: bool  # an earlier attempt may have arrived


class Mark(NamedTuple):
    """What became of one letter. A queued one goes back with the time at which it is due again."""

    delivery_id: int
    subscriber_id: int
    state: State
    reply: str
    due_at: datetime | None = None
    counts_as_attempt: bool = True
    is_in_doubt: bool = False  # of a queued one: this attempt, or one before it, may have arrived


# Fan-out


def audience_query(audience: Mapping[str, Any], after: int, limit: int) -> Select[tuple[int]]:
    """The next readers of an audience `{"language", "format", "topic", "districts", "is_drill"}`, by number."""
    s = subscribers.c
    return (
        select(s.id)
        .where(
            s.is_drill == bool(audience["is_drill"]),
            s.state == "active",
            s.language == audience["language"],
            s.format == audience["format"],
            s.id > after,
            s.topics.bitwise_and(audience["topic"]) != 0,
            s.districts.bitwise_and(audience["districts"]) != 0,
        )
        .order_by(s.id)
        .limit(limit)
    )


def reached_query(audience: Mapping[str, Any], after: int, limit: int) -> Select[tuple[int]]:
    """The readers who have, or may have, one of the earlier mailings: `{"of": [delivery ids]}`. A letter that is still
    on its way when this is asked counts as one that they may have."""
    r = recipients.c
    return (
        select(r.subscriber_id)
        .where(
            r.delivery_id.in_(audience["of"]),
            r.state.in_((int(State.DELIVERED), int(State.UNKNOWN), int(State.IN_FLIGHT))),
            r.subscriber_id > after,
        )
        .distinct()
        .order_by(r.subscriber_id)
        .limit(limit)
    )


def fan_out(connection: Connection, delivery: Delivery, now: datetime) -> int:
    """Write the next chunk of readers. Gives how many; the delivery's cursor is NULL when that was the last.

    Of a mailing that is stopping the rest is written as stopped: everyone who was meant stands in the ledger."""
    if delivery.fanned_to is None:
        return 0
    query = reached_query if "of" in delivery.audience else audience_query
    chosen = query(delivery.audience, delivery.fanned_to, CHUNK).subquery()
    state = State.STOPPED if delivery.is_stopping else State.QUEUED
    source = select(
        literal(delivery.id, BigInteger),
        chosen.c[0],
        literal(int(state), SmallInteger),
        literal(0, SmallInteger),
        literal(microseconds(now), BigInteger),
    )
    columns = ["delivery_id", "subscriber_id", "state", "attempts", "due_at"]
    write = insert(recipients).from_select(columns, source).execution_options(preserve_rowcount=True)
    written = connection.execute(write).rowcount
    last = connection.execute(
        select(func.max(recipients.c.subscriber_id)).where(recipients.c.delivery_id == delivery.id)
    ).scalar()
    ledger.fanned(
        connection,
        delivery.id,
        to=last if written == CHUNK else None,
        more=written,
        stopped=written if delivery.is_stopping else 0,
    )
    return written


def head_count(connection: Connection, audience: Mapping[str, Any]) -> int:
    query = reached_query if "of" in audience else audience_query
    everyone = query(audience, 0, 10**9).order_by(None).limit(None).subquery()
    return connection.execute(select(func.count()).select_from(everyone)).scalar_one()


def has_readers(connection: Connection, audience: Mapping[str, Any]) -> bool:
    """Whether anybody is in an audience of `audience_query`."""
    return connection.execute(_ANYBODY, audience).first() is not None


_NAMED: Mapping[str, Any] = {name: bindparam(name) for name in ("language", "format", "topic", "districts", "is_drill")}
_ANYBODY = (
    select(subscribers.c.id)
    .where(
        subscribers.c.is_drill == _NAMED["is_drill"],
        subscribers.c.state == "active",
        subscribers.c.language == _NAMED["language"],
        subscribers.c.format == _NAMED["format"],
        subscribers.c.topics.bitwise_and(_NAMED["topic"]) != 0,
        subscribers.c.districts.bitwise_and(_NAMED["districts"]) != 0,
    )
    .limit(1)
)


# Claims and marks


_R, _S = recipients.c, subscribers.c
_DUE = (
    select(_R.subscriber_id)
    .where(
        _R.delivery_id == bindparam("delivery"),
        _R.state == literal_column("0", SmallInteger),  # spelled out, so that the partial index is used
        _R.due_at <= bindparam("now", type_=BigInteger),
        exists().where(
            deliveries.c.id == bindparam("delivery"),
            ~deliveries.c.is_stopping,
            deliveries.c.expires_at > bindparam("now", type_=BigInteger),
        ),
    )
    .order_by(_R.due_at, _R.subscriber_id)
    .limit(bindparam("most", type_=Integer))
)


_JSON: Mapping[str, tuple[Any, Any]] = {
    "sqlite": (func.json_array, func.json_group_array),
    "postgresql": (func.json_build_array, func.json_agg),
}
"""An array of values, and an array of the rows."""


def _due_with_readers(dialect: str) -> Select[Any]:
    """What is due with its readers, as one value: fetching row by row would hand the interpreter to a busy event loop
    at each of them."""
    due = _DUE.add_columns(_R.attempts, _R.is_in_doubt).with_for_update(skip_locked=True).cte("due")
    reader = func.coalesce(_S.email, ""), func.coalesce(_S.domain, ""), func.coalesce(_S.epoch, 0)
    one, all_of = _JSON[dialect]
    rows = cast(all_of(one(due.c.subscriber_id, due.c.attempts, *reader, due.c.is_in_doubt)), Text)
    return select(rows).select_from(due.outerjoin(subscribers, _S.id == due.c.subscriber_id))


def _taking_in_hand(dialect: str) -> Update:
    if dialect == "sqlite":
        one_of = select(func.json_each(bindparam("ids", type_=Text)).table_valued("value").c.value)
        chosen: Any = _R.subscriber_id.in_(one_of)
    else:
        chosen = _R.subscriber_id == any_(bindparam("ids", type_=ARRAY(BigInteger)))
    return (
        update(recipients)
        .where(_R.delivery_id == bindparam("delivery"), chosen)
        .values(state=int(State.IN_FLIGHT), worker_id=bindparam("worker"))
    )


_DUE_WITH_READERS, _TAKE_IN_HAND = Prepared(_due_with_readers), Prepared(_taking_in_hand)


def claim(connection: Connection, delivery_id: int, *, worker: int, now: datetime, limit: int) -> list[Claimed]:
    """Take the next letters of this mailing in hand."""
    due = {"delivery": delivery_id, "now": microseconds(now), "most": limit}
    found = _DUE_WITH_READERS.run(connection, **due).scalar()
    claimed = [Claimed._make(row) for row in json.loads(found or "[]")]
    if claimed:
        ids = [one.subscriber_id for one in claimed]
        listed = json.dumps(ids) if connection.dialect.name == "sqlite" else ids
        _TAKE_IN_HAND.run(connection, delivery=delivery_id, ids=listed, worker=worker)
    return claimed


def _marking(dialect: str) -> Update:
    """One statement for many letters: a driver's `executemany` would hand the interpreter to a busy event loop at each.

    Materialized, so that the planner begins with the few and finds each by its key; nested, because Python's `sqlite3`
    says how many rows were changed only where a statement begins with UPDATE."""
    replies = bindparam("replies", type_=Text)
    each = func.json_each(replies) if dialect == "sqlite" else func.json_each_text(cast(replies, JSON))
    answers = each.table_valued("key", "value")
    said = (
        select(cast(answers.c.key, BigInteger).label("subscriber_id"), answers.c.value.label("reply"))
        .cte("said", nesting=True)
        .prefix_with("MATERIALIZED")
    )
    mark = select(said).subquery("mark")
    return (
        update(recipients)
        .where(
            _R.delivery_id == bindparam("delivery"),
            _R.subscriber_id == mark.c.subscriber_id,
            _R.worker_id == bindparam("worker"),
        )
        .values(
            state=bindparam("to_state"),
            worker_id=None,
            attempts=_R.attempts + bindparam("tries", type_=Integer),
            due_at=bindparam("again_at"),
            settled_at=bindparam("ended_at"),
            reply=mark.c.reply,
            is_in_doubt=bindparam("doubt"),
        )
    )


_MARK = Prepared(_marking)


def mark(connection: Connection, marks: Sequence[Mark], *, worker: int, now: datetime) -> None:
    """Write down a batch, and move the counts of its mailings with it.

    Rows that another worker has taken over meanwhile are left as they are, and are not counted."""
    for delivery_id, by_end in sorted(_by_end(marks).items()):  # two senders take the same rows in the same order
        are_mine = [_write_marks(connection, delivery_id, end, said, worker, now) for end, said in by_end.items()]
        if all(are_mine):
            ledger.count(
                connection,
                delivery_id,
                now,
                delivered=_number(by_end, State.DELIVERED),
                failed=_number(by_end, State.FAILED),
                unknown=_number(by_end, State.UNKNOWN),
                stopped=_number(by_end, State.STOPPED),
            )
        else:
            _recount(connection, delivery_id)
            ledger.finish_mailings(connection, [delivery_id], now)


class _End(NamedTuple):
    """What many letters of a batch have in common."""

    state: int
    due_at: datetime | None
    counts_as_attempt: bool
    is_in_doubt: bool


_Said = dict[int, str]
"""By reader: what the mail server answered."""


def _by_end(marks: Iterable[Mark]) -> dict[int, dict[_End, _Said]]:
    found: dict[int, dict[_End, _Said]] = {}
    for delivery_id, subscriber_id, state, reply, due_at, counts_as_attempt, is_in_doubt in marks:
        end = _End(int(state), due_at if state is State.QUEUED else None, counts_as_attempt, is_in_doubt)
        found.setdefault(delivery_id, {}).setdefault(end, {})[subscriber_id] = reply
    return found


def _number(by_end: Mapping[_End, _Said], state: State) -> int:
    return sum(len(said) for end, said in by_end.items() if end.state == state)


def _write_marks(connection: Connection, id: int, end: _End, said: _Said, worker: int, now: datetime) -> bool:
    """Whether all of these rows were still this worker's."""
    marked = _MARK.run(
        connection,
        to_state=end.state,
        tries=int(end.counts_as_attempt),
        doubt=end.is_in_doubt,
        again_at=microseconds(end.due_at or now),
        ended_at=None if end.state == State.QUEUED else microseconds(now),
        delivery=id,
        replies=json.dumps(said),
        worker=worker,
    )
    return marked.rowcount == len(said)


def _recount(connection: Connection, delivery_id: int) -> None:
    """Count the rows themselves: rare, after a worker was given up for dead and came back."""
    counts = counted(connection, delivery_id)
    connection.execute(
        update(deliveries)
        .where(deliveries.c.id == delivery_id)
        .values(delivered=counts.delivered, failed=counts.failed, unknown=counts.unknown, stopped=counts.stopped)
    )


def counted(connection: Connection, delivery_id: int) -> Counts:
    """The counts from the rows themselves, those in flight told apart."""
    r = recipients.c
    by_state = {
        State(state): n
        for state, n in connection.execute(
            select(r.state, func.count()).where(r.delivery_id == delivery_id).group_by(r.state)
        )
    }
    return Counts(
        total=sum(by_state.values()),
        queued=by_state.get(State.QUEUED, 0),
        in_flight=by_state.get(State.IN_FLIGHT, 0),
        delivered=by_state.get(State.DELIVERED, 0),
        failed=by_state.get(State.FAILED, 0),
        unknown=by_state.get(State.UNKNOWN, 0),
        stopped=by_state.get(State.STOPPED, 0),
    )


def recall(connection: Connection, mailings: Iterable[Delivery], domains: Collection[str], now: datetime) -> None:
    """Letters that were put aside because their domain did not answer are due, before those that have not been in hand
    yet: it has answered. Those that were tried keep the time that their last answer set."""
    for mailing in sorted(mailings, key=lambda mailing: mailing.id):
        values = {"delivery": mailing.id, "now": microseconds(now), "first": microseconds(mailing.created_at)}
        for domain in sorted(domains):
            connection.execute(_RECALL, {**values, "its_domain": domain})


_RECALL = (
    update(recipients)
    .where(
        _R.delivery_id == bindparam("delivery"),
        _R.state == literal_column("0", SmallInteger),
        _R.due_at > bindparam("now", type_=BigInteger),
        _R.attempts == 0,
        exists().where(_S.id == _R.subscriber_id, _S.domain == bindparam("its_domain")),
    )
    .values(due_at=bindparam("first", type_=BigInteger))
)


def stop_waiting(connection: Connection, delivery_ids: Collection[int], now: datetime) -> int:
    """Stop every letter that nobody has in hand; one that may have arrived before becomes unknown. Gives how many."""
    stopped = 0
    r = recipients.c
    for id in delivery_ids:
        waiting = update(recipients).where(r.delivery_id == id, r.state == literal_column("0", SmallInteger))
        in_doubt = waiting.where(r.is_in_doubt).values(state=int(State.UNKNOWN), settled_at=now)
        unknown = connection.execute(in_doubt).rowcount
        n = connection.execute(waiting.values(state=int(State.STOPPED), settled_at=now)).rowcount
        ledger.count(connection, id, now, stopped=n, unknown=unknown)
        stopped += n + unknown
    return stopped


def give_back(
    connection: Connection, channel: str, mode: Mode, *, worker: int, kept: Collection[tuple[int, int]]
) -> int:
    """Letters of this channel that the ledger holds for this worker, and that are not among those it has in hand
    (delivery and reader): of a claim whose end it did not hear. Gives how many."""
    r, d = recipients.c, deliveries.c
    held = connection.execute(
        select(r.delivery_id, r.subscriber_id).where(
            r.worker_id == worker, r.state == literal_column("1", SmallInteger)
        )
    ).all()
    named = {row.delivery_id for row in held}
    of_channel = set(
        connection.execute(select(d.id).where(d.id.in_(named), d.channel == channel, d.mode == mode)).scalars()
    )
    lost = [(id, reader) for id, reader in held if id in of_channel and (id, reader) not in kept]
    for delivery_id, subscriber_id in lost:
        connection.execute(
            update(recipients)
            .where(r.delivery_id == delivery_id, r.subscriber_id == subscriber_id, r.worker_id == worker)
            .values(state=int(State.QUEUED), worker_id=None)
        )
    return len(lost)


def release(connection: Connection, worker_ids: Collection[int], now: datetime) -> int:
    """Give back what dead workers held: it is tried again with the same Message-ID.

    Letters of a mailing that has been stopped meanwhile may or may not have gone out: they become unknown."""
    if not worker_ids:
        return 0
    r = recipients.c
    held = (
        update(recipients)
        .where(r.worker_id.in_(list(worker_ids)), r.state == literal_column("1", SmallInteger))
        .returning(r.delivery_id)
    )
    is_stopped = exists().where(deliveries.c.id == r.delivery_id, deliveries.c.is_stopping)
    unknown = connection.execute(
        held.where(is_stopped).values(state=int(State.UNKNOWN), worker_id=None, settled_at=now)
    ).scalars()
    for id, n in _tally(unknown).items():
        ledger.count(connection, id, now, unknown=n)
    again = held.values(state=int(State.QUEUED), worker_id=None, is_in_doubt=True)
    return len(connection.execute(again).all())


def _tally(ids: Iterable[int]) -> dict[int, int]:
    tally: dict[int, int] = {}
    for id in ids:
        tally[id] = tally.get(id, 0) + 1
    return tally


def put_back(connection: Connection, delivery_id: int, states: Collection[State], now: datetime) -> dict[State, int]:
    """Letters that ended in one of these are to be sent again, as if they had not been tried. Gives how many of each.
    The caller moves the counts of the mailing with them; what was in doubt stays in doubt."""
    return {state: _moved(connection, delivery_id, state, State.QUEUED, now) for state in sorted(set(states))}


def deem(
    connection: Connection, delivery_id: int, states: Collection[State], to: State, said: str, now: datetime
) -> int:
    """Letters that ended in one of these count as `to` from now on, because a person said so. Gives how many."""
    return sum(_moved(connection, delivery_id, state, to, now, reply=said) for state in sorted(set(states)))


def _moved(connection: Connection, id: int, state: State, to: State, now: datetime, *, reply: str | None = None) -> int:
    again = to is State.QUEUED
    values: dict[str, Any] = {"state": int(to), "worker_id": None, "settled_at": None if again else now}
    if again:
        values |= {"due_at": microseconds(now), "attempts": 0, "is_in_doubt": state is State.UNKNOWN}
    else:
        values["reply"] = reply
    moved = update(recipients).where(_R.delivery_id == id, _R.state == int(state)).values(values)
    return connection.execute(moved).rowcount


class Bucket(NamedTuple):
    """How many letters ended so in a tenth of a second, counted from a given instant."""

    tenth: int
    state: State
    number: int


def over_time(connection: Connection, delivery_ids: Collection[int], since: datetime) -> list[Bucket]:
    """When the letters of these mailings were settled, counted by tenths of a second."""
    settled_at = type_coerce(_R.settled_at, BigInteger)
    tenth = ((settled_at - literal(microseconds(since), BigInteger)) // 100_000).label("tenth")
    rows = connection.execute(
        select(tenth, _R.state, func.count())
        .where(_R.delivery_id.in_(list(delivery_ids)), _R.settled_at.is_not(None))
        .group_by(tenth, _R.state)
        .order_by(tenth, _R.state)
    )
    return [Bucket(int(tenth), State(state), number) for tenth, state, number in rows]


class OfDomain(NamedTuple):
    """Where the letters to one mail domain stand."""

    domain: str
    total: int
    delivered: int
    failed: int
    unknown: int
    stopped: int

    @property
    def waiting(self) -> int:
        return self.total - self.delivered - self.failed - self.unknown - self.stopped


def _number_of(column: ColumnElement[Any], state: State) -> ColumnElement[int]:
    return func.sum(case((column == int(state), 1), else_=0))


def by_domain(connection: Connection, delivery_id: int, limit: int = 20) -> list[OfDomain]:
    """The letters of one mailing by the domain of their readers, the largest first. Numbers only: no address."""
    letters = _with_reader(_S.domain, _R.delivery_id == delivery_id)
    domain, total = letters.c.of, func.count()
    rows = connection.execute(
        select(domain, total, *(_number_of(letters.c.state, state) for state in _ENDS))
        .group_by(domain)
        .order_by(total.desc(), domain)
        .limit(limit)
    )
    return [OfDomain(name or "", *(int(number) for number in numbers)) for name, *numbers in rows]


def by_districts(connection: Connection, delivery_ids: Collection[int]) -> list[tuple[int, int, int]]:
    """The letters of these mailings by what districts their readers chose, as bits: all, and those that went out."""
    letters = _with_reader(_S.districts, _R.delivery_id.in_(list(delivery_ids)))
    rows = connection.execute(
        select(letters.c.of, func.count(), _number_of(letters.c.state, State.DELIVERED))
        .where(letters.c.of.is_not(None))
        .group_by(letters.c.of)
    )
    return [(int(bits), int(total), int(delivered)) for bits, total, delivered in rows]


def _with_reader(what: ColumnElement[Any], which: ColumnElement[bool]) -> Subquery:
    """Letters, each with one thing about its reader, found by its number: joined, a planner may read the whole list of
    readers for a mailing of ten. A reader who has been deleted has nothing."""
    of = select(what).where(_S.id == _R.subscriber_id).scalar_subquery()
    return select(_R.state, of.label("of")).where(which).subquery("letters")


_ENDS = (State.DELIVERED, State.FAILED, State.UNKNOWN, State.STOPPED)


def answers(connection: Connection, delivery_id: int, state: State, limit: int = 5) -> list[tuple[str, int]]:
    """What the mail servers said to the letters that ended so, the most frequent first."""
    number = func.count()
    rows = connection.execute(
        select(_R.reply, number)
        .where(_R.delivery_id == delivery_id, _R.state == int(state))
        .group_by(_R.reply)
        .order_by(number.desc())
        .limit(limit)
    )
    return [(reply or "", int(n)) for reply, n in rows]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    subscriber_id: int
    state: State
    attempts: int
    settled_at: datetime | None
    reply: str | None


def evidence(connection: Connection, delivery_id: int, *, after: int = 0, limit: int = 100) -> Sequence[Evidence]:
    """The rows of one mailing by reader's number; no address among them."""
    r = recipients.c
    rows = connection.execute(
        select(r.subscriber_id, r.state, r.attempts, r.settled_at, r.reply)
        .where(r.delivery_id == delivery_id, r.subscriber_id > after)
        .order_by(r.subscriber_id)
        .limit(limit)
    )
    return [
        Evidence(
            subscriber_id=row.subscriber_id,
            state=State(row.state),
            attempts=row.attempts,
            settled_at=row.settled_at,
            reply=row.reply,
        )
        for row in rows
    ]
