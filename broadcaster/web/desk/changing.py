"""訂正 続報 取消 解除 of what was sent: one screen from the board. It shows whom it reaches and every word that will go out,
in every language, and asks nobody else: every false alert in the record was lengthened by "how do we take it back?".

What is sent is what was seen: the form carries a hash of the texts on the page. Whoever has typed since sees the new
texts first and presses once more.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from starlette.responses import Response

from broadcaster import presets
from broadcaster.changes import bare, changed
from broadcaster.clock import local
from broadcaster.credentials import new_secret
from broadcaster.delivery import State
from broadcaster.drill import watermarked
from broadcaster.lifecycle import MoveNotAllowed
from broadcaster.manuscript import LONGEST, read_instant, text_problems
from broadcaster.message import Change, Info, Message
from broadcaster.problems import Problem, Refused
from broadcaster.roles import Right, who_may
from broadcaster.store import issues
from broadcaster.store.database import Connection
from broadcaster.store.deliveries import PUSH
from broadcaster.store.issues import Issue
from broadcaster.store.messages import ChangedMeanwhile
from broadcaster.web.desk import once
from broadcaster.web.desk.emergency import slot_name
from broadcaster.web.desk.sent import Found, found_of, head_of, language_name, may_change
from broadcaster.web.desk.visit import PATH, Desk, Visit
from broadcaster.words import Words

TEXTS = ("headline", "summary", "description", "spoken")
"""The fields of a language that a notice may be given anew."""

_LONGEST = {
    "headline": LONGEST["title"],
    "summary": LONGEST["summary"],
    "description": LONGEST["body"],
    "spoken": LONGEST["speech"],
}


def register(desk: Desk) -> None:
    changing = Changing(desk)
    for change in Change:
        path = f"/sent/{{identifier}}/{change}"
        # Of what is live only with the right to it: looked at when the message is known (`may_change`).
        desk.get(path, Right.DRILL, partial(changing.ask, change))
        desk.post(path, Right.DRILL, partial(changing.go, change), asks_again=True)
        desk.post(f"{path}/preview", Right.DRILL, partial(changing.preview, change))


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be changed, as it was typed."""

    line: str
    slots: Mapping[str, str]
    texts: Mapping[str, Mapping[str, str]]  # by language
    expires: str

    def is_like(self, before: Wanted) -> bool:
        return self == before


@dataclass(frozen=True, kw_only=True)
class Made:
    """The message as it would go out, and how it is made again inside the pipeline."""

    message: Message
    renew: Callable[[Message], Message] | None
    line: str
    until: str  # the end as it was typed: where none is, it is counted from the moment of sending

    @property
    def seen(self) -> str:
        """A hash of every word that the page shows."""
        told = [
            [i.language, i.headline, i.summary, i.description, i.spoken, list(i.display)] for i in self.message.infos
        ]
        shown = json.dumps([self.message.change, told, list(self.message.geocodes), self.until], ensure_ascii=False)
        return hashlib.sha256(shown.encode("utf-8", "surrogatepass")).hexdigest()


