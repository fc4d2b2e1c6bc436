"""Boards: everything in force, composed afresh into bytes that can be served and filed.

The web process keeps them in memory and the sender writes them to the public folder; both compose from the same frozen
issues with the same pure functions, so their bytes and tags are equal without either waiting for the other. A board
therefore still changes when the sender is down, and an alert leaves it at its expiry without anybody's help.
"""

from __future__ import annotations

import os
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


class PublicFolder:
    """Pages as files for nginx or a CDN. A reader sees the old bytes or the new ones, never half."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tags: dict[str, str] = {}

    def put(self, page: Page) -> None:
        """Raises OSError when it cannot be written."""
        if self._tags.get(page.path) == page.etag:
            return
        target = self._folder / page.path
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        partial.write_bytes(page.body)
        os.replace(partial, target)
        self._tags[page.path] = page.etag
