"""What became of a message, from the ledger: each medium with its counts, times and evidence. No address in it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from broadcaster.clock import stamp
from broadcaster.delivery import Counts, State
from broadcaster.problems import refuse
from broadcaster.store import deliveries, issues, messages, recipients
from broadcaster.store.database import Connection
from broadcaster.store.deliveries import MAILING, Delivery


def of(connection: Connection, identifier: str) -> dict[str, Any]:
    """The report as JSON values. Raises Refused for an unknown identifier."""
    kept = messages.get(connection, identifier)
    if kept is None:
        raise refuse(
            "id", ja=f"「{identifier}」というお知らせはありません。", en=f"There is no message {identifier!r}."
        )
    issue = issues.get(connection, identifier)
    rows = [_row(connection, delivery) for delivery in deliveries.of_issue(connection, issue.id)] if issue else []
    mailings = [Counts(**row["counts"]) for row in rows if row["kind"] == MAILING]
    message = kept.message
    return {
        "identifier": identifier,
        "state": kept.state.value,
        "mode": message.mode.value,
        "headline": message.info.headline,
        "effective_at": stamp(message.effective_at),
        "expires_at": stamp(message.expires_at),
        "sent_at": _at(issue.sent_at) if issue else None,
        "ended_by": issue.ended_by if issue else None,
        "references": [reference.identifier for reference in message.references],
        "counts": vars_of(sum(mailings, Counts())),
        "deliveries": rows,
    }


def _row(connection: Connection, delivery: Delivery) -> dict[str, Any]:
    counts = delivery.counts
    if delivery.kind == MAILING and delivery.state is State.QUEUED:
        counts = recipients.counted(connection, delivery.id)  # while it runs: those in flight told apart
    return {
        "key": delivery.key,
        "channel": delivery.channel,
        "part": delivery.part,
        "kind": delivery.kind,
        "state": delivery.state.name.lower(),
        "attempts": delivery.attempts,
        "created_at": _at(delivery.created_at),
        "first_attempt_at": _at(delivery.first_attempt_at),
        "settled_at": _at(delivery.settled_at),
        "evidence": delivery.evidence,
        "detail": delivery.detail,
        "counts": vars_of(counts),
    }


def vars_of(counts: Counts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in Counts.__dataclass_fields__}


def _at(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