class Changing:
    def __init__(self, desk: Desk) -> None:
        self.app = desk.app

    def ask(self, change: Change, visit: Visit) -> Response:
        with self.app.database.read() as connection:
            found = found_of(connection, visit.path("identifier"))
            self._stop_if_over(visit, connection, found, change)
            return self._page(visit, connection, found, change, self._before(found, change))

    def preview(self, change: Change, visit: Visit) -> Response:
        """Every text as it would go out with what is typed so far; nothing is kept."""
        with self.app.database.read() as connection:
            found = found_of(connection, visit.path("identifier"))
            self._stop_if_over(visit, connection, found, change)
            wanted = self._wanted(visit, found, change)
            try:
                made = self._make(found, change, wanted, visit.now)
            except Refused as refused:
                return visit.page("desk/change-texts.html", **self._no_texts(visit, refused.problems))
            return visit.page("desk/change-texts.html", **self._texts(visit, found, change, wanted, made))

    def go(self, change: Change, visit: Visit) -> Response:
        identifier = visit.path("identifier")
        with self.app.database.read() as connection:
            if done := once.done(visit, connection):
                return visit.go(f"{PATH}/sent/{done}")
            found = found_of(connection, identifier)
            self._stop_if_over(visit, connection, found, change)
            wanted = self._wanted(visit, found, change)
            try:
                self._refuse_nothing(found, change, wanted)
                made = self._make(found, change, wanted, visit.now)
            except Refused as refused:
                return self._page(visit, connection, found, change, wanted, problems=refused.problems)
            if visit.field("look"):  # without scripts: only to see the texts anew
                return self._page(visit, connection, found, change, wanted)
            if visit.is_resumed or made.seen != visit.field("seen"):
                return self._page(visit, connection, found, change, wanted, is_other=True)
        return self._send(visit, found, change, made)

    def _send(self, visit: Visit, found: Found, change: Change, made: Made) -> Response:
        identifier = found.issue.message.identifier
        try:
            with contextlib.suppress(once.AlreadyKept):  # the same press, a moment earlier
                kept = self.app.pipeline.change(
                    identifier, change, visit.actor, renew=made.renew, line=made.line, also=once.kept(visit)
                )
                return visit.go(f"{PATH}/sent/{kept.message.identifier}")
        except (Refused, ChangedMeanwhile, MoveNotAllowed):
            with self.app.database.read() as connection:
                if done := once.done(visit, connection):
                    return visit.go(f"{PATH}/sent/{done}")
                self._stop_if_over(visit, connection, found_of(connection, identifier), change)
            raise
        with self.app.database.read() as connection:
            return visit.go(f"{PATH}/sent/{once.done(visit, connection)}")

    # What somebody else did meanwhile

    def _stop_if_over(self, visit: Visit, connection: Connection, found: Found, change: Change) -> None:
        if not may_change(visit, found.issue.message):
            names = [visit.w(f"roles.{role}") for role in who_may(Right.CHANGE)]
            visit.stop("desk/says.html", status=403, what="no_right", slots={"role": "、".join(names)})
        after = issues.get(connection, found.issue.ended_by) if found.issue.ended_by else None
        if after is not None:
            visit.stop("desk/change-late.html", status=409, **self._late(visit, connection, found, after))
        if not found.is_in_force(visit.now):
            visit.stop("desk/change-late.html", status=409, **head_of(visit, connection, found), late="", typed=[])

    def _late(self, visit: Visit, connection: Connection, found: Found, after: Issue) -> dict[str, Any]:
        theirs = found_of(connection, after.message.identifier)
        change = after.message.change
        who = visit.called(theirs.kept.created_by)
        time = f"{local(after.sent_at):%H:%M:%S}"
        typed = [
            value for name in visit.form if name.startswith(("line", "slot-", "text-")) and (value := visit.field(name))
        ]
        late = visit.w("changing.late_who", who=who, time=time, change=visit.w(f"terms.{change}"))
        return {**head_of(visit, connection, found), "late": late, "typed": typed}

    # What is wanted, and what is made of it

    def _before(self, found: Found, change: Change) -> Wanted:
        """The form as it stands before anything is typed."""
        kept = found.kept.message
        slots, texts, expires = {}, {}, ""
        if change in (Change.UPDATE, Change.CORRECTION):
            if self._preset_of(found) is not None:
                slots = {name: kept.slots[name] for name in self._slot_names(found)}
            else:
                texts = {info.language: _texts_of(info) for info in kept.infos}
                expires = f"{local(kept.expires_at):%Y-%m-%d %H:%M}"
        return Wanted(line="", slots=slots, texts=texts, expires=expires)

    def _wanted(self, visit: Visit, found: Found, change: Change) -> Wanted:
        before = self._before(found, change)
        return Wanted(
            line=visit.field("line").strip(),
            slots={name: visit.field(f"slot-{name}").strip() for name in before.slots},
            texts={
                language: {name: visit.field(f"text-{language}-{name}").strip("\n ") for name in texts}
                for language, texts in before.texts.items()
            },
            expires=visit.field("expires").strip() if before.expires else "",
        )

    def _preset_of(self, found: Found) -> presets.Preset | None:
        return self.app.settings.presets.get(found.kept.message.preset or "")

    def _slot_names(self, found: Found) -> list[str]:
        preset = self._preset_of(found)
        return [name for name in preset.slots if name in found.kept.message.slots] if preset else []

    def _refuse_nothing(self, found: Found, change: Change, wanted: Wanted) -> None:
        """An update or a correction that says nothing new is none."""
        if change in (Change.UPDATE, Change.CORRECTION) and wanted.is_like(self._before(found, change)):
            raise Refused([self.app.settings.words.problem("line", "changing.line_needed")])

    def _make(self, found: Found, change: Change, wanted: Wanted, now: datetime) -> Made:
        """Raises Refused with every problem, each at its field."""
        words = self.app.settings.words
        problems = text_problems("line", wanted.line, most=2_000)
        renew = self._renewal(found, change, wanted, now, problems)
        if problems:
            raise Refused(problems)
        original = found.issue.message
        message = changed(
            original, change, words=words, now=now, renewed=renew(original) if renew else None, line=wanted.line
        )
        return Made(message=watermarked(message, words), renew=renew, line=wanted.line, until=wanted.expires)

    def _renewal(
        self, found: Found, change: Change, wanted: Wanted, now: datetime, problems: list[Problem]
    ) -> Callable[[Message], Message] | None:
        """The new words of an update or a correction. They are made of the message as it was written, so that the marks of
        a drill stand in it once."""
        if change in (Change.CANCEL, Change.ALL_CLEAR):
            return None
        before = self._before(found, change)
        if dict(wanted.slots) != dict(before.slots):
            return self._refilled(found, wanted, now, problems)
        if wanted.texts:
            return self._rewritten(found, wanted, now, problems)
        infos = found.kept.message.infos
        return lambda original: replace(original, infos=infos)

    def _refilled(
        self, found: Found, wanted: Wanted, now: datetime, problems: list[Problem]
    ) -> Callable[[Message], Message] | None:
        kept, preset = found.kept.message, self._preset_of(found)
        assert preset is not None
        try:
            filled = presets.compose_alert(
                preset,
                ward=self.app.settings.ward,
                now=now,
                mode=kept.mode,
                channels=kept.channels,
                values={**kept.slots, **wanted.slots},
                use_examples=False,
                section=kept.section,
            )
        except Refused as refused:
            problems.extend(
                replace(p, where=f"slot-{p.where}" if p.where in wanted.slots else "line") for p in refused.problems
            )
            return None
        return lambda _original: filled

    def _rewritten(
        self, found: Found, wanted: Wanted, now: datetime, problems: list[Problem]
    ) -> Callable[[Message], Message] | None:
        kept = found.kept.message
        infos = tuple(
            _with_texts(info, wanted.texts[info.language], problems, self.app.settings.words) for info in kept.infos
        )
        expires_at = self._expires(kept, wanted.expires, now, problems)
        return lambda original: replace(original, infos=infos, expires_at=expires_at)

    def _expires(self, kept: Message, typed: str, now: datetime, problems: list[Problem]) -> datetime:
        if typed == f"{local(kept.expires_at):%Y-%m-%d %H:%M}":
            return kept.expires_at  # to the second, as it was
        at = read_instant(typed.replace("/", "-").replace(" ", "T"))
        if at is None:
            problems.append(self.app.settings.words.problem("expires", "changing.expires_wrong"))
        elif at <= now:
            problems.append(self.app.settings.words.problem("expires", "changing.expires_past"))
        return at or kept.expires_at

    # Pages

    def _page(
        self,
        visit: Visit,
        connection: Connection,
        found: Found,
        change: Change,
        wanted: Wanted,
        *,
        problems: Sequence[Problem] = (),
        is_other: bool = False,
    ) -> Response:
        try:
            texts = self._texts(visit, found, change, wanted, self._make(found, change, wanted, visit.now))
        except Refused as refused:
            texts = self._no_texts(visit, refused.problems)
        return visit.page(
            "desk/change.html",
            status=422 if problems else 409 if is_other else 200,
            problems=problems,
            **head_of(visit, connection, found),
            **texts,
            change=change.value,
            wanted=wanted,
            is_other=is_other,
            reach=self._reach(visit, found, change),
            key=visit.field("key") or new_secret(),
            go_word=_go_word(visit, found, change),
            slot_name=partial(slot_name, visit),
        )

    def _texts(self, visit: Visit, found: Found, change: Change, wanted: Wanted, made: Made) -> dict[str, Any]:
        before = self._before(found, change).texts
        stay = [language for language in before if wanted.texts.get(language) == before[language] and language != "ja"]
        first = next(iter(before), "")
        stay = stay if first and wanted.texts[first] != before[first] else []
        return {
            "made": made,
            "wrong": (),
            "stay": [language_name(visit, language) for language in stay],
            "media": [visit.w(f"home.media_of.{name}") for name in made.message.channels],
            "language_name": lambda language: language_name(visit, language),
        }

    @staticmethod
    def _no_texts(visit: Visit, problems: Sequence[Problem]) -> dict[str, Any]:
        """While something is wrong with what was typed there is nothing to see."""
        return {"made": None, "wrong": problems, "language_name": lambda language: language_name(visit, language)}

    def _reach(self, visit: Visit, found: Found, change: Change) -> list[str]:
        """Whom it reaches, in numbers, before the act."""
        message = found.issue.message
        counts = [mailing.counts for mailing in found.mailings]
        have = sum(one.delivered + one.unknown for one in counts)
        rest = sum(one.queued + one.in_flight for one in counts)
        said = [visit.w("changing.drill")] if message.is_drill else []
        sent, waits = f"{have:,}", f"{rest:,}"
        if change in (Change.UPDATE, Change.CORRECTION):
            people = self.app.pipeline.reach(found.kept.message).mails
            key = "confirmations.correct" if change is Change.CORRECTION else "changing.update"
            said.append(visit.w(key, people=f"{people:,}") if people else visit.w("changing.correct_none"))
        elif change is Change.CANCEL:
            said.append(
                visit.w("confirmations.cancel", sent=sent, rest=waits) if counts else visit.w("changing.cancel_none")
            )
        else:
            what = {"area": message.area_text, "event": message.event or bare(message.info.headline)}
            clear = "confirmations.clear" if counts else "changing.clear_none"
            said.append(visit.w(clear, people=sent, **what))
        if counts and change is not Change.CANCEL:
            key = "drill_" if message.is_drill else ""
            if change is Change.ALL_CLEAR:
                said.append(visit.w(f"changing.{'drill_reach' if key else 'sent_to'}", sent=sent, rest=waits))
            else:
                said.append(visit.w(f"changing.{key}renewed", sent=sent, rest=waits))
        posts = sum(d.kind == PUSH and d.state is State.DELIVERED for d in found.deliveries)
        if posts and change in (Change.CANCEL, Change.CORRECTION):
            said.append(visit.w("changing.posts", n=posts))
        if self.app.settings.is_rehearsal and not message.is_drill:
            said.append(visit.w("confirmations.rehearsal"))
        return said


