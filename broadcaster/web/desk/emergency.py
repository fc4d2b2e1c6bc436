"""The one button: choose what has happened, fill what is open, look once, hold.

Live and drill are two places with addresses, frames and verbs of their own, and no page leads from one into the other.
What is sent is what was seen: the form carries the slots with the time that was on the page and a hash of every text.
A key in the form makes two presses, a reload and a second tab one act.

Most presets wait for a second person. Whoever is alone may send all the same (`alone`): with a reason, a second factor,
word to everybody who could have been asked, and a report that another must write.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any

from starlette.responses import Response

from broadcaster import presets, staffmail
from broadcaster.clock import local, parse_instant
from broadcaster.credentials import new_secret
from broadcaster.drill import watermarked
from broadcaster.lifecycle import State
from broadcaster.message import Message, Mode, to_document
from broadcaster.pipeline import Reach
from broadcaster.presets import AUTOMATIC, Preset
from broadcaster.problems import Problem, Refused
from broadcaster.roles import Right
from broadcaster.settings import Settings
from broadcaster.store import messages, notes, people
from broadcaster.store.database import Connection
from broadcaster.store.messages import ChangedMeanwhile, Kept
from broadcaster.web.desk import once
from broadcaster.web.desk.signin import is_proved, prove
from broadcaster.web.desk.visit import PATH, Desk, NotThere, Visit

REASONS = ("no_answer", "too_fast", "offline", "night", "known", "other")
"""Why somebody sends alone, as the list offers it; *other* is written out."""


def register(desk: Desk) -> None:
    desk.get("/emergency", Right.READ, lambda visit: visit.page("desk/emergency.html"))
    for mode, right in ((Mode.LIVE, Right.ALERT), (Mode.DRILL, Right.DRILL)):
        button = Button(desk, mode)
        base = f"/emergency/{mode}"
        desk.get(base, right, button.choose)
        if mode is Mode.LIVE:
            desk.get(f"{base}/waiting/{{identifier}}", right, button.wait)
            desk.get(f"{base}/alone/{{identifier}}", right, button.ask_alone)
            desk.post(f"{base}/alone/{{identifier}}", right, button.send_alone, asks_again=True)
        desk.get(f"{base}/{{preset}}/fill", right, button.fill)
        desk.get(f"{base}/{{preset}}/confirm", right, button.confirm)
        desk.post(f"{base}/{{preset}}/confirm", right, button.confirm)
        desk.post(f"{base}/{{preset}}/send", right, button.send, asks_again=True)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Of the emergency, from config/desk.toml."""

    order: Sequence[str]
    one_person: frozenset[str]
    review_by: Mapping[str, date]
    mails_per_s: float
    lasts: timedelta

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        table = settings.desk["emergency"]
        return cls(
            order=table["order"],
            one_person=frozenset(table["one_person"]),
            review_by=table["review_by"],
            mails_per_s=float(table["mails_per_s"]),
            lasts=timedelta(minutes=float(table["confirm_minutes"])),
        )


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What stands on the last page before sending."""

    message: Message
    slots: Mapping[str, str]
    hash: str
    reach: Reach
    last_s: int  # until the last reader's mail has been handed over, as reckoned
    marked: Message  # with the drill's mark, as it will be read

    @property
    def sections(self) -> Sequence[str]:
        return self.message.channels


class Button:
    """One of the two places."""

    def __init__(self, desk: Desk, mode: Mode) -> None:
        self.app = desk.app
        self.mode = mode
        self.rules = Rules.of(desk.app.settings)
        self.base = f"{PATH}/emergency/{mode}"

    # 1 何が起きましたか

    def choose(self, visit: Visit) -> Response:
        today = local(visit.now).date()
        known = self.app.settings.presets
        ordered = [known[id] for id in self.rules.order if id in known]
        ordered += [preset for preset in known.values() if preset not in ordered and preset.id != _CORRECTION]
        shown = [
            (preset, self._first_page(preset), self._overdue(preset, today))
            for preset in ordered
            if self.mode is Mode.DRILL or not preset.is_drill_only
        ]
        return visit.page("desk/emergency-choose.html", mode=self.mode, base=self.base, presets=shown)

    def _first_page(self, preset: Preset) -> str:
        return f"{self.base}/{preset.id}/{'fill' if open_slots(preset) else 'confirm'}"

    def _overdue(self, preset: Preset, today: date) -> date | None:
        due = self.rules.review_by.get(preset.id)
        return due if due is not None and due < today else None

    def _preset(self, visit: Visit) -> Preset:
        preset = self.app.settings.presets.get(visit.path("preset"))
        if preset is None or (preset.is_drill_only and self.mode is Mode.LIVE):
            raise NotThere
        return preset

    # 2 どこに・何を

    def fill(self, visit: Visit) -> Response:
        preset = self._preset(visit)
        if not open_slots(preset):
            return visit.go(f"{self.base}/{preset.id}/confirm")
        return self._fill(visit, preset, self._last_slots(preset))

    def _last_slots(self, preset: Preset) -> Mapping[str, str]:
        """What the same preset was filled with in this place today: told as such, and to be changed."""
        day = local(self.app.clock.now()).date()
        with self.app.database.read() as connection:
            for kept in messages.of_category(
                connection,
                self.app.settings.ward.emergency_category,
                self.app.clock.now() - timedelta(days=1),
                self.app.clock.now(),
            )[::-1]:
                message = kept.message
                if (message.preset, message.mode) == (preset.id, self.mode) and local(message.began_at).date() == day:
                    return message.slots
        return {}

    def _fill(
        self,
        visit: Visit,
        preset: Preset,
        values: Mapping[str, str],
        problems: Sequence[Problem] = (),
    ) -> Response:
        return visit.page(
            "desk/emergency-fill.html",
            status=422 if problems else 200,
            problems=problems,
            mode=self.mode,
            base=self.base,
            preset=preset,
            slots=open_slots(preset),
            values=values,
            is_from_last=bool(values) and visit.request.method == "GET",
            slot_name=partial(slot_name, visit),
            districts=self.app.settings.ward.districts,
        )

    # 3 出してよいですか

    def confirm(self, visit: Visit) -> Response:
        preset = self._preset(visit)
        values = typed(visit, preset)
        if visit.request.method == "GET" and open_slots(preset):
            return visit.go(f"{self.base}/{preset.id}/fill")
        try:
            seen = self._compose(preset, values, visit.now)
        except Refused as refused:
            return self._fill(visit, preset, values, _at_their_fields(refused.problems))
        return self._confirm(visit, preset, seen)

    def _confirm(
        self, visit: Visit, preset: Preset, seen: Seen, *, status: int = 200, said: str = "", key: str = ""
    ) -> Response:
        return visit.page(
            "desk/emergency-confirm.html",
            status=status,
            mode=self.mode,
            base=self.base,
            preset=preset,
            seen=seen,
            said=said,
            key=key or new_secret(),
            shown_at=visit.now.isoformat(),
            needs_two=self._needs_two(preset),
            is_long=bool(open_slots(preset)),
            same=self._same_lately(seen, visit.now),
            overdue=self._overdue(preset, local(visit.now).date()),
        )

    def _compose(self, preset: Preset, values: Mapping[str, str], now: datetime) -> Seen:
        """Raises Refused."""
        message = presets.compose_alert(
            preset,
            ward=self.app.settings.ward,
            now=now,
            mode=self.mode,
            channels=self.app.settings.enabled,
            values=values,
            use_examples=False,
        )
        reach = self.app.pipeline.reach(message)
        return Seen(
            message=message,
            slots=message.slots,
            hash=hash_of(message),
            reach=reach,
            last_s=max(1, math.ceil(reach.mails / self.rules.mails_per_s)),
            marked=watermarked(message, self.app.settings.words),
        )

    def _needs_two(self, preset: Preset) -> bool:
        return self.mode is Mode.LIVE and preset.id not in self.rules.one_person

    def _same_lately(self, seen: Seen, now: datetime) -> Message | None:
        """The same words within the last hour: it may be sent again, and is asked about."""
        with self.app.database.read() as connection:
            category = self.app.settings.ward.emergency_category
            lately = messages.of_category(connection, category, now - timedelta(hours=1), now)
        wanted = _bare(seen.message)
        return next((kept.message for kept in lately if _bare(kept.message) == wanted), None)

    # Sending

    def send(self, visit: Visit) -> Response:
        preset = self._preset(visit)
        values = typed(visit, preset)
        with self.app.database.read() as connection:
            if done := self._done(visit, connection):
                return visit.go(done)
        try:
            seen = self._compose(preset, values, visit.now)
        except Refused as refused:
            return self._fill(visit, preset, values, _at_their_fields(refused.problems))
        if why := self._not_yet(visit, seen):
            fresh = self._compose(preset, {k: v for k, v in values.items() if k not in AUTOMATIC}, visit.now)
            return self._confirm(visit, preset, fresh, status=409, said=why)
        return self._carry_out(visit, preset, seen)

    def _not_yet(self, visit: Visit, seen: Seen) -> str:
        """Why the page is shown once more instead of sending; a word of emergency.yaml. Empty: it may go."""
        if visit.is_resumed:
            return "resumed"
        if visit.field("seen") != seen.hash:
            return "changed"
        try:
            shown_at = parse_instant(visit.field("shown_at"))
        except ValueError:
            return "changed"
        if not timedelta(0) <= visit.now - shown_at <= self.rules.lasts:
            return "old"
        if self.mode is Mode.LIVE and not visit.field("checked"):
            return "not_checked"
        return ""

    def _carry_out(self, visit: Visit, preset: Preset, seen: Seen) -> Response:
        pipeline = self.app.pipeline
        with contextlib.suppress(once.AlreadyKept):  # the same press, a moment earlier
            if self._needs_two(preset):
                pipeline.propose(seen.message, visit.actor, also=self._ask(visit, seen.message))
            else:
                pipeline.hand_in(seen.message, visit.actor, also=once.kept(visit))
        with self.app.database.read() as connection:
            done = self._done(visit, connection)
        assert done is not None
        return visit.go(done)

    def _ask(self, visit: Visit, message: Message) -> Any:
        def also(connection: Connection, identifier: str) -> None:
            once.kept(visit)(connection, identifier)
            visit.desk.staffmail.ask_approval(
                connection,
                message,
                asked_by=visit.person,
                now=visit.now,
            )

        return also

    def _done(self, visit: Visit, connection: Connection) -> str | None:
        """Where a press of this form led, when there was one."""
        identifier = once.done(visit, connection)
        if identifier is None:
            return None
        kept = messages.get(connection, identifier)
        assert kept is not None
        return _board(kept) if kept.issued_as is not None else f"{self.base}/waiting/{identifier}"

    # Waiting for a second person, or not

    def wait(self, visit: Visit) -> Response:
        kept = self._proposed(visit)
        if kept.issued_as is not None:
            return visit.leave_for(_board(kept)) if visit.is_renewal else visit.go(_board(kept))
        if visit.is_renewal and kept.state is not State.SUBMITTED:
            return visit.leave_for(visit.request.url.path)  # another heading, another title: the whole page anew
        with self.app.database.read() as connection:
            asked = people.with_roles(connection, staffmail.APPROVERS)
            said = notes.of(connection, kept.message.identifier)
        return visit.page(
            "desk/emergency-waiting.html",
            mode=self.mode,
            base=self.base,
            kept=kept,
            is_waiting=kept.state is State.SUBMITTED,
            asked=[person for person in asked if person.name != kept.created_by],
            waited_s=int((visit.now - kept.created_at).total_seconds()),
            returned=next((note for note in reversed(said) if note.kind == notes.RETURNED), None),
        )

    def _proposed(self, visit: Visit) -> Kept:
        kept = visit.kept()
        if kept.message.mode is not self.mode or kept.message.preset is None:
            raise NotThere
        return kept

    def ask_alone(self, visit: Visit) -> Response:
        kept = self._proposed(visit)
        if kept.issued_as is not None:
            return visit.go(_board(kept))
        return self._alone(visit, kept)

    def _alone(self, visit: Visit, kept: Kept, problems: Sequence[Problem] = (), said: str = "") -> Response:
        return visit.page(
            "desk/emergency-alone.html",
            status=422 if problems else 200,
            problems=problems,
            mode=self.mode,
            base=self.base,
            kept=kept,
            reach=self.app.pipeline.reach(kept.message),
            reasons=REASONS,
            reason=visit.field("reason"),
            text=visit.field("text"),
            needs_code=not is_proved(visit),
            said=said,
        )

    def send_alone(self, visit: Visit) -> Response:
        kept = self._proposed(visit)
        if kept.issued_as is not None:
            return visit.go(_board(kept))
        reason = self._reason(visit)
        problems = [] if reason else [visit.problem("reason", "emergency.alone_reason_missing")]
        if visit.is_resumed:
            return self._alone(visit, kept, said="resumed")
        if not visit.field("checked"):
            problems.append(visit.problem("checked", "emergency.alone_not_checked"))
        if not problems and not prove(visit):
            problems.append(visit.problem("code", "emergency.alone_code_wrong"))
        if problems:
            return self._alone(visit, kept, problems)
        try:
            kept = self.app.pipeline.approve_alone(
                kept.message.identifier, visit.actor, reason=reason, also=self._tell_all(visit, reason)
            )
        except ChangedMeanwhile:
            return visit.go(f"{self.base}/waiting/{kept.message.identifier}")
        return visit.go(_board(kept))

    def _reason(self, visit: Visit) -> str:
        chosen, written = visit.field("reason"), visit.field("text").strip()
        if chosen not in REASONS or (chosen == "other" and not written):
            return ""
        listed = self.app.settings.words.page(f"emergency.reasons.{chosen}")
        return written if chosen == "other" else f"{listed} {written}".strip()

    def _tell_all(self, visit: Visit, reason: str) -> Any:
        def also(connection: Connection, identifier: str) -> None:
            kept = messages.get(connection, identifier)
            assert kept is not None
            visit.desk.staffmail.tell_alone(
                connection,
                kept.message,
                sent_by=visit.person,
                reason=reason,
                now=visit.now,
            )

        return also


_CORRECTION = "E11"
"""A false alert is taken back at the board of what was sent, in every language and for its readers; not from here."""


def open_slots(preset: Preset) -> Sequence[str]:
    """What a person has to fill: the clock fills the others."""
    return [name for name in preset.slots if name not in AUTOMATIC]


def typed(visit: Visit, preset: Preset) -> dict[str, str]:
    """The slots as they were typed; districts that were ticked are an area."""
    values = {name: visit.field(f"slot-{name}").strip() for name in preset.slots}
    if "area" in values and not values["area"]:
        values["area"] = "、".join(visit.fields("district"))
    return {name: value for name, value in values.items() if value}


def slot_name(visit: Visit, name: str) -> str:
    known = visit.app.settings.words.pages["changing"]["slot_names"]
    return visit.w(f"changing.slot_names.{name}") if name in known else name


def hash_of(message: Message) -> str:
    """Of everything that is read and of whom it reaches: not of its number and its instant."""
    return hashlib.sha256(json.dumps(_bare(message), ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def _bare(message: Message) -> Mapping[str, object]:
    document = to_document(message)
    for name in ("identifier", "effective_at", "expires_at", "sent_at"):
        del document[name]
    return document


def _board(kept: Kept) -> str:
    return f"{PATH}/sent/{kept.message.identifier}"


def _at_their_fields(problems: Sequence[Problem]) -> list[Problem]:
    """A slot's problem at the slot's field, without the words for a command line."""
    return [
        Problem(
            where=f"slot-{problem.where}",
            ja=problem.ja.partition(" --set")[0].partition("--set")[0],
            en=problem.en.partition(" with --set")[0].partition("--set")[0],
        )
        for problem in problems
    ]
