"""Deliveries: how one ends, and how often it is tried.

Four ends, not two: *delivered* (or accepted), *failed* for good, *unknown*, and *stopped* by a later update or cancel.
Whatever is still under way counts as not yet.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

from broadcaster.clock import hours, minutes, seconds


class Lane(IntEnum):
    """Lower goes first. The numbers stand in the database and in its indexes."""

    PRIORITY = 0
    ROUTINE = 1


class State(IntEnum):
    """Of a delivery, and of one reader's mail. The numbers stand in partial indexes: append, never renumber."""

    QUEUED = 0
    IN_FLIGHT = 1
    DELIVERED = 2
    FAILED = 3
    UNKNOWN = 4
    STOPPED = 5


UNSETTLED = frozenset({State.QUEUED, State.IN_FLIGHT})
SETTLED = frozenset(State) - UNSETTLED


_DICE = random.Random()  # noqa: S311 - jitter is no secret


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Doubling waits with jitter, until the attempts are used up or the message has expired."""

    first_wait: timedelta
    longest_wait: timedelta
    attempts: int | None  # None: until it expires or is superseded

    def wait_after(self, attempt: int, dice: random.Random | None = None) -> timedelta:
        """How long to wait after the `attempt`-th try (1, 2, …): 50–100 % of the doubled time.

        The jitter only shortens, so that `longest_wait` is a promise.
        """
        doubled: timedelta = self.first_wait * 2 ** min(attempt - 1, 20)
        share = (dice or _DICE).uniform(0.5, 1.0)
        return min(doubled, self.longest_wait) * share

    def is_spent(self, attempt: int) -> bool:
        return self.attempts is not None and attempt >= self.attempts


RETRY = {
    # An alert is tried until it expires or is superseded: giving up on it is a person's decision.
    Lane.PRIORITY: RetryPolicy(first_wait=seconds(1), longest_wait=seconds(15), attempts=None),
    Lane.ROUTINE: RetryPolicy(first_wait=seconds(30), longest_wait=minutes(30), attempts=8),
}

RETRY_BOARD = {
    # A board that was not written shows what is over, or lacks an alert, until it has been written: never given up.
    Lane.PRIORITY: RETRY[Lane.PRIORITY],
    Lane.ROUTINE: RetryPolicy(first_wait=seconds(5), longest_wait=minutes(2), attempts=None),
}

MOST_TOLD_WAIT = {Lane.PRIORITY: minutes(15), Lane.ROUTINE: hours(25)}
"""A medium may say when to come back, and be wrong: an alert asks again within one of its usual windows, the rest
within a day."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Where the recipients of a delivery stand. `settled + unsettled = total`, always."""

    total: int = 0
    queued: int = 0
    in_flight: int = 0
    delivered: int = 0
    failed: int = 0
    unknown: int = 0
    stopped: int = 0

    @property
    def settled(self) -> int:
        return self.delivered + self.failed + self.unknown + self.stopped

    @property
    def adds_up(self) -> bool:
        return self.settled + self.queued + self.in_flight == self.total

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__})


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What became of one attempt, before it is written down."""

    state: State
    detail: str = ""
    evidence: str = ""
    retry_at: datetime | None = None
    is_in_doubt: bool = False  # it may have gone out: look before the next try

    def __post_init__(self) -> None:
        """What a medium answers is anybody's text; PostgreSQL keeps no null characters and nothing keeps half a pair of
        surrogates, and an answer that cannot be written down would be asked for again for ever."""
        for name in ("detail", "evidence"):
            object.__setattr__(self, name, writable(getattr(self, name)))


MOST_DETAIL = 2_000


def writable(text: str) -> str:
    """As every database can keep it."""
    return text.encode("utf-8", "replace").decode().replace("\0", "�")[:MOST_DETAIL]


@dataclass(kw_only=True)
class Breaker:
    """Spares a medium that keeps failing, and everybody who would wait behind it.

    After `patience` failures in a row it opens, for doubling times; one try is let through after each. It never holds
    back the priority lane's own retries, which are bounded by their policy. A clock that is set back closes it: a rest
    must not last as long as the clock was wrong.
    """

    patience: int = 5
    first_rest: timedelta = timedelta(seconds=5)
    longest_rest: timedelta = timedelta(minutes=2)
    failures: int = 0
    opened_at: datetime | None = None
    opens_until: datetime | None = None

    def is_open(self, now: datetime) -> bool:
        return self.opened_at is not None and self.opens_until is not None and self.opened_at <= now < self.opens_until

    def succeeded(self) -> None:
        self.failures, self.opened_at, self.opens_until = 0, None, None

    def failed(self, now: datetime, *, rest: timedelta | None = None) -> None:
        self.failures += 1
        over = self.failures - self.patience
        if rest is None and over >= 0:
            rest = min(self.first_rest * 2 ** min(over, 10), self.longest_rest)
        if rest is not None:
            self.opened_at, self.opens_until = now, now + rest
