"""The life of a message: its states, and the only moves between them.

    draft ─submit→ submitted ─approve→ approved ─schedule→ scheduled ─issue→ issued ─┬ expire → expired
      ↑               │ return / reject                        └ skip → skipped      ├ update → updated
      └───────────────┘                                                              └ cancel → cancelled

A drill walks the same table. What is not in it cannot happen.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    DRAFT = "draft"
    SUBMITTED = "submitted"
    RETURNED = "returned"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"
    APPROVED = "approved"
    SCHEDULED = "scheduled"
    SKIPPED = "skipped"
    ISSUED = "issued"
    UPDATED = "updated"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Move(StrEnum):
    SUBMIT = "submit"
    RETURN = "return"
    REJECT = "reject"
    WITHDRAW = "withdraw"
    EDIT = "edit"
    APPROVE = "approve"
    SCHEDULE = "schedule"
    SKIP = "skip"
    ISSUE = "issue"
    UPDATE = "update"
    CANCEL = "cancel"
    EXPIRE = "expire"


MOVES: dict[tuple[State, Move], State] = {
    (State.DRAFT, Move.SUBMIT): State.SUBMITTED,
    (State.DRAFT, Move.EDIT): State.DRAFT,
    (State.DRAFT, Move.WITHDRAW): State.WITHDRAWN,
    (State.SUBMITTED, Move.RETURN): State.RETURNED,
    (State.SUBMITTED, Move.REJECT): State.REJECTED,
    (State.SUBMITTED, Move.WITHDRAW): State.WITHDRAWN,
    (State.SUBMITTED, Move.APPROVE): State.APPROVED,
    (State.RETURNED, Move.EDIT): State.DRAFT,
    (State.RETURNED, Move.WITHDRAW): State.WITHDRAWN,
    (State.APPROVED, Move.EDIT): State.DRAFT,  # a change of words voids the approval
    (State.APPROVED, Move.WITHDRAW): State.WITHDRAWN,
    (State.APPROVED, Move.SCHEDULE): State.SCHEDULED,
    (State.APPROVED, Move.ISSUE): State.ISSUED,
    (State.SCHEDULED, Move.WITHDRAW): State.WITHDRAWN,
    (State.SCHEDULED, Move.SKIP): State.SKIPPED,
    (State.SCHEDULED, Move.ISSUE): State.ISSUED,
    (State.ISSUED, Move.UPDATE): State.UPDATED,
    (State.ISSUED, Move.CANCEL): State.CANCELLED,
    (State.ISSUED, Move.EXPIRE): State.EXPIRED,
}

ENDS = frozenset(State) - {state for state, _ in MOVES}
"""States that nothing leaves."""


class MoveNotAllowed(ValueError):
    def __init__(self, state: State, move: Move) -> None:
        self.state, self.move = state, move
        super().__init__(f"a message that is {state} cannot {move}")


def after(state: State, move: Move) -> State:
    """Where the move leads. Raises MoveNotAllowed."""
    try:
        return MOVES[state, move]
    except KeyError:
        raise MoveNotAllowed(state, move) from None
