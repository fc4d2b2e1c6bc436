"""The board of one message after it was sent: how far it has come on every medium, with its evidence; what to do about what
did not arrive; and, at the top, how to correct it or take it back.

"Delivered" is said only with evidence. What the relay took over is called that and no more.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from starlette.responses import Response

from broadcaster import charts
from broadcaster.charts import Curve
from broadcaster.clock import local
from broadcaster.credentials import new_secret
from broadcaster.delivery import UNSETTLED, Counts, State
from broadcaster.message import LANGUAGES, Change, Message, is_identifier
from broadcaster.problems import Refused
from broadcaster.roles import Right
from broadcaster.store import audit, deliveries, issues, messages, recipients
from broadcaster.store.audit import Entry
from broadcaster.store.database import Connection
from broadcaster.store.deliveries import BOARD, MAILING, PUSH, RETRACT, Delivery
from broadcaster.store.issues import Issue
from broadcaster.store.messages import Kept
from broadcaster.web.desk import once, tables
from broadcaster.web.desk.measures import Measures, in_words, mailings_of
from broadcaster.web.desk.standing import DONE, NOBODY, Medium, media_of
from broadcaster.web.desk.visit import PATH, Desk, NotThere, Visit
from broadcaster.web.desk.wording import act_sentence, ending_word

INLINE = 20_000
"""Letters of one message that are counted on the board itself; more of them have a page of their own."""

RATE_OVER = timedelta(seconds=1)
"""A rate is told after so long: of less it would be a guess."""


def register(desk: Desk) -> None:
    sent = Sent(desk)
    desk.get("/sent/{identifier}", Right.READ, sent.show)
    desk.get("/sent/{identifier}/parts", Right.READ, sent.parts)
    desk.get("/sent/{identifier}/where", Right.READ, sent.where)
    desk.get("/sent/{identifier}/resend", Right.CHANGE, sent.ask_resend)
    desk.post("/sent/{identifier}/resend", Right.CHANGE, sent.resend, asks_again=True)


@dataclass(frozen=True, kw_only=True)
class Found:
    """One message that went out, as the ledger has it."""

    kept: Kept
    issue: Issue
    deliveries: Sequence[Delivery]
    acts: Sequence[Entry]

    @property
    def media(self) -> tuple[Medium, ...]:
        return media_of(self.deliveries)

    @property
    def is_settled(self) -> bool:
        return all(delivery.state not in UNSETTLED for delivery in self.deliveries)

    @property
    def mailings(self) -> list[Delivery]:
        return mailings_of(self.deliveries)

    def is_in_force(self, now: datetime) -> bool:
        return self.issue.ended_at is None and self.issue.expires_at > now

    def last_at(self) -> datetime | None:
        """When the last of what was planned with the act was settled."""
        settled = [d.settled_at for d in self.deliveries if d.settled_at is not None and d.part != "expired"]
        return max(settled, default=None)

    def failed(self) -> list[Delivery]:
        """What can be sent again by itself: mailings with letters that failed, pushes that failed and lead."""
        by_id = {delivery.id: delivery for delivery in self.deliveries}

        def leads(delivery: Delivery) -> bool:
            return delivery.after_id is None or by_id[delivery.after_id].state is State.DELIVERED

        return [
            delivery
            for delivery in self.deliveries
            if (delivery.kind == MAILING and delivery.counts.failed)
            or (delivery.kind == PUSH and delivery.state is State.FAILED and leads(delivery))
        ]

    @property
    def number_failed(self) -> int:
        return sum(number_failed_of(delivery) for delivery in self.failed())


def number_failed_of(delivery: Delivery) -> int:
    return delivery.counts.failed if delivery.kind == MAILING else 1


@dataclass(frozen=True, kw_only=True)
class Row:
    """One medium on the board, in words."""

    channel: str
    name: str
    state: str  # of `states_delivery`, for the colour
    word: str
    far: str
    meter: str
    notes: Sequence[str]
    times: str
    evidence: Sequence[str]
    to_do: Sequence[tuple[str, str]]  # words and where


def found_of(connection: Connection, identifier: str) -> Found:
    """Raises NotThere."""
    issue = issues.get(connection, identifier) if is_identifier(identifier) else None
    if issue is None:
        raise NotThere
    return Found(
        kept=messages.by_id(connection, issue.message_id),
        issue=issue,
        deliveries=deliveries.of_issue(connection, issue.id),
        acts=audit.about(connection, identifier),
    )


class Sent:
    def __init__(self, desk: Desk) -> None:
        self.app = desk.app
        self.measures = Measures()

    # The board

    def show(self, visit: Visit) -> Response:
        identifier = visit.path("identifier")
        with self.app.database.read() as connection:
            if is_kept_only(connection, identifier):
                return visit.go(f"{PATH}/messages/{identifier}")
            found = found_of(connection, identifier)
            return visit.page("desk/sent.html", **self._seen(visit, connection, found))

    def parts(self, visit: Visit) -> Response:
        """What changes while it goes out, without the frame."""
        with self.app.database.read() as connection:
            found = found_of(connection, visit.path("identifier"))
            return visit.page("desk/sent-parts.html", is_alone=True, **self._seen(visit, connection, found))

    def _seen(self, visit: Visit, connection: Connection, found: Found) -> dict[str, Any]:
        media = found.media
        curve = None
        letters = sum(mailing.counts.total for mailing in found.mailings)
        if letters <= INLINE:
            curve = self.measures.curve(connection, found.issue, found.deliveries)
        largest = max(found.mailings, key=lambda mailing: mailing.counts.total, default=None)
        domains = self.measures.domains(connection, largest) if largest is not None and letters <= INLINE else []
        return {
            **head_of(visit, connection, found),
            "title": title_of(visit, media, found),
            "sentence": sentence(visit, media, is_settled=found.is_settled),
            "rows": [self._row(visit, medium, found) for medium in media],
            "by_hand": [name for name in found.issue.message.channels if name in self.app.settings.ward.by_hand],
            "elapsed_s": elapsed(visit, found),
            "number_failed": found.number_failed if found.is_in_force(visit.now) else 0,
            "chart": curve_chart(visit, "letters", curve) if curve else "",
            "tables": {
                "letters": tables.letters(visit, curve.steps, curve.thinned()) if curve else None,
                "domains": tables.domains(visit, domains) if domains else None,
            },
            "letters": letters,
            "largest": part_name(visit, largest) if largest else "",
            "still": visit.query("still") == "1",
            "part_name": lambda delivery: part_name(visit, delivery),
            "in_words": lambda seconds: in_words(visit, seconds),
            "since": lambda at: in_words(visit, max((at - found.issue.sent_at).total_seconds(), 0.0)),
            "evidence_of": lambda delivery: evidence_of(visit, delivery),
            "state_of": lambda delivery: _state_of(visit, delivery),
            "not_done": lambda counts: not_done(visit, counts),
        }

    def _row(self, visit: Visit, medium: Medium, found: Found) -> Row:
        name = visit.w(f"home.media_of.{medium.channel}")
        parts = medium.deliveries
        mailings = [part for part in parts if part.kind == MAILING]
        others = [part for part in parts if part.kind != MAILING]
        counts = medium.counts if mailings else _counted(others)
        unit = "of_people" if mailings else "of_posts" if any(part.kind == PUSH for part in parts) else "of_boards"
        ends = {end: getattr(counts, end) for end in charts.ENDS}
        tries = max((part.attempts for part in parts), default=0)
        far = visit.w(f"sent.{unit}", n=f"{counts.delivered:,}", of=f"{counts.total:,}") if counts.total else ""
        return Row(
            channel=medium.channel,
            name=name,
            state="stopped" if medium.state == NOBODY else medium.state,
            word=visit.w("sent.no_readers") if medium.state == NOBODY else ending_word(visit, medium.state, tries),
            far=far,
            meter=charts.meter(f"m-{medium.channel}", name=far, total=counts.total, numbers=ends) if far else "",
            notes=_notes(visit, counts, mailings),
            times=_times(visit, parts, found.issue),
            evidence=_row_evidence(visit, mailings, others),
            to_do=self._to_do(visit, medium, found),
        )

    def _to_do(self, visit: Visit, medium: Medium, found: Found) -> list[tuple[str, str]]:
        to_do = []
        if any(part.state in (State.FAILED, State.UNKNOWN) for part in medium.deliveries):
            to_do.append((visit.w("sent.decide"), f"{PATH}/decisions"))
        failed = sum(number_failed_of(part) for part in found.failed() if part.channel == medium.channel)
        if failed and found.is_in_force(visit.now) and visit.may(Right.CHANGE):
            again = f"{PATH}/sent/{found.issue.message.identifier}/resend"
            to_do.append((visit.w("buttons.resend_failed", n=failed), again))
        return to_do

    # Where it arrived: counted from every letter, so on a page of its own

    def where(self, visit: Visit) -> Response:
        with self.app.database.read() as connection:
            found = found_of(connection, visit.path("identifier"))
            mailings = sorted(found.mailings, key=lambda mailing: -mailing.counts.total)
            asked = next((m for m in mailings if m.part == visit.query("part")), mailings[0] if mailings else None)
            reached = self.measures.reached(connection, found.issue.message, self.app.settings.ward, found.deliveries)
            curve = self.measures.curve(connection, found.issue, found.deliveries)
            return visit.page(
                "desk/sent-where.html",
                **head_of(visit, connection, found),
                mailings=mailings,
                asked=asked,
                answers=recipients.answers(connection, asked.id, State.FAILED) if asked and asked.counts.failed else [],
                reach_chart=reach_chart(visit, "reach", reached) if reached else "",
                chart=curve_chart(visit, "letters", curve) if curve else "",
                tables={
                    "letters": tables.letters(visit, curve.steps, curve.thinned()) if curve else None,
                    "reach": tables.reach(visit, reached),
                    "domains": tables.domains(visit, self.measures.domains(connection, asked) if asked else []),
                },
                part_name=lambda delivery: part_name(visit, delivery),
                in_words=lambda seconds: in_words(visit, seconds),
            )

    # Only what was not delivered, once more

    def ask_resend(self, visit: Visit) -> Response:
        with self.app.database.read() as connection:
            return self._asked(visit, connection, found_of(connection, visit.path("identifier")))

    def _asked(self, visit: Visit, connection: Connection, found: Found, *, status: int = 200) -> Response:
        numbers: dict[str, int] = {}
        for delivery in found.failed():
            numbers[delivery.channel] = numbers.get(delivery.channel, 0) + number_failed_of(delivery)
        return visit.page(
            "desk/sent-resend.html",
            status=status,
            **head_of(visit, connection, found),
            numbers=numbers,
            number=found.number_failed,
            may_go=found.is_in_force(visit.now),
            key=visit.field("key") or new_secret(),
        )

    def resend(self, visit: Visit) -> Response:
        identifier = visit.path("identifier")
        board = f"{PATH}/sent/{identifier}"
        with self.app.database.read() as connection:
            found = found_of(connection, identifier)
            if once.done(visit, connection):
                return visit.go(board)
            if visit.is_resumed or not found.number_failed or not found.is_in_force(visit.now):
                return self._asked(visit, connection, found, status=200 if visit.is_resumed else 409)
        try:
            with contextlib.suppress(once.AlreadyKept):  # the same press, a moment earlier
                self.app.pipeline.resend_failed(identifier, visit.actor, also=once.kept(visit))
        except Refused as refused:
            return visit.page("desk/says.html", status=409, what="refused", problems=refused.problems)
        return visit.go(board)


def is_kept_only(connection: Connection, identifier: str) -> bool:
    """A message that has not gone out: it has a page of its own."""
    kept = messages.get(connection, identifier) if is_identifier(identifier) else None
    return kept is not None and kept.issued_as is None


# Words


def head_of(visit: Visit, connection: Connection, found: Found) -> dict[str, Any]:
    """What the top of every page about a message needs."""
    message = found.issue.message
    after = issues.get(connection, found.issue.ended_by) if found.issue.ended_by else None
    return {
        "found": found,
        "message": message,
        "identifier": message.identifier,
        "place": place_of(found),
        "after": after,
        "is_in_force": found.is_in_force(visit.now),
        "changes": offered(found, visit),
        "who": who_sent(visit, found),
        "acts": [(entry.at, act_sentence(visit, entry)) for entry in found.acts],
    }


def place_of(found: Found) -> str:
    """Live and drill never look alike; a notice is calm."""
    message = found.issue.message
    return "of-drill" if message.is_drill else "of-live" if message.is_alert else ""


def may_change(visit: Visit, message: Message) -> bool:
    """Whoever may hold a drill may take it back; what is live needs the right of its own."""
    return visit.may(Right.DRILL if message.is_drill else Right.CHANGE)


def offered(found: Found, visit: Visit) -> list[tuple[str, str]]:
    """The changes that can be made of it here, with their buttons."""
    message = found.issue.message
    if not found.is_in_force(visit.now) or not may_change(visit, message):
        return []
    all_of_them = [
        (Change.CORRECTION, "correct"),
        (Change.UPDATE, "update"),
        (Change.CANCEL, "cancel"),
        (Change.ALL_CLEAR, "all_clear"),
    ]
    if message.is_ended:
        all_of_them = all_of_them[:1]
    elif not message.is_alert:
        all_of_them = all_of_them[:3]
    return [(change.value, visit.w(f"buttons.{button}")) for change, button in all_of_them]


def who_sent(visit: Visit, found: Found) -> str:
    kept, time = found.kept, f"{local(found.issue.sent_at):%H:%M:%S}"
    wrote, approved = visit.called(kept.created_by), visit.called(kept.approved_by or kept.created_by)
    if kept.approved_by in (None, kept.created_by):
        return visit.w("sent.by_one", time=time, wrote=wrote)
    return visit.w("sent.by", time=time, wrote=wrote, approved=approved)


def title_of(visit: Visit, media: Iterable[Medium], found: Found) -> str:
    """✓ 5/6 避難指示: the whole state in the title of a tab."""
    counted = [medium for medium in media if medium.state != NOBODY]
    ok = sum(medium.state in DONE for medium in counted)
    states = {medium.state for medium in counted}
    mark = "✓"
    for state, shown in (("pending", "◔"), ("retrying", "◔"), ("unknown", "?"), ("failed", "✕")):
        mark = shown if state in states else mark
    headline = found.issue.message.info.headline
    return visit.w("sent.title", mark=mark, ok=ok, n=len(counted), title=headline)


def sentence(visit: Visit, media: Sequence[Medium], *, is_settled: bool) -> str:
    """How it stands, in one line."""
    counted = [medium for medium in media if medium.state != NOBODY]
    if not counted:
        return visit.w("sent.said.nobody")
    ok = [medium for medium in counted if medium.state in DONE]
    if len(ok) == len(counted):
        handed = [medium for medium in ok if medium.state == "accepted"]
        if handed:
            return visit.w("sent.said.all_handed", n=len(counted), names=_names(visit, handed))
        return visit.w("sent.said.all", n=len(counted))
    said = [visit.w("sent.said.part", n=len(counted), ok=len(ok)) if ok else visit.w("sent.said.none")]
    for state, word in (
        ("failed", "failed"),
        ("unknown", "unknown"),
        ("retrying", "checking"),
        ("pending", "pending"),
        ("stopped", "stopped"),
    ):
        those = [medium for medium in counted if medium.state == state]
        if those and not (state == "pending" and not ok and len(those) == len(counted)):
            said.append(visit.w(f"sent.said.{word}", names=_names(visit, those, word)))
    return ("" if visit.language == "ja" else " ").join(said)


def _names(visit: Visit, media: Iterable[Medium], word: str = "") -> str:
    return visit.w("sent.said.between").join(_named(visit, medium, word) for medium in media)


def _named(visit: Visit, medium: Medium, word: str) -> str:
    """With the number of people where only some of them are meant."""
    name = visit.w(f"home.media_of.{medium.channel}")
    counts = medium.counts
    number = {"pending": counts.queued + counts.in_flight, "failed": counts.failed, "unknown": counts.unknown}.get(word)
    if counts.total and number:
        return visit.w("sent.said.some_people", medium=name, n=f"{number:,}")
    return name


def _state_of(visit: Visit, delivery: Delivery) -> tuple[str, str]:
    """Of one delivery: its colour and its word."""
    key = deliveries.ending(delivery.state, delivery.kind, delivery.attempts)
    return key, ending_word(visit, key, delivery.attempts)


def part_name(visit: Visit, delivery: Delivery) -> str:
    """`en.html` is 英語（飾りつき）."""
    if delivery.kind == RETRACT:
        return visit.w("sent.retract")
    if delivery.kind == BOARD:
        return visit.w("sent.refresh_expired") if delivery.part == "expired" else visit.w("shell.all")
    if delivery.kind == MAILING:
        language, _, form = delivery.part.partition(".")
        name = language_name(visit, language)
        return f"{name}（{visit.w(f'sent.form_{form}')}）" if form else name
    return visit.w("sent.nth", n=delivery.part) if delivery.part.isdecimal() else delivery.part


def language_name(visit: Visit, language: str) -> str:
    return visit.w(f"sent.languages.{language}") if language in LANGUAGES else language


_BOARD_SAID = re.compile(r'(\d+) pages, "?([0-9A-Za-z]+)')


def evidence_of(visit: Visit, delivery: Delivery) -> str:
    if delivery.kind == MAILING:
        return visit.w("sent.relay_said") if delivery.counts.delivered else ""
    if delivery.kind == BOARD:
        said = _BOARD_SAID.match(delivery.evidence)
        return visit.w("sent.pages", n=said[1], version=said[2][:8]) if said else delivery.evidence
    if delivery.kind == PUSH and delivery.evidence and delivery.state is State.DELIVERED:
        return visit.w("sent.post", id=delivery.evidence)
    return ""


def _row_evidence(visit: Visit, mailings: Sequence[Delivery], others: Sequence[Delivery]) -> list[str]:
    said = [evidence_of(visit, part) for part in [*mailings[:1], *others] if part.state not in UNSETTLED]
    if any(mailing.counts.delivered for mailing in mailings):
        said.append(visit.w("sent.relay_said"))
    details = [part.detail for part in others if part.detail and part.state is not State.DELIVERED]
    return list(dict.fromkeys(filter(None, [*said, *details])))[:4]


def not_done(visit: Visit, counts: Counts) -> str:
    """The ends that are not good, where there are some."""
    ends = (("not_delivered", counts.failed), ("unknown", counts.unknown), ("stopped", counts.stopped))
    return "・".join(f"{visit.w(f'sent.{word}')} {number:,}" for word, number in ends if number)


def _notes(visit: Visit, counts: Counts, mailings: Sequence[Delivery]) -> list[str]:
    notes = []
    if mailings and (said := not_done(visit, counts)):
        notes.append(said)
    running = [mailing for mailing in mailings if mailing.state in UNSETTLED]
    began = min((m.first_attempt_at for m in mailings if m.first_attempt_at is not None), default=None)
    if running and began is not None and visit.now - began >= RATE_OVER and counts.settled:
        rate = counts.settled / (visit.now - began).total_seconds()
        notes.append(visit.w("sent.rate", n=f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"))
        if waiting := counts.total - counts.settled:
            notes.append(visit.w("sent.left", time=in_words(visit, waiting / rate)))
    return notes


def _counted(parts: Sequence[Delivery]) -> Counts:
    """Pushes, boards and retractions counted as letters are. Renewals of a board when it ended say nothing of the act."""
    mine = [part for part in parts if part.part != "expired"] or parts
    number = {state: sum(part.state is state for part in mine) for state in State}
    return Counts(
        total=len(mine),
        queued=number[State.QUEUED],
        in_flight=number[State.IN_FLIGHT],
        delivered=number[State.DELIVERED],
        failed=number[State.FAILED],
        unknown=number[State.UNKNOWN],
        stopped=number[State.STOPPED],
    )


def _times(visit: Visit, parts: Sequence[Delivery], issue: Issue) -> str:
    """First and last, in seconds since the act."""
    mine = [part for part in parts if part.part != "expired"]
    first = min((part.first_attempt_at for part in mine if part.first_attempt_at is not None), default=None)
    settled = [part.settled_at for part in mine if part.state not in UNSETTLED and part.settled_at is not None]
    if first is None:
        return "—"
    last = max(settled, default=None) if len(settled) == len(mine) else None

    def since(at: datetime) -> str:
        return in_words(visit, max((at - issue.sent_at).total_seconds(), 0.0))

    return f"{since(first)}／{since(last)}" if last is not None else f"{since(first)}／—"


def elapsed(visit: Visit, found: Found) -> float:
    """Seconds since the act; when everything is settled, until the last of it was."""
    until = found.last_at() if found.is_settled else visit.now
    return max(((until or visit.now) - found.issue.sent_at).total_seconds(), 0.0)


# Charts


def curve_chart(visit: Visit, id: str, curve: Curve) -> str:
    half, most, last = curve.reached(0.5), curve.reached(0.99), curve.last_s
    numbers = ends_of(curve)
    total = f"{curve.total:,}"
    if most is not None:
        found = visit.w("sent.chart.found_most", most=in_words(visit, most), total=total)
    elif curve.delivered and last is not None:
        found = visit.w("sent.chart.found_part", at=in_words(visit, last), total=total, n=f"{curve.delivered:,}")
    else:
        found = visit.w("sent.chart.found_none", total=total)
    never = visit.w("sent.chart.never")
    about = visit.w(
        "sent.chart.about",
        total=total,
        half=never if half is None else in_words(visit, half),
        last=never if last is None else in_words(visit, last),
        **{name: f"{numbers[name]:,}" for name in ("failed", "unknown", "stopped")},
    )
    named = ((half, "half"), (most, "most"), (last if curve.delivered else None, "last"))
    marks = [(at, visit.w(f"sent.chart.{word}", time=in_words(visit, at))) for at, word in named if at is not None]
    return charts.over_time(
        id, curve, title=found, about=about, seconds=lambda seconds: in_words(visit, seconds), marks=marks
    )


def ends_of(curve: Curve) -> Mapping[str, int]:
    last = curve.steps[-1] if curve.steps else None
    return {end: getattr(last, end) if last else 0 for end in charts.ENDS}


def reach_chart(visit: Visit, id: str, rows: Sequence[charts.Reached]) -> str:
    lowest = min((row for row in rows if row.total), key=lambda row: row.share, default=rows[0])
    return charts.reach(
        id,
        rows,
        title=visit.w("report.reach_found", name=lowest.name, share=f"{lowest.share:.0%}"),
        about=visit.w("report.reach_about"),
        number=lambda row: reach_number(visit, row),
    )


def reach_number(visit: Visit, row: charts.Reached) -> str:
    said = visit.w("sent.of_people", n=f"{row.delivered:,}", of=f"{row.total:,}")
    return f"{said}・{visit.w('terms.screens_count', n=row.screens)}" if row.screens else said
