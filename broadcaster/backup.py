"""A copy of the database while it runs, and back. What was restored starts frozen: a copy is of yesterday, and must not
send yesterday's messages again.

For PostgreSQL the ward's own tools are better (pg_dump, WAL archive): it is refused here with that sentence.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path

from sqlalchemy import make_url

from broadcaster.problems import Refused, refuse
from broadcaster.store import meta
from broadcaster.store.database import Connection, Database

FROZEN = "frozen"


def save(database: Database, target: Path, at: datetime) -> None:
    """SQLite's own online copy into a new file that only its owner can read."""
    source = _file_of(database.url)
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        raise refuse(
            str(target),
            ja=f"{target} に書けません（{error.strerror}）。",
            en=f"{target} cannot be written ({error.strerror}).",
        ) from None
    with closing(sqlite3.connect(source)) as running, closing(sqlite3.connect(target)) as copy:
        running.backup(copy, pages=2_000, sleep=0.001)
        copy.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('saved_at', ?)", (at.isoformat(),))
        copy.commit()
        copy.execute("PRAGMA journal_mode=DELETE")


def restore(url: str, source: Path) -> None:
    """Check the copy whole before anything is touched; then put it in place, frozen."""
    target = Path(_file_of(url))
    if not source.is_file():
        raise refuse(str(source), ja=f"{source} がありません。", en=f"There is no {source}.")
    _refuse_broken(source)
    if target.exists() and _is_in_use(target):
        raise refuse(
            str(target), ja="動いている間は戻せません。先に止めてください。", en="Stop the service before restoring."
        )
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = target.with_suffix(".restoring")
    with (
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as copy,
        closing(sqlite3.connect(partial)) as fresh,
    ):
        copy.backup(fresh)
        fresh.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, '1')", (FROZEN,))
        fresh.commit()
    partial.chmod(0o600)
    for companion in ("-wal", "-shm"):
        Path(f"{target}{companion}").unlink(missing_ok=True)
    os.replace(partial, target)


def _refuse_broken(source: Path) -> None:
    try:
        with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as copy:
            sound = copy.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            copy.execute("SELECT 1 FROM messages LIMIT 1")
    except sqlite3.Error:
        sound = False
    if not sound:
        raise refuse(
            str(source),
            ja=f"{source} は写しとして読めません。戻していません。",
            en=f"{source} is no sound copy; nothing was changed.",
        )


def _is_in_use(target: Path) -> bool:
    try:
        with closing(sqlite3.connect(target, timeout=0)) as connection:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError:
        return True
    return False


def is_frozen(connection: Connection) -> bool:
    return meta.get(connection, FROZEN) == "1"


def release(connection: Connection) -> None:
    """Begin to send again. A person decides this."""
    meta.put(connection, FROZEN, "0")


def _file_of(url: str) -> str:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        raise Refused(
            refuse(
                "database",
                ja="PostgreSQL の写しは pg_dump と WAL の保管で取ってください（docs/operation.md）。",
                en="Back PostgreSQL up with pg_dump and a WAL archive (docs/operation.md).",
            ).problems
        )
    return str(parsed.database)
