"""Who may do what: the roles of the ward's staff and of its programs, and the rights that each holds.

One table for the desk and the API. What is not in it nobody may do.
"""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    VIEWER = "viewer"
    WRITER = "writer"
    APPROVER = "approver"
    DUTY = "duty"
    ADMIN = "admin"


class Right(StrEnum):
    READ = "read"
    WRITE = "write"  # notices: write, ask for approval, withdraw one's own
    COMMENT = "comment"  # on what waits for approval
    APPROVE = "approve"  # another's notice or alert; return it
    SCHEDULE = "schedule"  # move what is planned
    ALERT = "alert"  # the one button, live
    DRILL = "drill"  # the same in the place of drills
    CHANGE = "change"  # 続報 訂正 取消 解除, without a second person
    DECIDE = "decide"  # what failed or is unknown
    REVIEW = "review"  # write the report after somebody sent alone
    PEOPLE = "people"
    EXPORT = "export"


_STAFF = frozenset({Right.READ, Right.DRILL, Right.COMMENT})
_SENDS = frozenset({Right.ALERT, Right.CHANGE, Right.DECIDE, Right.REVIEW})

RIGHTS: dict[Role, frozenset[Right]] = {
    Role.VIEWER: frozenset({Right.READ}),
    Role.WRITER: _STAFF | {Right.WRITE},
    Role.APPROVER: _STAFF | _SENDS | {Right.WRITE, Right.APPROVE, Right.SCHEDULE},
    Role.DUTY: _STAFF | _SENDS,
    Role.ADMIN: _STAFF | _SENDS | {Right.WRITE, Right.APPROVE, Right.SCHEDULE, Right.PEOPLE, Right.EXPORT},
}


def may(role: Role, right: Right) -> bool:
    return right in RIGHTS[role]


def who_may(right: Right) -> tuple[Role, ...]:
    """For the sentence that says whom to ask."""
    return tuple(role for role, rights in RIGHTS.items() if right in rights)
