"""The report after the act, made by itself: what was done when and by whom, how the words changed, how fast each medium
was, what failed; on a page and on paper from the same values. And the review that sending alone leaves open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from starlette.responses import Response

from broadcaster import charts, paper
from broadcaster.charts import Latency, Level
from broadcaster.clock import local
from broadcaster.delivery import UNSETTLED, Counts, State
from broadcaster.differences import SAME, runs
from broadcaster.manuscript import text_problems
from broadcaster.problems import Problem
from broadcaster.render import at_desk, day, time_at_desk
from broadcaster.resources import packaged
from broadcaster.roles import Right, may, who_may
from broadcaster.store import audit, drafts, issues, messages, notes
from broadcaster.store.database import Connection
from broadcaster.store.deliveries import MAILING, Delivery
from broadcaster.store.notes import Review
from broadcaster.web.desk import tables
from broadcaster.web.desk.exports import as_csv, as_file
from broadcaster.web.desk.measures import Measures, in_words
from broadcaster.web.desk.sent import (
    Found,
    curve_chart,
    found_of,
    head_of,
    part_name,
    reach_chart,
    sentence,
)
from broadcaster.web.desk.tables import Table
from broadcaster.web.desk.visit import PATH, Desk, NotThere, Visit
from broadcaster.web.desk.wording import act_name, act_sentence, ending_word

log = structlog.get_logger(__name__)

LONGEST_CHAIN = 20
"""Corrections of corrections that one report follows."""

MOST_TEXT = 10_000


def register(desk: Desk) -> None:
    reports = Reports(desk)
    desk.get("/sent/{identifier}/report", Right.READ, reports.show)
    desk.get("/sent/{identifier}/report.pdf", Right.READ, reports.pdf)
    desk.get("/sent/{identifier}/numbers/{table}.csv", Right.READ, reports.numbers)
    desk.post("/sent/{identifier}/report", Right.REVIEW, reports.review, asks_again=True)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One thing that happened."""

    at: datetime
    after: str
    said: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Version:
    """One version of the words, and how it differs from the one before: runs of text, as `differences.runs` gives them."""

    name: str
    title: str
    runs: tuple[tuple[str, str], ...]

    @property
    def is_same(self) -> bool:
        return all(kind == SAME for kind, _ in self.runs)


