"""Recipients: a row of evidence for each reader of each mailing — state, time, the mail server's answer.

The fan-out is set-based and resumable: a chunk of readers in the order of their numbers, with the cursor in the same
transaction. Claims and marks go by batches along partial indexes, so their cost does not grow with history.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    ColumnElement,
    Connection,
    Insert,
    Integer,
    Select,
    SmallInteger,
    Subquery,
    Text,
    and_,
    bindparam,
    case,
    cast,
    exists,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    true,
    type_coerce,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from broadcaster.delivery import Counts, State
from broadcaster.store import deliveries as ledger
from broadcaster.store import leases
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
    due_at: int  # in microseconds; with the number it is the letter's place in the queue


class Taken(NamedTuple):
    """What was claimed together; no letter where nothing was due."""

    lease: int
    letters: Sequence[Claimed]
    is_all: bool  # nothing else is due


NOTHING = Taken(0, (), is_all=True)


class End(NamedTuple):
    """What became of a letter. A queued one goes back with the time at which it is due again."""

    state: State
    due_at: datetime | None = None
    counts_as_attempt: bool = True
    is_in_doubt: bool = False  # of a queued one: this attempt, or one before it, may have arrived


class Record:
    """What became of letters, to be written down together: by mailing, lease and end, what each reader's mail server
    answered."""

    def __init__(self) -> None:
        self._said: dict[tuple[int, int, End], dict[int, str]] = {}
        self._size = 0

    def put(self, delivery_id: int, subscriber_id: int, lease: int, end: End, reply: str) -> None:
        key = delivery_id, lease, end
        said = self._said.get(key)
        if said is None:
            said = self._said[key] = {}
        said[subscriber_id] = reply
        self._size += 1

    def __len__(self) -> int:
        return self._size

    def __add__(self, other: Record) -> Record:
        """Both; what the other says of a letter was said later."""
        both = Record()
        for one in (self, other):
            for key, said in one._said.items():
                both._said[key] = {**both._said.get(key, {}), **said}
        both._size = len(self) + len(other)
        return both

    @property
    def leases(self) -> set[int]:
        return {lease for _, lease, _ in self._said}

    @property
    def mailings(self) -> set[int]:
        return {delivery_id for delivery_id, _, _ in self._said}

    def by_mailing(self, standing: Collection[int]) -> dict[int, dict[End, dict[int, str]]]:
        """What was claimed by a lease that stands: for each mailing, its ends."""
        found: dict[int, dict[End, dict[int, str]]] = {}
        for (delivery_id, lease, end), said in self._said.items():
            if lease in standing:
                found.setdefault(delivery_id, {}).setdefault(end, {}).update(said)
        return found


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
            or_(
                r.state.in_((int(State.DELIVERED), int(State.UNKNOWN))),
                and_(r.state == int(State.QUEUED), leases.is_leased()),
            ),
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
_QUEUED = literal_column("0", SmallInteger)  # spelled out, so that the partial index is used
_DUE = (
    select(_R.subscriber_id, _R.attempts, _R.is_in_doubt, _R.due_at)
    .where(
        _R.delivery_id == bindparam("delivery"),
        _R.state == _QUEUED,
        _R.due_at <= bindparam("now", type_=BigInteger),
        exists().where(
            deliveries.c.id == bindparam("delivery"),
            ~deliveries.c.is_stopping,
            deliveries.c.expires_at > bindparam("now", type_=BigInteger),
        ),
        ~leases.is_leased(),
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
    due = _DUE.cte("due")
    reader = func.coalesce(_S.email, ""), func.coalesce(_S.domain, ""), func.coalesce(_S.epoch, 0)
    one, all_of = _JSON[dialect]
    rows = cast(all_of(one(due.c.subscriber_id, due.c.attempts, *reader, due.c.is_in_doubt, due.c.due_at)), Text)
    return select(rows).select_from(due.outerjoin(subscribers, _S.id == due.c.subscriber_id))


_DUE_WITH_READERS = Prepared(_due_with_readers)


def claim(connection: Connection, delivery_id: int, *, worker: int, now: datetime, limit: int) -> Taken:
    """Take the next letters of this mailing in hand."""
    ledger.hold(connection, [delivery_id])
    due = {"delivery": delivery_id, "now": microseconds(now), "most": limit}
    rows = json.loads(_DUE_WITH_READERS.run(connection, **due).scalar() or "[]")
    if not rows:
        return NOTHING
    letters = sorted(map(Claimed._make, rows), key=_PLACE)
    first, last = _PLACE(letters[0]), _PLACE(letters[-1])
    is_all = len(letters) < limit
    other = leases.first_after(connection, delivery_id, first)
    if other is not None and other < last:  # leases do not overlap
        letters, is_all = [letter for letter in letters if _PLACE(letter) < other], False
        last = _PLACE(letters[-1])
    return Taken(leases.grant(connection, delivery_id, worker, first, last), letters, is_all)


_PLACE: Callable[[Claimed], leases.Place] = attrgetter("due_at", "subscriber_id")


def _settling(dialect: str) -> Insert:
    """One statement for many letters: a driver's `executemany` would hand the interpreter to a busy event loop at each.

    Every row is there, so that each of these meets its own: SQLite makes a table of all that an UPDATE … FROM is going to
    write before it writes, which costs a third more."""
    replies = bindparam("replies", type_=Text)
    each = func.json_each(replies) if dialect == "sqlite" else func.json_each_text(cast(replies, JSON))
    answers = each.table_valued("key", "value")
    source = select(
        bindparam("delivery", type_=BigInteger),
        cast(answers.c.key, BigInteger),
        bindparam("to_state", type_=SmallInteger),
        bindparam("tries", type_=SmallInteger),
        bindparam("again_at", type_=BigInteger),
        bindparam("ended_at", type_=BigInteger),
        answers.c.value,
        bindparam("doubt", type_=Boolean),
    ).where(true())  # else SQLite reads ON CONFLICT as the ON of a join
    columns = ("delivery_id", "subscriber_id", "state", "attempts", "due_at", "settled_at", "reply", "is_in_doubt")
    write = _INSERT[dialect](recipients).from_select(columns, source)
    new = write.excluded
    settled = {name: new[name] for name in columns[2:]} | {"attempts": _R.attempts + new.attempts}
    settling: Insert = write.on_conflict_do_update(
        index_elements=columns[:2], set_=settled, where=_R.state == int(State.QUEUED)
    )
    return settling


_INSERT: Mapping[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}

_SETTLE = Prepared(_settling)


def write_down(connection: Connection, record: Record, now: datetime) -> None:
    """Settle letters, or put them back, and move the counts of their mailings with them.

    Those whose lease has been taken away belong to somebody else by now: they are left as they are, and are not
    counted."""
    if not len(record):
        return
    by_mailing = record.by_mailing(leases.standing(connection, record.leases))
    for delivery_id, by_end in sorted(by_mailing.items()):  # two senders take the same rows in the same order
        are_queued = [_settle(connection, delivery_id, end, said, now) for end, said in by_end.items()]
        if all(are_queued):
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


def _number(by_end: Mapping[End, Mapping[int, str]], state: State) -> int:
    return sum(len(said) for end, said in by_end.items() if end.state is state)


def _settle(connection: Connection, id: int, end: End, said: Mapping[int, str], now: datetime) -> bool:
    """Whether all of these rows were queued."""
    is_over = end.state is not State.QUEUED
    settled = _SETTLE.run(
        connection,
        to_state=int(end.state),
        tries=int(end.counts_as_attempt),
        doubt=end.is_in_doubt,
        again_at=microseconds(now if is_over or end.due_at is None else end.due_at),
        ended_at=microseconds(now) if is_over else None,
        delivery=id,
        replies=json.dumps(said),
    )
    return settled.rowcount == len(said)


def _recount(connection: Connection, delivery_id: int) -> None:
    """Count the rows themselves: rare, after a worker was given up for dead and came back."""
    counts = counted(connection, delivery_id)
    connection.execute(
        update(deliveries)
        .where(deliveries.c.id == delivery_id)
        .values(delivered=counts.delivered, failed=counts.failed, unknown=counts.unknown, stopped=counts.stopped)
    )


def counted(connection: Connection, delivery_id: int) -> Counts:
    """The counts from the rows themselves, those in hand told apart."""
    r = recipients.c
    by_state = {
        State(state): n
        for state, n in connection.execute(
            select(r.state, func.count()).where(r.delivery_id == delivery_id).group_by(r.state)
        )
    }
    in_hand = leases.in_hand(connection, delivery_id)
    return Counts(
        total=sum(by_state.values()),
        queued=by_state.get(State.QUEUED, 0) - in_hand,
        in_flight=in_hand,
        delivered=by_state.get(State.DELIVERED, 0),
        failed=by_state.get(State.FAILED, 0),
        unknown=by_state.get(State.UNKNOWN, 0),
        stopped=by_state.get(State.STOPPED, 0),
    )


def recall(connection: Connection, mailings: Iterable[Delivery], domains: Collection[str], now: datetime) -> None:
    """Letters that were put aside because their domain did not answer are due, before those that have not been in hand
    yet: it has answered. Those that were tried keep the time that their last answer set."""
    for mailing in sorted(mailings, key=lambda mailing: mailing.id):
        before_all = microseconds(mailing.created_at) - 1  # and outside of every lease
        values = {"delivery": mailing.id, "now": microseconds(now), "first": before_all}
        for domain in sorted(domains):
            connection.execute(_RECALL, {**values, "its_domain": domain})


_RECALL = (
    update(recipients)
    .where(
        _R.delivery_id == bindparam("delivery"),
        _R.state == _QUEUED,
        _R.due_at > bindparam("now", type_=BigInteger),
        _R.attempts == 0,
        ~leases.is_leased(),  # as it may be where the clock was set back
        exists().where(_S.id == _R.subscriber_id, _S.domain == bindparam("its_domain")),
    )
    .values(due_at=bindparam("first", type_=BigInteger))
)


def stop_waiting(connection: Connection, delivery_ids: Collection[int], now: datetime) -> int:
    """Stop every letter that nobody has in hand; one that may have arrived before becomes unknown. Gives how many."""
    stopped = 0
    r = recipients.c
    ledger.hold(connection, delivery_ids)
    for id in delivery_ids:
        waiting = update(recipients).where(r.delivery_id == id, r.state == _QUEUED, ~leases.is_leased())
        in_doubt = waiting.where(r.is_in_doubt).values(state=int(State.UNKNOWN), settled_at=now)
        unknown = connection.execute(in_doubt).rowcount
        n = connection.execute(waiting.values(state=int(State.STOPPED), settled_at=now)).rowcount
        ledger.count(connection, id, now, stopped=n, unknown=unknown)
        stopped += n + unknown
    return stopped


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
    values: dict[str, Any] = {"state": int(to), "settled_at": None if again else now}
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
