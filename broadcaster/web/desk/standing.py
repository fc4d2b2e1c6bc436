"""What became of a message, medium by medium, in the words of the pages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from broadcaster.delivery import UNSETTLED, Counts, State
from broadcaster.message import Message
from broadcaster.store import deliveries
from broadcaster.store.database import Connection
from broadcaster.store.deliveries import MAILING, Delivery
from broadcaster.store.issues import Issue

NOBODY = "nobody"
"""A medium whose every mailing has no reader: nothing was delivered, and nothing is wanting."""

DONE = ("delivered", "accepted")


@dataclass(frozen=True, kw_only=True)
class Medium:
    """What became of a message on one medium: the worst of its parts, and their numbers together."""

    channel: str
    state: str  # a key of `states_delivery`, or NOBODY
    counts: Counts
    deliveries: tuple[Delivery, ...]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One message in force, and how far it has come."""

    message: Message
    sent_at: datetime
    media: tuple[Medium, ...]

    def number(self, *states: str) -> int:
        return sum(medium.state in states for medium in self.media)


def standing(connection: Connection, issue: Issue) -> Standing:
    found = deliveries.of_issue(connection, issue.id)
    return Standing(message=issue.message, sent_at=issue.sent_at, media=media_of(found))


def media_of(found: Iterable[Delivery]) -> tuple[Medium, ...]:
    """Deliveries by their medium. Mailings without a reader and boards that were renewed later say nothing of the act."""
    by_channel: dict[str, list[Delivery]] = {}
    for delivery in found:
        if delivery.kind == MAILING and not delivery.counts.total and delivery.state not in UNSETTLED:
            by_channel.setdefault(delivery.channel, [])
            continue
        by_channel.setdefault(delivery.channel, []).append(delivery)
    return tuple(
        Medium(channel=channel, state=_worst(parts), counts=_together(parts), deliveries=tuple(parts))
        for channel, parts in by_channel.items()
    )


def _worst(parts: list[Delivery]) -> str:
    """The word for a medium: what still has to be looked at comes before what is done."""
    if not parts:
        return NOBODY
    states = {part.state for part in parts}
    if any(part.state in UNSETTLED and part.attempts > 1 for part in parts if part.kind != MAILING):
        return "retrying"
    if states & UNSETTLED:
        return "pending"
    for state, word in ((State.UNKNOWN, "unknown"), (State.FAILED, "failed"), (State.STOPPED, "stopped")):
        if state in states:
            return word
    if any(part.counts.failed or part.counts.unknown for part in parts):
        return "failed" if any(part.counts.failed for part in parts) else "unknown"
    return "accepted" if any(part.kind == MAILING for part in parts) else "delivered"


def _together(parts: list[Delivery]) -> Counts:
    return sum((part.counts for part in parts if part.kind == MAILING), Counts())
