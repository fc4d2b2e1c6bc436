"""Whether the ledger grows dearer with its history: claims of 400 letters and marks of 100, each in a transaction of its
own as the sender makes them, through `broadcaster.store.recipients`, at 10,000, 1,000,000 and 5,000,000 rows of history,
on SQLite (`synchronous=FULL`) and on PostgreSQL (with fsync). The sizes take turns batch by batch, a few milliseconds
each, so that what else this machine does meets all of them alike; a ratio is that of a round's sums. And the fan-out of
one mailing to 1,000,000 readers: the last chunks beside the first.

    python -m benchmarks.ledger                             # about ten minutes, 3 GB of disk
    python -m benchmarks.ledger --rows 10000,1000000 --rounds 3 --only sqlite

History is mailings of 50,000 readers, all settled, each row with the relay's reply. On PostgreSQL it is written as in life
(queued, claimed, settled, and vacuumed in between), because its pages remember: rows that were only inserted leave in each
page a hole for one more, and the next mailing would be scattered over all of them. What is measured is a mailing of 20,000
more in each round; it stays, so every contender grows by as much.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from sqlalchemy import insert, text, update

from benchmarks.rounds import ROUNDS, ROUNDS_QUICK, Figure, Spread, at_least, machine, ratio, spread, table
from broadcaster.delivery import Lane, State
from broadcaster.message import Mode
from broadcaster.store import deliveries, leases, recipients, tables
from broadcaster.store.database import Connection, Database
from tests import servers

TITLE = "The ledger at 10,000 rows and at 5,000,000"
WHY = __doc__

SIZES = (10_000, 1_000_000, 5_000_000)
SIZES_QUICK = (10_000, 200_000)
ENGINES = ("sqlite", "postgresql")

CLAIM, MARK = 400, 100
LETTERS = 20_000
"""Of the mailing that is under way, each turn anew."""

OF_ONE_MAILING = 50_000
FAN_OUT, FAN_OUT_QUICK = 1_000_000, 100_000
ENDS = 10
"""So many chunks at the beginning and at the end of a fan-out are compared."""

NOW = datetime(2026, 12, 1, tzinfo=UTC)
AUDIENCE = {"language": "ja", "format": "text", "topic": 8, "districts": 1, "is_drill": False}
WORKER = 7
DELIVERED = recipients.End(State.DELIVERED)
_READERS = 100_000


@dataclass(kw_only=True)
class Ledger:
    """One database with so many rows of history."""

    database: Database
    number: int = 1_000_000
    lease: int = 0

    def fill(self, history: int, readers: int = _READERS) -> None:
        with self.database.write() as connection:
            _write_readers(connection, readers)
            if not self.database.is_sqlite:
                connection.exec_driver_sql("ALTER TABLE recipients SET (autovacuum_enabled = off)")  # it would disturb
        for first in range(0, history, OF_ONE_MAILING):
            mailing = first // OF_ONE_MAILING + 1
            with self.database.write() as connection:
                self._open(connection, mailing, state=State.DELIVERED)
                _write_history(connection, mailing, min(OF_ONE_MAILING, history - first))
            if not self.database.is_sqlite and (mailing & (mailing - 1) == 0 or mailing % 16 == 0):
                self._outside("VACUUM recipients")  # when a fifth has changed, as autovacuum does, but not too rarely
        self._settle_down()

    def _open(self, connection: Connection, id: int, *, state: State) -> None:
        """A mailing. Its issue is of no matter here: on both databases a reference is checked when it is asked for."""
        common = {"identifier": f"m{id}", "mode": "live", "effective_at": NOW, "expires_at": NOW, "document": "{}"}
        connection.execute(
            insert(tables.messages).values(
                **common, id=id, category="notice", state="issued", content_hash="", created_at=NOW, created_by="bench"
            )
        )
        connection.execute(insert(tables.issues).values(**common, id=id, message_id=id, lane=1, sent_at=NOW))
        connection.execute(
            insert(tables.deliveries).values(
                id=id,
                issue_id=id,
                key=f"m{id}/email/ja.text",
                channel="email",
                part="ja.text",
                kind=deliveries.MAILING,
                mode=Mode.LIVE,
                lane=Lane.ROUTINE,
                state=state,
                due_at=NOW,
                created_at=NOW,
                expires_at=NOW + timedelta(days=1),
                audience='{"language": "ja", "format": "text", "topic": 8, "districts": 1, "is_drill": false}',
                fanned_to=0,
            )
        )

    def _settle_down(self) -> None:
        """What autovacuum and checkpoints do by themselves in time."""
        if self.database.is_sqlite:
            with closing(self.database._writer.raw_connection()) as raw:
                raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return
        self._outside("VACUUM ANALYZE")
        self._outside("CHECKPOINT")

    def _outside(self, command: str) -> None:
        with self.database._writer.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(command)

    # A round

    def begins(self) -> None:
        self.number += 1
        with self.database.write() as connection:
            self._open(connection, self.number, state=State.QUEUED)

    def steps(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """What the sender does with a mailing, batch by batch."""
        yield from (("fan_out", self._fan_out) for _ in range(LETTERS // recipients.CHUNK))
        for claimed in range(1, LETTERS + 1, CLAIM):
            yield "claims", self._claim
            yield from (("marks", partial(self._mark, first)) for first in range(claimed, claimed + CLAIM, MARK))
            yield "marks", self._end_lease

    def _fan_out(self) -> None:
        with self.database.write() as connection:
            recipients.fan_out(connection, deliveries.get(connection, self.number), NOW)

    def _claim(self) -> None:
        with self.database.write() as connection:
            taken = recipients.claim(connection, self.number, worker=WORKER, now=NOW, limit=CLAIM)
        assert len(taken.letters) == CLAIM
        self.lease = taken.lease

    def _mark(self, first: int) -> None:
        record = recipients.Record()
        for n in range(first, first + MARK):
            record.put(self.number, n, self.lease, DELIVERED, "250 2.0.0 Ok: queued as 4XyZ1234")
        with self.database.write() as connection:
            recipients.write_down(connection, record, NOW)

    def _end_lease(self) -> None:
        with self.database.write() as connection:
            leases.end(connection, [self.lease])

    def ends(self) -> None:
        with self.database.write() as connection:
            counts = deliveries.get(connection, self.number).counts
            assert counts.delivered == LETTERS, counts

    # A long fan-out

    def chunks(self) -> list[float]:
        """Seconds for each chunk of one mailing to everybody."""
        with self.database.write() as connection:
            self._open(connection, self.number, state=State.QUEUED)
        seconds = []
        while True:
            with self.database.read() as connection:
                mailing = deliveries.get(connection, self.number)
            if mailing.fanned_to is None:
                return seconds
            began = time.perf_counter()
            with self.database.write() as connection:
                recipients.fan_out(connection, mailing, NOW)
            seconds.append(time.perf_counter() - began)


def _numbers(connection: Connection, most: int) -> str:
    """The words for a table `n` of 1 … most."""
    if connection.dialect.name == "sqlite":
        return f"(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {most}) SELECT n FROM c)"
    return f"generate_series(1, {most}) AS g(n)"


def _write_readers(connection: Connection, number: int) -> None:
    connection.execute(
        text(
            "INSERT INTO subscribers (id, email, domain, language, format, topics, districts, frequency, registered_at,"
            " method, state, is_drill, epoch) SELECT n, 'reader-' || n || '@mail-' || (n % 20) || '.example',"
            " 'mail-' || (n % 20) || '.example', 'ja', 'text', 63, 1, 'at_once', 0, 'form', 'active', false, 0"
            f" FROM {_numbers(connection, number)}"
        )
    )


def _write_history(connection: Connection, mailing: int, number: int) -> None:
    is_sqlite = connection.dialect.name == "sqlite"  # there a row stays where it is
    state, reply = ("2, 1, 0, 0", "'250 2.0.0 Ok: queued as 4XyZ' || n") if is_sqlite else ("0, 0, 0, NULL", "NULL")
    steps = [
        "INSERT INTO recipients (delivery_id, subscriber_id, state, attempts, due_at, settled_at, reply)"
        f" SELECT :mailing, n, {state}, {reply} FROM {_numbers(connection, number)}"
    ]
    if not is_sqlite:
        steps += [
            "UPDATE recipients SET state = 2, attempts = 1, settled_at = 0,"
            " reply = '250 2.0.0 Ok: queued as 4XyZ' || subscriber_id WHERE delivery_id = :mailing",
        ]
    for step in steps:
        connection.execute(text(step), {"mailing": mailing})
    connection.execute(
        update(tables.deliveries)
        .where(tables.deliveries.c.id == mailing)
        .values(total=number, delivered=number, fanned_to=None)
    )


@contextmanager
def databases(engine: str, folder: Path) -> Iterator[Callable[[], Database]]:
    """Makes a fresh database at each call; a server, where there is one, writes to the disk at each commit."""
    with ExitStack() as stack:
        server = stack.enter_context(servers.postgres(fsync=True)) if engine == "postgresql" else None
        numbers = itertools.count()

        def fresh() -> Database:
            file = folder / f"{next(numbers)}.sqlite3"
            url = stack.enter_context(servers.a_database(server)) if server else f"sqlite:///{file}"
            database = Database(url)
            database.upgrade()
            stack.callback(database.close)
            return database

        yield fresh


Seconds = dict[str, float]
"""By what was done."""


def a_round(ledgers: Mapping[str, Ledger], turn: int) -> dict[str, Seconds]:
    """One mailing in each, side by side."""
    names = list(ledgers)
    seconds: dict[str, Seconds] = {name: defaultdict(float) for name in names}
    for ledger in ledgers.values():
        ledger.begins()
    for number, together in enumerate(zip(*(ledgers[name].steps() for name in names), strict=True), start=turn):
        first = number % len(names)
        turns = list(zip(names, together, strict=True))
        for name, (what, act) in turns[first:] + turns[:first]:
            began = time.perf_counter()
            act()
            seconds[name][what] += time.perf_counter() - began
    for ledger in ledgers.values():
        ledger.ends()
    return seconds


def flat(engine: str, sizes: Sequence[int], number: int) -> list[Figure]:
    """Claims and marks at each size, beside the smallest."""
    with tempfile.TemporaryDirectory(prefix="ledger") as folder, databases(engine, Path(folder)) as fresh:
        ledgers = {f"{size:,}": Ledger(database=fresh()) for size in sizes}
        for size, ledger in zip(sizes, ledgers.values(), strict=True):
            ledger.fill(size)
        a_round(ledgers, 0)  # the first one only warms up
        results = [a_round(ledgers, turn) for turn in range(number)]
    least, *others = ledgers
    return [_figure(engine, results, what, name, least) for name in others for what in ("claims", "marks", "fan_out")]


def _figure(engine: str, results: Sequence[Mapping[str, Seconds]], what: str, name: str, least: str) -> Figure:
    def rate(seconds: Seconds) -> float:
        return LETTERS / seconds[what]

    return Figure(
        name=f"{engine}: {what.replace('_', '-')} at {name} rows, {least} = 1",
        value=ratio(results, name, least, rate),
        unit="×",
        bar=at_least(0.85) if what != "fan_out" else None,
        against=f"{spread(results, least, rate)} a second at {least}; here {spread(results, name, rate)}",
    )


def fan_out(engine: str, readers: int) -> Figure:
    with tempfile.TemporaryDirectory(prefix="ledger") as folder, databases(engine, Path(folder)) as fresh:
        ledger = Ledger(database=fresh())
        ledger.fill(0, readers)
        seconds = ledger.chunks()
    ends = min(ENDS, len(seconds) // 2)
    first, last = seconds[:ends], seconds[-ends - 1 : -1]  # the very last chunk is empty
    return Figure(
        name=f"{engine}: a chunk of {recipients.CHUNK:,} at the end of a fan-out to {readers:,}, at its beginning = 1",
        value=statistics.median(last) / statistics.median(first),
        unit="×",
        against=f"{Spread.of(first).scaled(1000)} ms first; {Spread.of(last).scaled(1000)} ms last",
        note=f"{sum(seconds):.1f} s in all",
    )


def run(quick: bool) -> list[Figure]:
    return measured(SIZES_QUICK if quick else SIZES, ROUNDS_QUICK if quick else ROUNDS, ENGINES, quick=quick)


def measured(sizes: Sequence[int], number: int, engines: Sequence[str], *, quick: bool = False) -> list[Figure]:
    figures = []
    for engine in engines:
        figures += flat(engine, sizes, number)
        figures.append(fan_out(engine, FAN_OUT_QUICK if quick else FAN_OUT))
    return figures


RUNS = {"N5L": run}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger", description=TITLE)
    parser.add_argument("--rows", default=",".join(map(str, SIZES)), help="rows of history, the smallest first")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", choices=ENGINES, help="one database instead of both")
    parser.add_argument("--quick", action="store_true", help="a smaller fan-out")
    asked = parser.parse_args()
    sizes = [int(size) for size in asked.rows.split(",")]
    figures = measured(sizes, asked.rounds, [asked.only] if asked.only else ENGINES, quick=asked.quick)
    print(f"{machine()}\n\n{table(figures)}")
    return 1 if any(figure.is_met is False for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