class Reports:
    def __init__(self, desk: Desk) -> None:
        self.app = desk.app
        self.measures = Measures()

    def show(self, visit: Visit) -> Response:
        return self._page(visit)

    def _page(self, visit: Visit, *, status: int = 200, problems: Sequence[Problem] = ()) -> Response:
        with self.app.database.read() as connection:
            found = found_of(connection, visit.path("identifier"))
            review = notes.review_of(connection, found.issue.message.identifier)
            return visit.page(
                "desk/report.html",
                status=status,
                problems=problems,
                **head_of(visit, connection, found),
                **self._told(visit, connection, found),
                **_review_of(visit, review),
                in_words=lambda seconds: in_words(visit, seconds),
                part_name=lambda delivery: part_name(visit, delivery),
            )

    def _told(self, visit: Visit, connection: Connection, found: Found) -> dict[str, Any]:
        chain = _chain(connection, found)
        levels = _levels(visit, chain)
        curve = self.measures.curve(connection, found.issue, found.deliveries)
        latencies = self._latencies(visit, connection, found)
        reached = self.measures.reached(connection, found.issue.message, self.app.settings.ward, found.deliveries)
        return {
            "sentence": sentence(visit, found.media, is_settled=found.is_settled),
            "timeline": _timeline(visit, connection, found, chain),
            "people": _people(visit, chain),
            "versions": _versions(visit, connection, found, chain),
            "levels_chart": _levels_chart(visit, levels) if levels else "",
            "latency_chart": _latency_chart(visit, latencies) if latencies else "",
            "chart": curve_chart(visit, "letters", curve) if curve else "",
            "tables": {
                "counts": tables.counts(visit, _counts(visit, found)),
                "latency": tables.latency(visit, latencies),
                "levels": tables.levels(visit, levels),
                "letters": tables.letters(visit, curve.steps, curve.thinned()) if curve else None,
                "reach": tables.reach(visit, reached),
            },
            "reach_chart": reach_chart(visit, "reach", reached) if reached else "",
            "wrong": _wrong(visit, found),
            "by_whom": visit.w("report.made", time=at_desk(visit.now, visit.language), who=visit.person.full_name),
        }

    def numbers(self, visit: Visit) -> Response:
        """The numbers of one chart, all of them, for a spreadsheet."""
        with self.app.database.read() as connection:
            found = found_of(connection, visit.path("identifier"))
            table = self._table(visit, connection, found, visit.path("table"))
        return as_file(as_csv, table.records(), f"{table.name}-{found.issue.message.identifier}")

    def _table(self, visit: Visit, connection: Connection, found: Found, name: str) -> Table:
        """Raises NotThere."""
        match name:
            case "counts":
                return tables.counts(visit, _counts(visit, found))
            case "latency":
                return tables.latency(visit, self._latencies(visit, connection, found))
            case "levels":
                return tables.levels(visit, _levels(visit, _chain(connection, found)))
            case "letters":
                curve = self.measures.curve(connection, found.issue, found.deliveries)
                return tables.letters(visit, curve.steps if curve else ())
            case "reach":
                ward = self.app.settings.ward
                reached = self.measures.reached(connection, found.issue.message, ward, found.deliveries)
                return tables.reach(visit, reached)
        raise NotThere

    def _latencies(self, visit: Visit, connection: Connection, found: Found) -> list[Latency]:
        def medium(channel: str) -> str:
            return visit.w(f"home.media_of.{channel}")

        return self.measures.latencies(connection, found.issue, found.deliveries, medium)

    # The review of having sent alone

    def review(self, visit: Visit) -> Response:
        identifier = visit.path("identifier")
        text = visit.field("text").strip()
        with self.app.database.read() as connection:
            review = notes.review_of(connection, identifier)
        if review is None or review.written_at is not None:
            raise NotThere if review is None else messages.ChangedMeanwhile(identifier)
        if review.opened_by == visit.person.name:
            return self._page(visit, status=403, problems=[visit.problem("text", "report.review_own")])
        problems = text_problems("text", text, most=MOST_TEXT)
        if not text:
            problems.append(visit.problem("text", "report.review_empty"))
        if problems or visit.is_resumed:
            return self._page(visit, status=422 if problems else 200, problems=problems)
        with self.app.database.write() as connection:
            if not notes.write_review(connection, identifier, text, by=visit.person.name, at=visit.now):
                raise messages.ChangedMeanwhile(identifier)
            kept = messages.get(connection, identifier)
            assert kept is not None
            audit.write(connection, visit.actor, "review.written", identifier, at=visit.now, mode=kept.message.mode)
        self.app.signals.notify()
        return visit.go(f"{PATH}/sent/{identifier}/report")

    # On paper

    def pdf(self, visit: Visit) -> Response:
        with self.app.database.read() as connection:
            found = found_of(connection, visit.path("identifier"))
            review = notes.review_of(connection, found.issue.message.identifier)
            told = self._told(visit, connection, found)
            who = head_of(visit, connection, found)["who"]
        try:
            made = paper.printed(
                packaged("templates") / "desk" / "report.typ", _on_paper(visit, found, told, review, who), at=visit.now
            )
        except paper.NotPrinted as error:
            log.error("report.not_printed", why=str(error))
            visit.stop("desk/report-no-pdf.html", status=503, identifier=found.issue.message.identifier)
        headers = {
            "cache-control": "no-store",
            "content-disposition": f'inline; filename="report-{found.issue.message.identifier}.pdf"',
        }
        return Response(made, media_type="application/pdf", headers=headers)


def _chain(connection: Connection, found: Found) -> list[Found]:
    """The first message, its changes in order, and what replaced this one, as far as they were sent."""
    earlier = [reference.identifier for reference in found.issue.message.references][-LONGEST_CHAIN:]
    chain = [found_of(connection, id) for id in earlier if issues.get(connection, id) is not None]
    chain.append(found)
    while (after := chain[-1].issue.ended_by) and len(chain) < 2 * LONGEST_CHAIN:
        chain.append(found_of(connection, after))
    return chain


