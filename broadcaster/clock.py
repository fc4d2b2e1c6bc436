"""Time, always aware, from one place.

Instants are kept in UTC and spoken in the ward's zone. Names that end in `_at` are instants.

Why a clock of our own and not `datetime.now()`: a schedule of three months is tested in a second by moving a frozen
clock, and an architecture test can then forbid every other source of time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

JST = ZoneInfo("Asia/Tokyo")  # no daylight saving: always UTC+9


class Clock(Protocol):
    def now(self) -> datetime:
        """The present instant, aware, in UTC."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


@dataclass
class FrozenClock:
    """Stands still until told to move. Used by tests and replays."""

    at: datetime
    _moves: int = field(default=0, repr=False)

    def now(self) -> datetime:
        return self.at.astimezone(UTC)

    def move(self, by: timedelta) -> None:
        self.at += by
        self._moves += 1

    def move_to(self, at: datetime) -> None:
        self.at = at
        self._moves += 1


def seconds(n: float) -> timedelta:
    return timedelta(seconds=n)


def minutes(n: float) -> timedelta:
    return timedelta(minutes=n)


def hours(n: float) -> timedelta:
    return timedelta(hours=n)


def aware(instant: datetime) -> datetime:
    """The same instant; a naive one is refused, because nobody knows which zone it meant."""
    if instant.tzinfo is None:
        raise ValueError("an instant needs its zone")
    return instant


def local(instant: datetime) -> datetime:
    return aware(instant).astimezone(JST)


def stamp(instant: datetime) -> str:
    """RFC 3339 in the ward's zone, whole seconds: CAP 1.2 §3.2.1 wants the offset written out, never `Z`."""
    return local(instant).replace(microsecond=0).isoformat()


def parse_instant(text: str) -> datetime:
    return aware(datetime.fromisoformat(text))
