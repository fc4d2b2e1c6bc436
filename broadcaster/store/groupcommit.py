"""Group commit: works that wait while another is written share one transaction, and wait for the disk once.

SQLite writes one transaction at a time, and each waits for the disk. An alert begins with half a dozen short works — every
medium takes its part in hand — and its first letter would wait for the disk as many times.

The first work of a transaction is alone in it until it is done; each that joins is a savepoint, so one that fails takes
no other with it. Only a fault of the database itself, a full disk, fails all of them; then nothing of the transaction
stands, and whoever asked is told so.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

T = TypeVar("T")

LONGEST_S = 0.005
"""After so long no further work is taken into a transaction: other processes wait for the lock."""


@dataclass(eq=False)
class _Work(Generic[T]):
    run: Callable[[Connection], T]
    future: Future[T] = field(default_factory=Future)
    result: Any = None
    error: Exception | None = None

    def joins(self, connection: Connection) -> None:
        """Raises what means that the whole transaction is lost."""
        try:
            with connection.begin_nested():
                self.result = self.run(connection)
        except OperationalError:
            raise
        except Exception as error:  # told to whoever asked; the others go on
            self.error = error

    def answer(self) -> None:
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class GroupCommit:
    """One thread, its connection and caches warm."""

    def __init__(self, transaction: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._transaction = transaction
        self._waiting: deque[_Work[Any]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write")

    def submit(self, run: Callable[[Connection], T], *, is_urgent: bool) -> Future[T]:
        """The answer is there when the transaction is on the disk. What is urgent goes before everything that waits."""
        work = _Work(run)
        if is_urgent:
            self._waiting.appendleft(work)
        else:
            self._waiting.append(work)
        self._thread.submit(self._write)
        return work.future

    def close(self) -> None:
        """When everything that waits has been written."""
        self._thread.shutdown(wait=True)

    def _write(self) -> None:
        if (first := self._next()) is None:
            return  # it went with one before it
        works = [first]
        try:
            with self._transaction() as connection:
                until = time.monotonic() + LONGEST_S
                first.result = first.run(connection)  # fails by itself: with no savepoint, which costs as much as it
                while time.monotonic() < until and (work := self._next()) is not None:
                    works.append(work)
                    work.joins(connection)
        except BaseException as error:  # none of it stands
            for work in works:
                work.future.set_exception(error)
        else:
            for work in works:
                work.answer()

    def _next(self) -> _Work[Any] | None:
        while self._waiting:
            work = self._waiting.popleft()
            if work.future.set_running_or_notify_cancel():
                return work
        return None