def _timeline(visit: Visit, connection: Connection, found: Found, chain: Sequence[Found]) -> list[Line]:
    sent_at = found.issue.sent_at

    def after(at: datetime) -> str:
        took = (at - sent_at).total_seconds()
        return in_words(visit, took) if took >= 0 else ""

    lines = []
    for one in chain:
        change = one.issue.message.change
        for entry in one.acts:
            said = act_sentence(visit, entry)
            if entry.act == "message.issued" and change is not None:
                said = visit.w(
                    "sent.acts.message_changed", who=visit.called(entry.actor), change=visit.w(f"terms.{change}")
                )
            title = one.issue.message.info.headline if one is not found else ""
            lines.append(Line(at=entry.at, after=after(entry.at), said=said, detail=title))
    for note in notes.of(connection, found.issue.message.identifier):
        said = visit.w("sent.acts.other", who=visit.called(note.by), act=note.text)
        lines.append(Line(at=note.at, after=after(note.at), said=said))
    for medium in found.media:
        name = visit.w(f"home.media_of.{medium.channel}")
        tried = [part.first_attempt_at for part in medium.deliveries if part.first_attempt_at is not None]
        if tried:
            lines.append(Line(at=min(tried), after=after(min(tried)), said=visit.w("report.first_out", medium=name)))
        ended = [
            part.settled_at for part in medium.deliveries if part.settled_at is not None and part.part != "expired"
        ]
        if ended and all(part.state not in UNSETTLED for part in medium.deliveries):
            said = visit.w("report.last_out", medium=name, state=ending_word(visit, medium.state))
            lines.append(Line(at=max(ended), after=after(max(ended)), said=said))
    return sorted(lines, key=lambda line: line.at)


def _levels(visit: Visit, chain: Sequence[Found]) -> list[tuple[Level, str]]:
    """How the alert level went, from the first message to its end; nothing where no message had one."""
    if not any(one.issue.message.level for one in chain):
        return []
    began, last = chain[0].issue.sent_at, chain[-1].issue

    def after(at: datetime) -> float:
        return max((at - began).total_seconds(), 0.0)

    steps = []
    for one in chain:
        message = one.issue.message
        act = visit.w(f"terms.{message.change}") if message.change else act_name(visit, "message.issued")
        level = 0 if message.is_ended else message.level or 0
        steps.append((Level(at_s=after(one.issue.sent_at), level=level), act))
    if not last.message.is_ended and last.expires_at <= visit.now:
        steps.append((Level(at_s=after(last.expires_at), level=0), visit.w("states_message.ended")))
    return steps


def _people(visit: Visit, chain: Sequence[Found]) -> list[tuple[str, list[str]]]:
    """Each with what they did, in the order in which they came."""
    found: dict[str, list[str]] = {}
    for one in chain:
        for entry in one.acts:
            did = act_sentence(visit, entry)
            found.setdefault(entry.actor, [])
            if did not in found[entry.actor]:
                found[entry.actor].append(did)
    return [(visit.called(name), did) for name, did in found.items()]


def _versions(visit: Visit, connection: Connection, found: Found, chain: Sequence[Found]) -> list[Version]:
    texts = [*_drafts_of(visit, connection, chain[0])]
    for number, one in enumerate(chain):
        message = one.issue.message
        time = at_desk(one.issue.sent_at, visit.language)
        change = visit.w(f"terms.{message.change}") if message.change else visit.w("report.version_sent")
        name = visit.w("report.version_next", change=change, time=time)
        if not number and not texts and len(chain) == 1:
            name = visit.w("report.version_first")
        texts.append((name, message.info.headline, message.info.description))
    made: list[Version] = []
    before = ""
    for name, title, text in texts:
        whole = f"{title}\n{text}"
        told = tuple(runs(before, whole)) if made else ((SAME, whole),)
        made.append(Version(name=name, title=title, runs=told))
        before = whole
    return made


