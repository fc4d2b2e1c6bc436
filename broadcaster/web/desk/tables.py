"""The numbers of one message as tables: beside each chart on its page, on paper, and as a file for a spreadsheet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from broadcaster.charts import ENDS, Latency, Level, Reached, Step
from broadcaster.delivery import Counts
from broadcaster.store.recipients import OfDomain
from broadcaster.web.desk.measures import in_words
from broadcaster.web.desk.visit import Visit

Cell = str | int | float
"""A name, a number, or seconds since the act (the only fractions there are)."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Its first column names the row."""

    name: str  # of its file and of its place on the page
    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    seconds: Callable[[float], str]
    names_are_japanese: bool = False
    more: int = 0  # rows that only the file has

    def shown(self) -> list[list[str]]:
        return [[self._shown(cell) for cell in row] for row in self.rows]

    def _shown(self, cell: Cell) -> str:
        if isinstance(cell, float):
            return self.seconds(cell)
        return cell if isinstance(cell, str) else f"{cell:,}"

    def records(self) -> Iterator[dict[str, Cell]]:
        """As a file holds them: numbers as numbers, seconds to the tenth."""
        for row in self.rows:
            cells = (round(cell, 1) if isinstance(cell, float) else cell for cell in row)
            yield dict(zip(self.heads, cells, strict=True))


def letters(visit: Visit, steps: Sequence[Step], most: Sequence[Step] | None = None) -> Table:
    """How the letters of a message went over time; `most` are the steps that a page shows of them."""
    shown = steps if most is None else most
    return Table(
        name="letters",
        title=visit.w("sent.chart.title"),
        heads=[visit.w("sent.chart.after"), *_ends(visit)],
        rows=[[step.at_s, *(getattr(step, end) for end in ENDS)] for step in shown],
        seconds=_seconds(visit),
        more=len(steps) - len(shown),
    )


def reach(visit: Visit, found: Iterable[Reached]) -> Table:
    heads = ("report.district", "sent.handed", "report.meant", "terms.screen")
    return Table(
        name="reach",
        title=visit.w("report.reach"),
        heads=[visit.w(head) for head in heads],
        rows=[[one.name, one.delivered, one.total, one.screens] for one in found],
        seconds=_seconds(visit),
        names_are_japanese=True,
    )


def latency(visit: Visit, found: Iterable[Latency]) -> Table:
    heads = ("sent.medium", "report.first", "report.half", "report.most", "report.last")
    return Table(
        name="latency",
        title=visit.w("report.latency"),
        heads=[visit.w(head) for head in heads],
        rows=[[one.name, one.first_s, one.half_s, one.most_s, one.last_s] for one in found],
        seconds=_seconds(visit),
    )


def levels(visit: Visit, found: Iterable[tuple[Level, str]]) -> Table:
    """The acts that set the alert level, numbered as the flags of the chart."""
    return Table(
        name="levels",
        title=visit.w("report.levels"),
        heads=[visit.w(f"report.levels_{head}") for head in ("number", "after", "level", "act")],
        rows=[
            [str(number), step.at_s, step.level or visit.w("report.levels_none"), act]
            for number, (step, act) in enumerate(found, 1)
        ],
        seconds=_seconds(visit),
    )


def domains(visit: Visit, found: Iterable[OfDomain]) -> Table:
    handed, *others = _ends(visit)
    return Table(
        name="domains",
        title=visit.w("sent.domains"),
        heads=[visit.w("sent.domain"), handed, visit.w("sent.not_yet"), *others],
        rows=[
            [
                one.domain or visit.w("sent.domain_gone"),
                one.delivered,
                one.waiting,
                one.failed,
                one.unknown,
                one.stopped,
            ]
            for one in found
        ],
        seconds=_seconds(visit),
    )


def counts(visit: Visit, found: Iterable[tuple[str, Counts]]) -> Table:
    """The four ends of each medium."""
    ends = ("delivered", "failed", "unknown", "stopped", "waiting")
    return Table(
        name="counts",
        title=visit.w("report.counts"),
        heads=[visit.w("sent.medium"), visit.w("report.in_all"), *(visit.w(f"report.end_{end}") for end in ends)],
        rows=[
            [name, one.total, one.delivered, one.failed, one.unknown, one.stopped, one.queued] for name, one in found
        ],
        seconds=_seconds(visit),
    )


def _ends(visit: Visit) -> list[str]:
    """In the order of `charts.ENDS`."""
    return [visit.w(f"sent.{word}") for word in ("handed", "not_delivered", "unknown", "stopped")]


def _seconds(visit: Visit) -> Callable[[float], str]:
    return lambda seconds: in_words(visit, seconds)
