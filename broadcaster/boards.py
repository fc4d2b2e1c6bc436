"""Boards: everything in force, composed afresh into bytes that can be served and filed.

The web process keeps them in memory and the sender writes them to the public folder; both compose from the same frozen
issues with the same pure functions, so their bytes and tags are equal without either waiting for the other. A board
therefore still changes when the sender is down, and an alert leaves it at its expiry without anybody's help.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from broadcaster.channel import Board, Page
from broadcaster.drill import carries_mark
from broadcaster.message import Message, Mode
from broadcaster.store import issues
from broadcaster.store.database import Connection


class DrillMarkMissing(RuntimeError):
    """An output of a drill without 訓練: it does not leave."""


def in_force(connection: Connection, mode: Mode, at: datetime) -> list[Message]:
    return [issue.message for issue in issues.in_force(connection, mode, at)]


def shown_on(board: Board, messages: Iterable[Message]) -> list[Message]:
    """What belongs on this board. That a notice was taken back is told to those who have it, not to everybody."""
    return [
        message
        for message in messages
        if (board.shows_all or board.name in message.channels) and (message.is_alert or not message.is_ended)
    ]


def pages_of(board: Board, messages: Sequence[Message], at: datetime) -> Sequence[Page]:
    """What this board shows. Raises DrillMarkMissing for a drill page that could be taken for the real thing."""
    pages = board.compose(shown_on(board, messages), at)
    if board.mode is Mode.DRILL:
        for page in pages:
            if not carries_mark(page.body.decode("utf-8")):
                raise DrillMarkMissing(f"{board.name}: {page.path}")
    return pages


def next_change_at(messages: Iterable[Message], at: datetime) -> datetime | None:
    """The next instant at which something leaves the boards by itself."""
    return min((message.expires_at for message in messages if message.expires_at > at), default=None)


def public_folder(home: Path, mode: Mode) -> Path:
    return home / ("public" if mode is Mode.LIVE else "public-drill")


LEFT_BEHIND_S = 60.0
"""A half page that is so old is on its way to nowhere: one takes milliseconds to write."""

_PARTIAL = re.compile(r"\..+\.\d+")


class PublicFolder:
    """Pages as files for nginx or a CDN. A reader sees the old bytes or the new ones, never half.

    What stands there already is not written again; what another process has put there meanwhile is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._put: dict[str, tuple[str, tuple[int, int, int]]] = {}  # by path: the tag, and the file as it was left
        self._tidied: set[Path] = set()

    def put(self, page: Page) -> None:
        """Raises OSError when it cannot be written."""
        target = self._folder / page.path
        if self._put.get(page.path) == (page.etag, _look_of(target)):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        self._tidy(target.parent)
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            partial.write_bytes(page.body)
            left = _look_of(partial)
            os.replace(partial, target)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()  # half a page takes room on a disk that may be full
            raise
        self._put[page.path] = (page.etag, left)

    def _tidy(self, folder: Path) -> None:
        """Once for each folder: take away half pages that a killed process has left. They have long been written anew."""
        if folder in self._tidied:
            return
        self._tidied.add(folder)
        before = time.time() - LEFT_BEHIND_S
        for path in folder.glob(".*"):
            with contextlib.suppress(FileNotFoundError):  # another process may be tidying too
                if _PARTIAL.fullmatch(path.name) and path.stat().st_mtime < before:
                    path.unlink()


def _look_of(file: Path) -> tuple[int, int, int]:
    """What tells one file from another at the same place; zeros when there is none."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return 0, 0, 0
    return status.st_ino, status.st_size, status.st_mtime_ns
