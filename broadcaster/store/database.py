"""The engine and its transactions.

SQLite is the default: one file in WAL mode, `synchronous=FULL`, so that what was answered is on the disk. PostgreSQL by
a URL. Work runs in threads, one whole transaction at a time: a hop per transaction costs less than a hop per statement,
and the event loop never waits for a disk.

Why BEGIN IMMEDIATE: under SQLite's deferred transactions, readers that become writers fail at once with "database is
locked", whatever the timeout. Reads have connections of their own that never take the write lock.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from broadcaster.problems import refuse
from broadcaster.store.groupcommit import GroupCommit

__all__ = ["Connection", "Database", "StoreError"]

P = ParamSpec("P")
T = TypeVar("T")

StoreError = SQLAlchemyError
"""What a store function may raise when the database does not answer."""

REVISION = "0006"
"""The newest of `migrations/versions`: what a role that does not migrate expects to find."""

BUSY_MS = 30_000
ASK_AGAIN_S = 0.001
THREADS = 4


class Database:
    def __init__(self, url: str) -> None:
        """Raises Refused with a sentence for a URL that is none of ours."""
        self.url = _checked(url)
        self.is_sqlite = self.url.startswith("sqlite")
        if self.is_sqlite:
            _make_file(self.url)
        self._writer = _engine(self.url, writes=True)
        self._reader = _engine(self.url, writes=False) if self.is_sqlite else self._writer
        self._write_turn = threading.Lock() if self.is_sqlite else None
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="store")
        self._together = GroupCommit(self.write) if self.is_sqlite else None

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction: all of it or nothing."""
        # SQLite's own waiting is unfair and sleeps up to 100 ms; between threads of one process a lock is neither.
        if self._write_turn is None:
            with self._writer.begin() as connection:
                yield connection
            return
        with self._write_turn, self._writer.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view; nothing can be changed through it on SQLite."""
        with self._reader.connect() as connection:
            yield connection

    async def writes(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(connection, …)` in a thread: all of it is written or nothing."""
        return await self._writes(lambda connection: work(connection, *args, **kwargs), is_urgent=False)

    async def writes_next(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same, before whatever else waits to be written in this process."""
        return await self._writes(lambda connection: work(connection, *args, **kwargs), is_urgent=True)

    async def _writes(self, work: Callable[[Connection], T], *, is_urgent: bool) -> T:
        if self._together is not None:
            return await asyncio.wrap_future(self._together.submit(work, is_urgent=is_urgent))

        def writing() -> T:
            with self.write() as connection:
                return work(connection)

        return await self._in_thread(writing)

    async def reads(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        def reading() -> T:
            with self.read() as connection:
                return work(connection, *args, **kwargs)

        return await self._in_thread(reading)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        if self._together is not None:
            self._together.close()
        self._threads.shutdown(wait=True)
        self._writer.dispose()
        self._reader.dispose()

    # Migrations

    def upgrade(self) -> None:
        """Bring the tables to this version. Raises Refused when the database cannot be reached or changed."""
        from alembic import command  # 9 MB that a sender has no use for

        config = _alembic()
        try:
            with self._writer.connect() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                connection.commit()
        except OperationalError as error:
            raise _unreachable(self.url, error) from None

    def is_current(self) -> bool:
        with self._reader.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return False
            at = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
        return at == [REVISION]


def _checked(url: str) -> str:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise refuse(
            "BROADCASTER_DATABASE_URL",
            ja="データベースの場所を読めません。sqlite:///ファイル か postgresql://利用者@ホスト/名前 の形で書いてください。",
            en="The database URL cannot be read; write sqlite:///FILE or postgresql://USER@HOST/NAME.",
        ) from None
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise refuse(
            "BROADCASTER_DATABASE_URL",
            ja=f"「{parsed.get_backend_name()}」は使えません。SQLite か PostgreSQL を使ってください。",
            en=f"{parsed.get_backend_name()!r} is not supported; use SQLite or PostgreSQL.",
        )
    if parsed.get_backend_name() == "postgresql" and parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed.render_as_string(hide_password=False)


def _make_file(url: str) -> None:
    """The file and its folder are for the service alone, its companions `-wal` and `-shm` too."""
    path = Path(make_url(url).database or "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise refuse(
            "BROADCASTER_HOME",
            ja=f"{path} に書けません（{error.strerror}）。置き場の権限と空きを確かめてください。",
            en=f"{path} cannot be written ({error.strerror}); check permissions and space.",
        ) from None


def _engine(url: str, *, writes: bool) -> Engine:
    if not url.startswith("sqlite"):
        return _postgresql_engine(url)
    engine = create_engine(
        url,
        hide_parameters=True,  # parameters are residents' addresses
        paramstyle="named",  # as `store/prepared.py` gives them
        poolclass=QueuePool,
        pool_size=THREADS,
        connect_args={"check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we begin transactions ourselves
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            f"busy_timeout={0 if writes else BUSY_MS}",  # a writer waits in its own way, below
            "foreign_keys=ON",
            "secure_delete=ON",
            "cache_size=-8000",
            "mmap_size=0",
            *(() if writes else ("query_only=ON",)),
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if writes:
            _take_lock(connection)
        else:
            connection.exec_driver_sql("BEGIN")

    return engine


def _take_lock(connection: Connection) -> None:
    """BEGIN IMMEDIATE, asked for every millisecond.

    SQLite's own waiting sleeps longer and longer, up to 100 ms, and misses the moments in which the lock is free: an
    emergency would wait behind a bulk sender that gives it up a hundred times a second. Raises StoreError when it was
    held for all of BUSY_MS."""
    cursor = connection.connection.cursor()
    until = time.monotonic() + BUSY_MS / 1000
    while time.monotonic() < until:
        try:
            cursor.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                break
        else:
            return
        time.sleep(ASK_AGAIN_S)
    connection.exec_driver_sql("BEGIN IMMEDIATE")  # once more, for an error with SQLAlchemy's name


def _postgresql_engine(url: str) -> Engine:
    engine = create_engine(url, hide_parameters=True, pool_size=THREADS + 2, pool_pre_ping=True)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        # Every statement here has its index. Statistics that are taken while a small list is being sent make the planner
        # read the whole of it for each letter (400 ms for a batch of 100 was seen), and compiling costs more than it gives.
        with connection.cursor() as cursor:
            cursor.execute("SET enable_seqscan = off; SET jit = off")
        connection.commit()

    return engine


def _alembic() -> Any:
    """Alembic's configuration; it is loaded where tables are changed and nowhere else."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _unreachable(url: str, error: DBAPIError) -> Exception:
    name = make_url(url).render_as_string(hide_password=True)
    reason = str(error.orig).strip().splitlines()[0] if error.orig else "no answer"
    return refuse(
        "BROADCASTER_DATABASE_URL",
        ja=f"データベース {name} を使えません（{reason}）。動いているか、場所と権限を確かめてください。",
        en=f"The database {name} cannot be used ({reason}); check that it runs, its address and rights.",
    )
