"""Which lane a message takes, and which media it goes to. Pure decisions."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from broadcaster.delivery import Lane
from broadcaster.message import Message, MessageType


def lane_of(message: Message) -> Lane:
    """Alerts, and every correction of whatever kind, go ahead of all other traffic."""
    if message.is_alert or message.message_type is not MessageType.ALERT:
        return Lane.PRIORITY
    return Lane.ROUTINE


@dataclass(frozen=True, kw_only=True)
class Route:
    """Where a message goes. Nothing that it names is dropped in silence."""

    channels: tuple[str, ...]
    by_hand: tuple[str, ...]
    unknown: tuple[str, ...]


def route(message_channels: Collection[str], available: Collection[str], by_hand: Collection[str]) -> Route:
    wanted = tuple(dict.fromkeys(message_channels))
    return Route(
        channels=tuple(name for name in wanted if name in available),
        by_hand=tuple(name for name in wanted if name not in available and name in by_hand),
        unknown=tuple(name for name in wanted if name not in available and name not in by_hand),
    )
