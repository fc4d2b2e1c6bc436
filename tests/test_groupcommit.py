"""Works that wait together are written together, and none of them suffers from another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError, OperationalError

from broadcaster.store.database import Database
from broadcaster.store.groupcommit import GroupCommit


class Store:
    """A table of one column, and a writer that can be kept busy while works gather behind it."""

    def __init__(self, file: Path) -> None:
        self.database = Database(f"sqlite:///{file}")
        with self.database.write() as connection:
            connection.execute(text("CREATE TABLE t (n INTEGER PRIMARY KEY)"))
        self.transactions = 0
        self.fails_at_the_end = False
        self.together = GroupCommit(self._transaction)
        self._busy = threading.Event()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        self.transactions += 1
        with self.database.write() as connection:
            yield connection
            if self.fails_at_the_end:
                raise OperationalError("COMMIT", {}, Exception("disk full"))

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Whatever is submitted meanwhile waits; it is written when this ends."""
        held = threading.Event()

        def holds(connection: Connection) -> None:
            held.set()
            self._busy.wait(10)

        first = self.together.submit(holds, is_urgent=True)
        assert held.wait(10)
        yield
        self._busy.set()
        first.exception(10)

    def adds(self, n: int) -> Future[int]:
        def add(connection: Connection) -> int:
            connection.execute(text("INSERT INTO t VALUES (:n)"), {"n": n})
            return n

        return self.together.submit(add, is_urgent=False)

    def rows(self) -> list[int]:
        with self.database.read() as connection:
            return list(connection.execute(text("SELECT n FROM t ORDER BY n")).scalars())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "t.sqlite3")
    yield store
    store.together.close()
    store.database.close()


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broadcaster.store.groupcommit.LONGEST_S", 30.0)


def test_works_that_waited_share_one_transaction(store: Store) -> None:
    with store.busy():
        works = [store.adds(n) for n in range(5)]
    assert [work.result(10) for work in works] == [0, 1, 2, 3, 4]
    assert store.rows() == [0, 1, 2, 3, 4]
    assert store.transactions <= 2


def test_one_that_fails_takes_no_other_with_it(store: Store) -> None:
    with store.busy():
        works = [store.adds(1), store.adds(1), store.adds(2)]
    assert works[0].result(10) == 1
    with pytest.raises(IntegrityError):
        works[1].result(10)
    assert works[2].result(10) == 2
    assert store.rows() == [1, 2]


def test_what_a_failing_work_had_written_is_gone_and_the_rest_stands(store: Store) -> None:
    def half(connection: Connection) -> None:
        connection.execute(text("INSERT INTO t VALUES (7)"))
        raise RuntimeError("a mistake of ours")

    with store.busy():
        before = store.adds(1)
        failing = store.together.submit(half, is_urgent=False)
        after = store.adds(2)
    with pytest.raises(RuntimeError):
        failing.result(10)
    assert (before.result(10), after.result(10)) == (1, 2)
    assert store.rows() == [1, 2]


def test_of_a_transaction_that_the_database_refuses_nothing_stands_and_everybody_is_told(store: Store) -> None:
    store.fails_at_the_end = True
    works = [store.adds(n) for n in range(3)]
    for work in works:
        with pytest.raises(OperationalError):
            work.result(10)
    assert store.rows() == []
    store.fails_at_the_end = False
    assert store.adds(9).result(10) == 9


def test_a_fault_of_the_database_in_one_work_is_one_for_all(store: Store) -> None:
    def on_a_broken_disk(connection: Connection) -> None:
        raise OperationalError("INSERT", {}, Exception("disk I/O error"))

    with store.busy():
        works: list[Future[Any]] = [store.adds(1), store.together.submit(on_a_broken_disk, is_urgent=False)]
    for work in works:
        with pytest.raises(OperationalError):
            work.result(10)
    assert store.rows() == []


def test_what_is_urgent_is_written_first(store: Store) -> None:
    order: list[str] = []

    def noting(name: str) -> Callable[[Connection], None]:
        return lambda _: order.append(name)

    with store.busy():
        works = [
            store.together.submit(noting(name), is_urgent=name == "urgent") for name in ("first", "second", "urgent")
        ]
    for work in works:
        work.result(10)
    assert order == ["urgent", "first", "second"]


def test_what_nobody_waits_for_any_more_is_not_begun(store: Store) -> None:
    with store.busy():
        given_up, kept = store.adds(1), store.adds(2)
        assert given_up.cancel()
    assert kept.result(10) == 2
    assert store.rows() == [2]


def test_closing_writes_what_waits(store: Store) -> None:
    with store.busy():
        works = [store.adds(n) for n in range(3)]
    store.together.close()
    assert all(work.done() for work in works)
    assert store.rows() == [0, 1, 2]