def _texts_of(info: Info) -> dict[str, str]:
    """What can be given anew: the title and the text always, the rest where there is some."""
    found = {"headline": bare(info.headline), "summary": bare(info.summary), "description": info.description}
    found["spoken"] = info.spoken
    return {name: text for name, text in found.items() if text or name in ("headline", "description")}


def _with_texts(info: Info, typed: Mapping[str, str], problems: list[Problem], words: Words) -> Info:
    for name, text in typed.items():
        where = f"text-{info.language}-{name}"
        if not text:
            problems.append(words.problem(where, f"changing.{name}_needed"))
        lines = 1 if name == "headline" else None
        problems.extend(text_problems(where, text, most=_LONGEST[name], lines=lines))
    return replace(
        info,
        headline=typed["headline"],
        summary=typed.get("summary", info.summary),
        description=typed["description"],
        spoken=typed.get("spoken", info.spoken),
    )


def _go_word(visit: Visit, found: Found, change: Change) -> str:
    """Live, drill and rehearsal have verbs of their own; a notice is simply changed."""
    message = found.issue.message
    if message.is_drill:
        return visit.w(f"changing.go.drill_{change}")
    if not message.is_alert:
        return visit.w(f"buttons.{'correct' if change is Change.CORRECTION else change.value}")
    place = "rehearsal" if visit.app.settings.is_rehearsal else "live"
    return visit.w(f"changing.go.{place}_{change}")
