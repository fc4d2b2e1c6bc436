"""The readers' list in and out of the store: `readers.py` judges the rows, this keeps and gives them.

Read twice: first whole, so that a list that turns out broken leaves nothing behind; then written in batches, so that a
million rows never hold the database for long.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from broadcaster import readers
from broadcaster.app import App
from broadcaster.problems import refuse
from broadcaster.readers import ENCODINGS, Reader, RowRefused
from broadcaster.store import audit, subscribers
from broadcaster.store.audit import Actor
from broadcaster.store.subscribers import Subscriber

Progress = Callable[[str, int], None]
"""Told now and then: `reading` or `writing`, and how many rows so far."""


def bring_in(
    app: App, file: Path, *, encoding: str, is_drill: bool, actor: Actor, progress: Progress
) -> tuple[int, list[RowRefused]]:
    """How many readers were written, and the rows that were refused. Raises Refused for a file that is no such list."""
    if encoding not in ENCODINGS:
        raise refuse("--encoding", ja="utf-8 か cp932 です。", en="--encoding is utf-8 or cp932.")
    refused = [row for row in _rows(app, file, encoding, progress, "reading") if isinstance(row, RowRefused)]
    accepted = (_columns(row) for row in _rows(app, file, encoding, progress, "writing") if isinstance(row, Reader))
    written = 0
    for batch in subscribers.batches(accepted):
        with app.database.write() as connection:
            written += subscribers.put(connection, batch, is_drill=is_drill)
    with app.database.write() as connection:
        audit.write(
            connection,
            actor,
            "subscribers.imported",
            file.name,
            at=app.clock.now(),
            written=written,
            refused=len(refused),
        )
    return written, refused


def _rows(app: App, file: Path, encoding: str, progress: Progress, step: str) -> Iterator[Reader | RowRefused]:
    try:
        stream = file.open("rb")
    except OSError as error:
        raise refuse(
            str(file), ja=f"{file} を読めません（{error.strerror}）。", en=f"{file} cannot be read ({error.strerror})."
        ) from None
    with stream:
        for number, row in enumerate(
            readers.read_list(stream, app.settings.ward, encoding, now=app.clock.now()), start=1
        ):
            if number % 1_000 == 0:
                progress(step, number)
            yield row


def _columns(reader: Reader) -> dict[str, Any]:
    return {
        "email": reader.address,
        "domain": reader.domain,
        "language": reader.language,
        "format": reader.format,
        "topics": reader.topic_bits,
        "districts": reader.district_bits,
        "frequency": reader.frequency,
        "registered_at": reader.registered_at,
        "method": reader.method,
        "state": reader.state,
    }


def take_out(app: App, file: Path, *, is_drill: bool, actor: Actor) -> int:
    """Write everybody into a new file that only its owner can read; gives how many. Never overwrites."""
    try:
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except OSError as error:
        raise refuse(
            str(file),
            ja=f"{file} に書けません（{error.strerror}）。",
            en=f"{file} cannot be written ({error.strerror}).",
        ) from None
    count = -1  # the heading
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as target, app.database.read() as connection:
        everyone = (_reader(row) for row in subscribers.everyone(connection, is_drill=is_drill))
        for line in readers.write_list(everyone, app.settings.ward):
            target.write(line)
            count += 1
    with app.database.write() as connection:
        audit.write(connection, actor, "subscribers.exported", file.name, at=app.clock.now(), count=count)
    return count


def _reader(row: Subscriber) -> Reader:
    return Reader(
        address=row.email,
        domain=row.domain,
        language=row.language,
        format=row.format,
        topic_bits=row.topics,
        district_bits=row.districts,
        frequency=row.frequency,
        registered_at=row.registered_at,
        method=row.method,
        state=row.state,
    )
