"""Approving: bound to what was seen, never one's own, one winner.

Also the page of a message that has not gone out: its words, where it stands, and what can still be done with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from starlette.responses import Response

from broadcaster.clock import local
from broadcaster.dates import read_typed
from broadcaster.differences import Difference, differences
from broadcaster.lifecycle import MoveNotAllowed, State
from broadcaster.manuscript import text_problems
from broadcaster.message import content_hash
from broadcaster.problems import Problem, Refused
from broadcaster.proofreading import Remark, remarks
from broadcaster.render import day
from broadcaster.roles import Right
from broadcaster.store import audit, drafts, messages, notes, plans
from broadcaster.store.database import Connection
from broadcaster.store.drafts import Draft
from broadcaster.store.messages import ChangedMeanwhile, Kept
from broadcaster.web.desk.compose import REVISES, manuscript_of
from broadcaster.web.desk.previews import previews_of
from broadcaster.web.desk.visit import PATH, Desk, Visit
from broadcaster.web.desk.wording import act_sentence, state_word

UNDO = timedelta(seconds=30)
"""A routine notice whose hour has come waits so long after its approval: until then it can be stopped. An alert never
waits."""

MOST_REWRITES = 20
"""Withdrawn and written anew so often, the version that was once approved is looked for no further back."""


def register(desk: Desk) -> None:
    pages = Approvals(desk)
    desk.get("/approvals", Right.READ, pages.show_list)
    desk.get("/approvals/{identifier}", Right.READ, pages.show)
    desk.post("/approvals/{identifier}/approve", Right.APPROVE, pages.approve, asks_again=True)
    desk.post("/approvals/{identifier}/return", Right.APPROVE, pages.send_back)
    desk.post("/approvals/{identifier}/comment", Right.COMMENT, pages.comment)
    desk.get("/messages/{identifier}", Right.READ, pages.message)
    desk.post("/messages/{identifier}/withdraw", Right.WRITE, pages.withdraw)
    desk.get("/messages/{identifier}/move", Right.SCHEDULE, pages.ask_move)
    desk.post("/messages/{identifier}/move", Right.SCHEDULE, pages.move)


class Approvals:
    def __init__(self, desk: Desk) -> None:
        self.app = desk.app
        self.almanac = desk.almanac

    def show_list(self, visit: Visit) -> Response:
        with self.app.database.read() as connection:
            waiting = messages.submitted(connection)
        ordered = sorted(waiting, key=lambda kept: (not kept.message.is_alert, kept.message.effective_at))
        return visit.page("desk/approvals.html", waiting=ordered)

    def show(self, visit: Visit) -> Response:
        kept = visit.kept()
        if kept.state is not State.SUBMITTED:
            return visit.go(f"{PATH}/messages/{kept.message.identifier}")
        return self._page(visit, kept)

    def _page(
        self,
        visit: Visit,
        kept: Kept,
        *,
        status: int = 200,
        problems: Sequence[Problem] = (),
        changed: Sequence[Difference] = (),
        is_changed: bool = False,
    ) -> Response:
        identifier = kept.message.identifier
        object = f"approval/{identifier}"
        with self.app.database.write() as connection:
            drafts.opened(connection, object, visit.person.name, visit.now)
            others = drafts.others_at(connection, object, visit.person.name, visit.now)
        with self.app.database.read() as connection:
            said = notes.of(connection, identifier)
            draft = drafts.of_message(connection, identifier)
            authors = self.app.pipeline.authors_of(connection, kept)
            ticked = _ticked(connection, kept, draft)
            approved = _approved_before(connection, draft)
        return visit.page(
            "desk/approval.html",
            status=status,
            problems=problems,
            kept=kept,
            message=kept.message,
            seen=content_hash(kept.message),
            is_own=visit.person.name in authors,
            asked_version=(draft.asked_version if draft else None) or 0,
            reach=self.app.pipeline.reach(kept.message),
            previews=previews_of(visit, kept.message),
            said=said,
            others=others,
            changed=changed,
            is_changed=is_changed,
            ticked=ticked,
            approved=approved,
            since_approved=differences(manuscript_of(approved.message), manuscript_of(kept.message))
            if approved
            else (),
            draft=draft,
            reason=visit.field("reason"),
            goes_at=max(kept.message.effective_at, visit.now),
        )

    # Acts

    def approve(self, visit: Visit) -> Response:
        kept = visit.kept()
        identifier = kept.message.identifier
        if visit.is_resumed and kept.state is State.SUBMITTED:
            return self._page(visit, kept, status=409)
        wait = timedelta(0) if kept.message.is_alert else UNDO
        try:
            kept = self.app.pipeline.approve(identifier, visit.actor, seen=visit.field("seen"), wait=wait)
        except (ChangedMeanwhile, MoveNotAllowed):
            if visit.kept().approved_by == visit.person.name:
                return visit.go(f"{PATH}/messages/{identifier}")  # the same press once more
            return self._too_late(visit, identifier)
        return visit.go(f"{PATH}/{'sent' if kept.issued_as else 'messages'}/{identifier}")

    def _too_late(self, visit: Visit, identifier: str) -> Response:
        """Somebody was faster, or the words are other ones now: which of them, and what that means."""
        kept = visit.kept()
        if kept.state is State.SUBMITTED:
            return self._page(visit, kept, status=409, changed=self._since(visit, identifier), is_changed=True)
        return visit.page(
            "desk/approval-late.html",
            status=409,
            kept=kept,
            message=kept.message,
            state=state_word(visit, kept),
            act=self._last_act(identifier),
        )

    def _since(self, visit: Visit, identifier: str) -> Sequence[Difference]:
        """What is different from the version that the approver had opened; nothing where that is not known."""
        with self.app.database.read() as connection:
            draft = drafts.of_message(connection, identifier)
            known = {v.version: v.manuscript for v in drafts.versions(connection, draft.id)} if draft else {}
        asked = visit.field("asked_version")
        before = known.get(int(asked)) if asked.isascii() and asked.isdigit() and len(asked) < 10 else None
        after = known.get((draft.asked_version if draft else None) or 0)
        return differences(before, after) if before is not None and after is not None else ()

    def _last_act(self, identifier: str) -> audit.Entry | None:
        with self.app.database.read() as connection:
            acts = audit.about(connection, identifier)
        return acts[-1] if acts else None

    def send_back(self, visit: Visit) -> Response:
        kept = visit.kept()
        identifier = kept.message.identifier
        try:
            self.app.pipeline.send_back(
                identifier, visit.actor, visit.field("reason"), also=partial(self._tell_returned, visit, kept)
            )
        except Refused as refused:
            return self._page(visit, kept, status=422, problems=refused.problems)
        except (ChangedMeanwhile, MoveNotAllowed):
            return self._too_late(visit, identifier)
        return visit.go(f"{PATH}/approvals")

    def _tell_returned(self, visit: Visit, kept: Kept, connection: Connection, _identifier: str) -> None:
        visit.desk.staffmail.tell_returned(
            connection,
            kept.message,
            to=kept.created_by,
            by=visit.person,
            reason=visit.field("reason"),
            now=visit.now,
        )

    def comment(self, visit: Visit) -> Response:
        kept = visit.kept()
        text = visit.field("text").strip()
        problems = text_problems("text", text, most=2_000)
        if not text:
            problems.append(visit.problem("text", "approvals.comment_missing"))
        if problems:
            return self._page(visit, kept, status=422, problems=problems)
        with self.app.database.write() as connection:
            notes.add(connection, kept.message.identifier, notes.COMMENT, text, by=visit.person.name, at=visit.now)
        return visit.go(f"{PATH}/approvals/{kept.message.identifier}")

    # A message that has not gone out

    def message(self, visit: Visit) -> Response:
        kept = visit.kept()
        identifier = kept.message.identifier
        if kept.issued_as is not None:
            return visit.go(f"{PATH}/sent/{identifier}")
        if kept.state is State.SUBMITTED:
            return visit.go(f"{PATH}/approvals/{identifier}")
        return self._message(visit, kept)

    def _message(self, visit: Visit, kept: Kept, **more: Any) -> Response:
        identifier = kept.message.identifier
        with self.app.database.read() as connection:
            acts = audit.about(connection, identifier)
            said = notes.of(connection, identifier)
            draft = drafts.of_message(connection, identifier)
            due_at = plans.due_of(connection, f"issue/{identifier}")
        left = (due_at or visit.now) - visit.now
        return visit.page(
            "desk/message.html",
            kept=kept,
            message=kept.message,
            acts=acts,
            said=said,
            draft=draft,
            previews=previews_of(visit, kept.message),
            may_withdraw=self._may_withdraw(visit, kept),
            may_move=visit.may(Right.SCHEDULE) and kept.state is State.SCHEDULED,
            act_sentence=partial(act_sentence, visit),
            state=state_word(visit, kept),
            due_at=due_at,
            undo_s=int(left.total_seconds()) + 1 if due_at is not None and left <= UNDO else 0,
            **more,
        )

    def _may_withdraw(self, visit: Visit, kept: Kept) -> bool:
        is_theirs = kept.created_by == visit.person.name or visit.may(Right.APPROVE)
        return is_theirs and kept.state in (State.SCHEDULED, State.RETURNED, State.SUBMITTED)

    def withdraw(self, visit: Visit) -> Response:
        kept = visit.kept()
        if kept.created_by != visit.person.name and not visit.may(Right.APPROVE):
            visit.stop("desk/says.html", status=403, what="no_right", slots={"role": visit.w("roles.approver")})
        try:
            self.app.pipeline.withdraw(kept.message.identifier, visit.actor)
        except (ChangedMeanwhile, MoveNotAllowed):
            return self._too_late(visit, kept.message.identifier)
        return visit.go(f"{PATH}/messages/{kept.message.identifier}")

    def ask_move(self, visit: Visit) -> Response:
        """Where a day was dropped on or typed into the address, what there is to know of it is said before moving."""
        typed = visit.query("at")
        at = read_typed(typed, visit.now)
        closed = self._closed(visit, at) if at is not None else None
        return self._ask_move(visit, visit.kept(), typed, [closed] if closed else [], status=200, at=at)

    def _ask_move(
        self,
        visit: Visit,
        kept: Kept,
        typed: str,
        problems: Sequence[Problem],
        *,
        status: int = 422,
        at: datetime | None = None,
    ) -> Response:
        return visit.page(
            "desk/message-move.html",
            status=status,
            problems=problems,
            kept=kept,
            message=kept.message,
            typed=typed,
            said_of=_day_of(at) if at is not None else "",
            is_movable=kept.state is State.SCHEDULED,
        )

    def _closed(self, visit: Visit, at: datetime) -> Problem | None:
        """That the office is closed on the new day: said once, and whoever presses again means it."""
        why = self.almanac.closed(local(at).date())
        if why is None or at <= visit.now:
            return None
        said = {
            language: self.app.settings.words.page(
                "approvals.move_closed", language, day=day(at, language), why=why.in_(language)
            )
            for language in ("ja", "en")
        }
        return Problem(where="at", **said)

    def move(self, visit: Visit) -> Response:
        kept = visit.kept()
        typed = visit.field("at")
        at = read_typed(typed, visit.now)
        if at is None:
            return self._ask_move(visit, kept, typed, [visit.problem("at", "approvals.move_unreadable")])
        closed = self._closed(visit, at)
        if closed is not None and visit.field("said_of") != _day_of(at):
            return self._ask_move(visit, kept, typed, [closed], at=at)
        try:
            self.app.pipeline.move_to(kept.message.identifier, at, visit.actor, seen=visit.field("seen"))
        except Refused as refused:
            return self._ask_move(visit, kept, typed, refused.problems)
        except (ChangedMeanwhile, MoveNotAllowed):
            return self._too_late(visit, kept.message.identifier)
        return visit.go(f"{PATH}/messages/{kept.message.identifier}")


def _day_of(at: datetime) -> str:
    return local(at).date().isoformat()


def _asked(connection: Connection, draft: Draft | None) -> Mapping[str, Any]:
    """The words for which approval was asked, as they were written; none of what was not written at the desk."""
    if draft is None or draft.asked_version is None:
        return {}
    versions = drafts.versions(connection, draft.id)
    return next((one.manuscript for one in versions if one.version == draft.asked_version), {})


def _ticked(connection: Connection, kept: Kept, draft: Draft | None) -> list[Remark]:
    """What readers may stumble over and the writer left as it is, having ticked that they read it."""
    read = [one for one in audit.about(connection, kept.message.identifier) if one.act == "message.remarks_read"]
    if not read:
        return []
    keys = json.loads(read[-1].detail)["remarks"]
    return [remark for remark in remarks(_asked(connection, draft), read[-1].at) if remark.key in keys]


def _approved_before(connection: Connection, draft: Draft | None) -> Kept | None:
    """The last version of this notice that somebody approved, before it was taken back to be rewritten."""
    for _ in range(MOST_REWRITES):
        earlier = _asked(connection, draft).get(REVISES)
        kept = messages.get(connection, earlier) if isinstance(earlier, str) else None
        if kept is None or kept.approved_hash is not None:
            return kept
        draft = drafts.of_message(connection, kept.message.identifier)
    return None
