"""Whether the ledger grows dearer with its history: claims of 400 letters and marks of 100, each in a transaction of its
own as the sender makes them, through `broadcaster.store.recipients`, at 10,000, 1,000,000 and 5,000,000 rows of history,
on SQLite (`synchronous=FULL`) and on PostgreSQL (with fsync). Each size has its turn in every round, and a ratio is taken
inside one round. And the fan-out of one mailing to 1,000,000 readers: the last chunks beside the first.

    python -m benchmarks.ledger                             # about ten minutes, 3 GB of disk
    python -m benchmarks.ledger --rows 10000,1000000 --rounds 3 --only sqlite

History is mailings of 50,000 readers, all settled, each row with the relay's reply. What is measured is a mailing of
20,000 more; its rows are taken away again after its turn, so the history of a contender stays what it is called.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import delete, insert, text, update

from benchmarks.rounds import ROUNDS, ROUNDS_QUICK, Figure, Spread, at_least, machine, ratio, rounds, spread, table
from broadcaster.delivery import Lane, State
from broadcaster.message import Mode
from broadcaster.store import deliveries, recipients, tables
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
_READERS = 100_000


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Letters a second."""

    claims: float
    marks: float
    fan_out: float


@dataclass(kw_only=True)
class Ledger:
    """One database with so many rows of history."""

    database: Database
    number: int = 1_000_000

    def fill(self, history: int, readers: int = _READERS) -> None:
        with self.database.write() as connection:
            _write_readers(connection, readers)
            for first in range(0, history, OF_ONE_MAILING):
                mailing = first // OF_ONE_MAILING + 1
                self._open(connection, mailing, state=State.DELIVERED)
                _write_history(connection, mailing, min(OF_ONE_MAILING, history - first))
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
        """What autovacuum does by itself in time; what SQLite does at its next checkpoint."""
        if self.database.is_sqlite:
            with closing(self.database._writer.raw_connection()) as raw:
                raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return
        with self.database._writer.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
            connection.exec_driver_sql("CHECKPOINT")

    def turn(self) -> Turn:
        self.number += 1
        id = self.number
        with self.database.write() as connection:
            self._open(connection, id, state=State.QUEUED)
        fan_out = self._timed(lambda: self._fan_out(id, LETTERS))
        claims = self._timed(lambda: self._claim(id))
        marks = self._timed(lambda: self._mark(id))
        with self.database.write() as connection:
            connection.execute(delete(tables.recipients).where(tables.recipients.c.delivery_id == id))
        self._settle_down()
        return Turn(claims=LETTERS / claims, marks=LETTERS / marks, fan_out=LETTERS / fan_out)

    def _timed(self, work: Callable[[], None]) -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    def _fan_out(self, id: int, most: int) -> None:
        written = 0
        while written < most:
            with self.database.write() as connection:
                written += recipients.fan_out(connection, deliveries.get(connection, id), NOW)

    def _claim(self, id: int) -> None:
        claimed = 0
        while claimed < LETTERS:
            with self.database.write() as connection:
                letters = recipients.claim(connection, id, worker=WORKER, now=NOW, limit=min(CLAIM, LETTERS - claimed))
            assert letters
            claimed += len(letters)

    def _mark(self, id: int) -> None:
        for first in range(1, LETTERS + 1, MARK):
            marks = [
                recipients.Mark(id, n, State.DELIVERED, "250 2.0.0 Ok: queued as 4XyZ1234", NOW)
                for n in range(first, first + MARK)
            ]
            with self.database.write() as connection:
                recipients.mark(connection, marks, worker=WORKER, now=NOW)

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
    connection.execute(
        text(
            "INSERT INTO recipients (delivery_id, subscriber_id, state, attempts, due_at, settled_at, reply)"
            " SELECT :mailing, n, 2, 1, 0, 0, '250 2.0.0 Ok: queued as 4XyZ' || n"
            f" FROM {_numbers(connection, number)}"
        ),
        {"mailing": mailing},
    )
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


def flat(engine: str, sizes: Sequence[int], number: int) -> list[Figure]:
    """Claims and marks at each size, beside the smallest."""
    with tempfile.TemporaryDirectory(prefix="ledger") as folder, databases(engine, Path(folder)) as fresh:
        ledgers = {f"{size:,}": Ledger(database=fresh()) for size in sizes}
        for size, ledger in zip(sizes, ledgers.values(), strict=True):
            ledger.fill(size)
            ledger.turn()  # the first one only warms up
        results = rounds({name: ledger.turn for name, ledger in ledgers.items()}, number)
    least = next(iter(ledgers))
    figures = []
    for name in list(ledgers)[1:]:
        for what in ("claims", "marks", "fan_out"):
            value = lambda turn, what=what: getattr(turn, what)  # noqa: E731
            beside = f"{spread(results, least, value)} a second at {least}; here {spread(results, name, value)}"
            figures.append(
                Figure(
                    name=f"{engine}: {what.replace('_', '-')} at {name} rows, {least} = 1",
                    value=ratio(results, name, least, value),
                    unit="×",
                    bar=at_least(0.85) if what != "fan_out" else None,
                    against=beside,
                )
            )
    return figures


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