def _drafts_of(visit: Visit, connection: Connection, first: Found) -> list[tuple[str, str, str]]:
    draft = drafts.of_message(connection, first.issue.message.identifier)
    if draft is None:
        return []
    return [
        (
            visit.w(
                "report.version_draft",
                n=version.version,
                who=visit.called(version.saved_by),
                time=at_desk(version.saved_at, visit.language),
            ),
            str(version.manuscript.get("title", "")),
            str(version.manuscript.get("body", "")),
        )
        for version in reversed(drafts.versions(connection, draft.id)[:LONGEST_CHAIN])
    ]


def _counts(visit: Visit, found: Found) -> list[tuple[str, Counts]]:
    """The four ends of each medium, people for mails, posts and boards for the rest."""
    rows = []
    for medium in found.media:
        counts = medium.counts
        others = [part for part in medium.deliveries if part.kind != MAILING and part.part != "expired"]
        if not counts.total:
            number = {state: sum(part.state is state for part in others) for state in State}
            counts = Counts(
                total=len(others),
                queued=number[State.QUEUED] + number[State.IN_FLIGHT],
                delivered=number[State.DELIVERED],
                failed=number[State.FAILED],
                unknown=number[State.UNKNOWN],
                stopped=number[State.STOPPED],
            )
        rows.append((visit.w(f"home.media_of.{medium.channel}"), counts))
    return rows


def _wrong(visit: Visit, found: Found) -> list[str]:
    """What failed, what is unknown, what had to be tried again; each in a sentence."""
    said = []
    for one in found.deliveries:
        name = {"medium": visit.w(f"home.media_of.{one.channel}"), "part": part_name(visit, one)}
        if one.kind == MAILING:
            if one.counts.failed or one.counts.unknown:
                numbers = {"failed": one.counts.failed, "unknown": one.counts.unknown}
                said.append(visit.w("report.wrong_letters", **name, **numbers))
            continue
        if one.state in (State.FAILED, State.UNKNOWN):
            state = ending_word(visit, one.state.name.lower())
            said.append(visit.w("report.wrong_end", **name, state=state) + _because(one))
        elif one.attempts > 1:
            said.append(visit.w("report.wrong_tries", **name, n=one.attempts) + _because(one))
    return said


def _because(delivery: Delivery) -> str:
    return f"（{delivery.detail}）" if delivery.detail else ""


def _latency_chart(visit: Visit, rows: Sequence[Latency]) -> str:
    fast, slow = rows[0], rows[-1]
    words = {
        "fast": fast.name,
        "fast_s": in_words(visit, fast.last_s),
        "slow": slow.name,
        "slow_s": in_words(visit, slow.last_s),
    }
    found = visit.w("report.latency_found", **words) if len(rows) > 1 else visit.w("report.latency_one", **words)
    about = visit.w("report.latency_about")
    return charts.latencies("latency", rows, title=found, about=about, seconds=lambda s: in_words(visit, s))


def _levels_chart(visit: Visit, found: Sequence[tuple[Level, str]]) -> str:
    steps = [step for step, _ in found]
    highest = max(step.level for step in steps)
    return charts.levels(
        "levels",
        steps,
        steps[-1].at_s * 1.1,
        title=visit.w("report.levels_found", n=highest),
        about=visit.w("report.levels_about"),
        seconds=lambda s: in_words(visit, s),
    )


def _review_of(visit: Visit, review: Review | None) -> dict[str, Any]:
    is_open = review is not None and review.written_at is None
    is_own = review is not None and review.opened_by == visit.person.name
    return {
        "review": review,
        "review_is_open": is_open,
        "review_is_own": is_own,
        "may_review": is_open and not is_own and may(visit.person.role, Right.REVIEW),
        "reviewers": "、".join(visit.w(f"roles.{role}") for role in who_may(Right.REVIEW)),
        "typed": visit.field("text"),
    }


# On paper

