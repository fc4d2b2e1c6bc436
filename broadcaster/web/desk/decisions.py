"""What failed for good, and what nobody knows the end of: a person looks at the evidence and decides. Whoever is second is
told who was first and what they decided; nothing is done twice.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from starlette.responses import Response

from broadcaster.clock import local
from broadcaster.delivery import State
from broadcaster.problems import Refused
from broadcaster.roles import Right, who_may
from broadcaster.store import audit, deliveries, issues
from broadcaster.store.database import Connection
from broadcaster.store.deliveries import BOARD, MAILING, PUSH, Attempt, Delivery
from broadcaster.store.issues import Issue
from broadcaster.store.messages import ChangedMeanwhile
from broadcaster.store.tables import microseconds
from broadcaster.web.desk.sent import evidence_of, not_done, part_name
from broadcaster.web.desk.visit import PATH, Desk, NotThere, Visit
from broadcaster.web.desk.wording import act_sentence, ending_word

HERE = f"{PATH}/decisions"
MOST = 50
MOST_TRIES = 5


def register(desk: Desk) -> None:
    decisions = Decisions(desk)
    desk.get("/decisions", Right.READ, decisions.show)
    desk.post("/decisions/{id}", Right.DECIDE, decisions.decide)


@dataclass(frozen=True, kw_only=True)
class ToDecide:
    """One delivery with everything that is known about it."""

    delivery: Delivery
    issue: Issue
    tries: tuple[Attempt, ...]  # the newest last
    goes_with: bool  # a later part of a thread: it goes with the one before it
    may_go_again: bool

    @property
    def seen(self) -> str:
        """How it stood when the page was made."""
        return seen_of(self.delivery)

    @property
    def text(self) -> str:
        payload = self.delivery.payload
        return str(payload.content.get("text", "")) if payload and self.delivery.kind == PUSH else ""

    @property
    def letters(self) -> int:
        return self.delivery.counts.failed + self.delivery.counts.unknown

    @property
    def may_be_deemed(self) -> bool:
        """Letters that a server refused were not delivered, whoever says so."""
        return self.delivery.kind != MAILING or bool(self.delivery.counts.unknown)


def seen_of(delivery: Delivery) -> str:
    settled = microseconds(delivery.settled_at) if delivery.settled_at else 0
    return f"{int(delivery.state)}.{settled}"


class Decisions:
    def __init__(self, desk: Desk) -> None:
        self.app = desk.app

    def show(self, visit: Visit) -> Response:
        return self._page(visit)

    def _page(self, visit: Visit, *, status: int = 200, **more: Any) -> Response:
        with self.app.database.read() as connection:
            found = deliveries.to_decide(connection, MOST)
            shown = [self._one(connection, delivery, visit.now) for delivery in found]
            return visit.page(
                "desk/decisions.html",
                status=status,
                shown=shown,
                may_decide=visit.may(Right.DECIDE),
                deciders="、".join(visit.w(f"roles.{role}") for role in who_may(Right.DECIDE)),
                state_word=lambda delivery: ending_word(visit, delivery.state.name.lower()),
                part_name=lambda delivery: part_name(visit, delivery),
                evidence_of=lambda delivery: evidence_of(visit, delivery),
                not_done=lambda counts: not_done(visit, counts),
                **more,
            )

    def _one(self, connection: Connection, delivery: Delivery, now: datetime) -> ToDecide:
        issue = issues.by_id(connection, delivery.issue_id)
        before = deliveries.get(connection, delivery.after_id) if delivery.after_id is not None else None
        is_out = issue.ended_at is not None or issue.expires_at <= now
        return ToDecide(
            delivery=delivery,
            issue=issue,
            tries=tuple(deliveries.attempts_of(connection, delivery.id)[-MOST_TRIES:]),
            goes_with=before is not None and before.state is not State.DELIVERED,
            may_go_again=delivery.kind not in (PUSH, MAILING) or not is_out,
        )

    def decide(self, visit: Visit) -> Response:
        """One press, one decision; the second person sees who was first."""
        id = visit.path("id")
        if not (id.isascii() and id.isdecimal() and len(id) < 16):
            raise NotThere
        with self.app.database.read() as connection:
            found = deliveries.find(connection, int(id))
        if found is None:
            raise NotThere
        if seen_of(found) != visit.field("seen") or found.state not in (State.FAILED, State.UNKNOWN):
            return self._late(visit, found)
        try:
            self._act(visit, found)
        except ChangedMeanwhile:
            return self._late(visit, found)
        except Refused as refused:
            return self._page(visit, status=422, problems=refused.problems)
        return visit.go(HERE)

    def _act(self, visit: Visit, found: Delivery) -> None:
        pipeline = self.app.pipeline
        match visit.field("how"):
            case "again":
                pipeline.send_again(found, visit.actor)
            case "delivered" if found.kind != MAILING or found.counts.unknown:
                number = visit.field("number").strip() if found.kind == PUSH else ""
                pipeline.deem_delivered(found, visit.actor, evidence=number)
            case "left" if found.kind != BOARD:
                pipeline.leave_unsent(found, visit.actor)
            case _:
                raise NotThere

    def _late(self, visit: Visit, found: Delivery) -> Response:
        with self.app.database.read() as connection:
            issue = issues.by_id(connection, found.issue_id)
            acts = audit.about(connection, issue.message.identifier)
        of_this = [entry for entry in acts if json.loads(entry.detail).get("id") == found.id]
        mine = [entry for entry in acts if entry.act in ("delivery.decided", "delivery.resent")]
        last = (of_this or mine)[-1:]
        said = [f"{act_sentence(visit, entry)}（{local(entry.at):%H:%M:%S}）" for entry in last]
        return self._page(visit, status=409, late=said, late_of=issue.message.info.headline)