_STYLE = (
    "<style>text{font-size:13px;font-family:'BIZ UDPGothic','BIZ UDGothic','Noto Sans CJK JP'}.c-name{font-weight:700}"
    ".c-delivered{fill:#197a4b}.c-track{fill:none;stroke:#767676;stroke-width:2}.c-screen{fill:#1a1a1a}"
    ".c-whole{stroke:#767676;stroke-width:2;stroke-dasharray:6 4}.c-axis,.c-mark,.c-tick{stroke:#1a1a1a;stroke-width:2}"
    ".c-tick{stroke-width:4}.c-level{stroke:#1a1a1a;stroke-width:4;fill:none}.c-dot{fill:#fff;stroke:#1a1a1a;stroke-width:3}.c-ground{fill:#fff}"
    ".c-hatch-failed{stroke:#a90000;stroke-width:2;fill:none}.c-hatch-unknown{stroke:#5109ad;stroke-width:3;fill:none}"
    ".c-hatch-stopped{stroke:#595959;stroke-width:2;fill:none}</style>"
)


def _drawn(chart: str) -> str:
    """A chart that brings its looks along: paper has no style sheet."""
    return chart.replace("<defs>", f"{_STYLE}<defs>", 1) if chart else ""


def _on_paper(visit: Visit, found: Found, told: dict[str, Any], review: Review | None, who: str) -> dict[str, Any]:
    """The same values as words only: what stands in them is never read as markup."""
    message = found.issue.message
    w = visit.w
    mode = w("terms.drill") if message.is_drill else w("terms.live")
    if not message.is_drill and visit.app.settings.is_rehearsal:
        mode = w("terms.live_in_rehearsal")
    facts = [
        (w("report.number"), message.identifier),
        (w("report.mode"), mode),
        (
            w("report.sent"),
            f"{day(found.issue.sent_at, visit.language)} {time_at_desk(found.issue.sent_at)}　{who}",
        ),
        (w("report.until"), at_desk(found.issue.expires_at, visit.language)),
        (w("report.area"), message.area_text),
        (w("report.media"), "・".join(w(f"home.media_of.{name}") for name in message.channels)),
    ]
    return {
        "lang": visit.language,
        "is_drill": message.is_drill,
        "mode": mode,
        "title": w("report.of", title=message.info.headline),
        "by_whom": told["by_whom"],
        "page_of": w("report.page_of", n="{n}", of="{of}"),
        "sentence": told["sentence"],
        "facts": facts,
        "heads": {
            name: w(f"report.{name}")
            for name in ("summary", "timeline", "people", "versions", "counts", "latency", "reach", "wrong", "review")
        },
        "timeline_head": [w("report.when"), w("report.after"), w("report.what")],
        "timeline": [
            (f"{local(line.at):%m/%d %H:%M:%S}", line.after, f"{line.said} {line.detail}".strip())
            for line in told["timeline"]
        ],
        "people": [(name, "、".join(did)) for name, did in told["people"]],
        "versions": [{"name": version.name, "runs": list(version.runs)} for version in told["versions"]],
        "counts_head": list(told["tables"]["counts"].heads),
        "counts": told["tables"]["counts"].shown(),
        "latency_head": list(told["tables"]["latency"].heads),
        "latencies": told["tables"]["latency"].shown(),
        "latency_none": w("report.latency_none"),
        "charts": [
            {"title": w(key), "svg": _drawn(told[name])}
            for name, key in (
                ("levels_chart", "report.levels"),
                ("latency_chart", "report.latency"),
                ("chart", "sent.chart.title"),
                ("reach_chart", "report.reach"),
            )
            if told[name]
        ],
        "wrong": told["wrong"] or [w("report.wrong_none")],
        "review": _review_words(visit, review),
    }


def _review_words(visit: Visit, review: Review | None) -> list[str]:
    if review is None:
        return []
    opened = visit.w(
        "report.review_open",
        who=visit.called(review.opened_by),
        time=at_desk(review.opened_at, visit.language),
    )
    said = [visit.w("report.alone") + review.reason]
    if review.written_at is None or review.written_by is None:
        return [opened, *said]
    written = visit.w(
        "report.review_done", who=visit.called(review.written_by), time=at_desk(review.written_at, visit.language)
    )
    return [*said, written, review.text or ""]
