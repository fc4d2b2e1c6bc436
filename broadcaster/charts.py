"""Charts as SVG, made from numbers. Pure: words come in, markup goes out.

What every one of them keeps: it says what it shows (`role="img"`, a title that is a sentence), it begins at zero, it names
things directly instead of by a legend, and it is drawn with classes and patterns, so that night, print and any eye for
colour read it. The same numbers stand beside it as a table: that is the caller's.

Drawn small (340 units wide) so that the letters are still 12 px where a phone shows them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

WIDTH = 340
LARGEST = 12_000
"""Bytes of one chart."""

MOST_STEPS = 60
LINEAR_S = 60.0
"""Up to here a second is a second; what takes longer is drawn by its logarithm."""

MOST_SQUARES = 5
"""More screens than these are told by their number alone."""

ENDS = ("delivered", "failed", "unknown", "stopped")
"""Stacked in this order, the good end at the bottom."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """How many had ended, and how, so many seconds after the act."""

    at_s: float
    delivered: int = 0
    failed: int = 0
    unknown: int = 0
    stopped: int = 0

    @property
    def ended(self) -> int:
        return self.delivered + self.failed + self.unknown + self.stopped


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Deliveries over time, as they add up."""

    total: int
    steps: tuple[Step, ...]

    @classmethod
    def of(cls, total: int, ended: Iterable[tuple[float, str, int]]) -> Curve:
        """From `(seconds, end, how many)` in the order of time."""
        so_far = dict.fromkeys(ENDS, 0)
        steps: dict[float, Step] = {}
        for at_s, end, number in ended:
            so_far[end] += number
            steps[at_s] = Step(at_s=at_s, **so_far)
        return cls(total=total, steps=tuple(steps.values()))

    @property
    def delivered(self) -> int:
        return self.steps[-1].delivered if self.steps else 0

    @property
    def last_s(self) -> float | None:
        """When the last of those that were delivered was."""
        return next((step.at_s for step in self.steps if step.delivered == self.delivered), None)

    @property
    def first_s(self) -> float | None:
        return next((step.at_s for step in self.steps if step.delivered), None)

    def reached(self, share: float) -> float | None:
        """After how many seconds this share of all was delivered; None when it was not."""
        wanted = max(1, math.ceil(self.total * share))
        return next((step.at_s for step in self.steps if step.delivered >= wanted), None)

    def thinned(self, most: int = MOST_STEPS) -> tuple[Step, ...]:
        """The same curve in at most so many steps; the last one is always among them."""
        if len(self.steps) <= most:
            return self.steps
        every = len(self.steps) / most
        return tuple(self.steps[min(len(self.steps) - 1, math.ceil(every * (n + 1)) - 1)] for n in range(most))


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long one medium took, in seconds after the act."""

    name: str
    first_s: float
    half_s: float
    most_s: float  # 99 %
    last_s: float


@dataclass(frozen=True, kw_only=True)
class Reached:
    """One district: of how many addresses the mail went out, and how many screens stand there."""

    name: str
    total: int
    delivered: int
    screens: int = 0

    @property
    def share(self) -> float:
        return self.delivered / self.total if self.total else 0.0


HIGHEST_LEVEL = 5
"""警戒レベル 1 to 5."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """The alert level from an instant on, in seconds after the first message; 0 where there is none."""

    at_s: float
    level: int


class Axis:
    """Seconds along the width: even up to a minute, by the logarithm beyond."""

    def __init__(self, longest_s: float, left: float, right: float) -> None:
        self.longest_s = max(longest_s, 1.0)
        self._left, self._right = left, right

    def __call__(self, at_s: float) -> float:
        return round(self._left + (self._right - self._left) * self._share(min(at_s, self.longest_s)), 1)

    def _share(self, at_s: float) -> float:
        if self.longest_s <= LINEAR_S:
            return at_s / self.longest_s
        if at_s <= LINEAR_S:
            return 0.5 * at_s / LINEAR_S
        return 0.5 + 0.5 * math.log(at_s / LINEAR_S) / math.log(self.longest_s / LINEAR_S)

    def ticks(self) -> list[float]:
        if self.longest_s <= LINEAR_S:
            step = next(step for step in (0.5, 1, 2, 5, 10, 20) if self.longest_s / step <= 4.01 or step == 20)
            return [step * n for n in range(int(self.longest_s / step) + 1)]
        marks = (600.0, 3600.0, 21_600.0, 86_400.0)
        shown = [mark for mark in marks if mark <= self.longest_s]
        return [0.0, LINEAR_S, *shown[-2:]]


Words = Callable[[float], str]
"""Seconds in words."""


def over_time(
    id: str, curve: Curve, *, title: str, about: str, seconds: Words, marks: Sequence[tuple[float, str]]
) -> str:
    """Stepped areas, stacked by end. `marks` are the instants that are named: half, 99 %, the last."""
    left, right, top, bottom, height = 8, WIDTH - 8, 58, 196, 222
    chart = _Chart(id, height, title, about)
    longest = max([curve.steps[-1].at_s if curve.steps else 1.0, *(at for at, _ in marks)], default=1.0)
    x = Axis(longest * 1.02, left, right)

    def y(number: float) -> float:
        return round(bottom - (bottom - top) * number / max(curve.total, 1), 1)

    chart.line(left, y(curve.total), right, y(curve.total), "c-whole")
    chart.text(left, y(curve.total) - 6, f"{curve.total:,}", "c-small")
    below = [0] * len(curve.thinned())
    for end in ENDS:
        above = [low + getattr(step, end) for low, step in zip(below, curve.thinned(), strict=True)]
        if above != below:
            chart.area(_stepped(curve.thinned(), below, above, x, y, right), end)
        below = above
    chart.line(left, bottom, right, bottom, "c-axis")
    chart.line(left, top, left, bottom, "c-axis")
    for at_s in x.ticks():
        chart.text(x(at_s), bottom + 18, seconds(at_s), "c-small", _anchor(x(at_s)))
    _flags(chart, marks, x, bottom)
    return chart.markup()


def _stepped(
    steps: Sequence[Step],
    below: Sequence[int],
    above: Sequence[int],
    x: Axis,
    y: Callable[[float], float],
    right: float,
) -> str:
    """Along the top to the right, back along the bottom."""
    path = [f"M{x(0):g} {y(0):g}"]
    for step, high in zip(steps, above, strict=True):
        path.append(f"H{x(step.at_s):g}V{y(high):g}")
    path.append(f"H{right:g}V{y(below[-1]):g}")
    places = list(zip(steps, below, strict=True))
    for number in range(len(places) - 1, -1, -1):
        before = places[number - 1][1] if number else 0
        path.append(f"H{x(places[number][0].at_s):g}V{y(before):g}")
    return "".join(path) + "Z"


def _flags(chart: _Chart, marks: Sequence[tuple[float, str]], x: Axis, bottom: float) -> None:
    """Named instants, each on a line of its own, so that no two names lie over each other."""
    for number, (at_s, name) in enumerate(marks[:3]):
        at, high = x(at_s), 14 + number * 15
        chart.line(at, high + 4, at, bottom, "c-mark")
        room = at > WIDTH * 0.5
        chart.text(at - 5 if room else at + 5, high, name, "c-name", "end" if room else "start")


def _anchor(at: float) -> str:
    return "start" if at < 30 else "end" if at > WIDTH - 30 else "middle"


def latencies(
    id: str, rows: Sequence[Latency], *, title: str, about: str, seconds: Words, goal: tuple[float, str] | None = None
) -> str:
    """A row for each medium: a tick for the first, a bar from half to 99 %, a dot for the last."""
    left, right = 8, WIDTH - 8
    height = 40 + 42 * len(rows) + 24
    chart = _Chart(id, height, title, about)
    longest = max([row.last_s for row in rows] + ([goal[0]] if goal else []), default=1.0)
    x = Axis(longest * 1.05, left, right)
    bottom = height - 28
    if goal:
        chart.line(x(goal[0]), 20, x(goal[0]), bottom, "c-goal")
        chart.text(x(goal[0]), 14, goal[1], "c-small", _anchor(x(goal[0])))
    for number, row in enumerate(rows):
        high = 38 + 42 * number
        chart.text(left, high, row.name, "c-name")
        chart.text(right, high, seconds(row.last_s), "c-small", "end")
        line = high + 14
        chart.line(x(row.first_s), line, x(row.last_s), line, "c-whole")
        chart.line(x(row.first_s), line - 8, x(row.first_s), line + 8, "c-tick")
        chart.box(x(row.half_s), line - 6, max(2.0, round(x(row.most_s) - x(row.half_s), 1)), 12, "delivered")
        chart.dot(x(row.last_s), line)
    chart.line(left, bottom, right, bottom, "c-axis")
    for at_s in x.ticks():
        chart.text(x(at_s), bottom + 18, seconds(at_s), "c-small", _anchor(x(at_s)))
    return chart.markup()


def reach(id: str, rows: Sequence[Reached], *, title: str, about: str, number: Callable[[Reached], str]) -> str:
    """A bar for each district, the share of its addresses that were reached, from nothing to all; a square a screen."""
    left, right = 8, WIDTH - 8
    height = 20 + 38 * len(rows)
    chart = _Chart(id, height, title, about)
    for at, row in enumerate(sorted(rows, key=lambda row: (-row.share, -row.total))):
        high = 18 + 38 * at
        chart.text(left, high, row.name, "c-name")
        chart.text(right, high, number(row), "c-small", "end")
        chart.box(left, high + 6, right - left, 10, "c-track")
        if row.delivered:
            chart.box(left, high + 6, round((right - left) * row.share, 1), 10, "delivered")
        for screen in range(min(row.screens, MOST_SQUARES)):
            chart.box(left + 88 + 9 * screen, high - 9, 7, 7, "c-screen")
    return chart.markup()


def levels(id: str, steps: Sequence[Level], until_s: float, *, title: str, about: str, seconds: Words) -> str:
    """The alert level as a line of steps, with its numerals; under it a numbered flag for each act that set it."""
    left, right, top, bottom = 28, WIDTH - 8, 16, 136
    chart = _Chart(id, bottom + 56, title, about)
    x = Axis(max(until_s, 1.0), left, right)

    def y(level: int) -> float:
        return bottom - (bottom - top) * level / HIGHEST_LEVEL

    for level in range(1, HIGHEST_LEVEL + 1):
        chart.text(left - 10, y(level) + 5, str(level), "c-small", "end")
        chart.line(left, y(level), right, y(level), "c-whole")
    path = [f"M{x(steps[0].at_s):g} {y(0):g}"]
    path += [f"H{x(step.at_s):g}V{y(step.level):g}" for step in steps]
    chart.path("".join(path) + f"H{right:g}", "c-level")
    chart.line(left, bottom, right, bottom, "c-axis")
    for at_s in x.ticks():
        chart.text(x(at_s), bottom + 50, seconds(at_s), "c-small", _anchor(x(at_s)))
    for number, step in enumerate(steps, 1):
        at, low = x(step.at_s), bottom + 14 + 14 * ((number - 1) % 2)  # acts close together do not hide each other
        chart.line(at, y(step.level), at, low - 10, "c-mark")
        chart.text(at, low + 2, str(number), "c-name", "middle")
    return chart.markup()


def meter(id: str, *, name: str, total: int, numbers: dict[str, int]) -> str:
    """A bar of what has ended and how, of all: in place of a sentence's length, beside the sentence."""
    svg = ET.Element("svg", {"viewBox": "0 0 160 14", "class": "meter", "role": "img", "aria-label": name})
    left = 0.0
    ET.SubElement(svg, "rect", {"class": "c-track", "x": "1", "y": "1", "width": "158", "height": "12"})
    used = [end for end in ENDS if numbers.get(end)]
    if any(end != "delivered" for end in used):
        svg.append(_patterns(id))
    for end in used:
        wide = max(2.0, round(160 * numbers[end] / max(total, 1), 1))
        wide = min(wide, 160 - left)
        fill = {} if end == "delivered" else {"fill": f"url(#{id}-{end})"}
        box = {"class": f"c-{end}", "x": f"{left:g}", "y": "0", "width": f"{wide:g}", "height": "14", **fill}
        ET.SubElement(svg, "rect", box)
        left += wide
    return ET.tostring(svg, encoding="unicode")


class _Chart:
    def __init__(self, id: str, height: int, title: str, about: str) -> None:
        self._id = id
        self._svg = ET.Element(
            "svg",
            {
                "xmlns": "http://www.w3.org/2000/svg",
                "viewBox": f"0 0 {WIDTH} {height}",
                "class": "chart",
                "role": "img",
                "aria-labelledby": f"{id}-title",
                "aria-describedby": f"{id}-about",
            },
        )
        ET.SubElement(self._svg, "title", {"id": f"{id}-title"}).text = title
        ET.SubElement(self._svg, "desc", {"id": f"{id}-about"}).text = about
        self._svg.append(_patterns(id))

    def line(self, x1: float, y1: float, x2: float, y2: float, name: str) -> None:
        ends = {"x1": f"{x1:g}", "y1": f"{y1:g}", "x2": f"{x2:g}", "y2": f"{y2:g}"}
        ET.SubElement(self._svg, "line", {"class": name, **ends})

    def text(self, x: float, y: float, words: str, name: str, anchor: str = "start") -> None:
        ET.SubElement(
            self._svg, "text", {"class": name, "x": f"{x:g}", "y": f"{y:g}", "text-anchor": anchor}
        ).text = words

    def area(self, path: str, end: str) -> None:
        ET.SubElement(self._svg, "path", {"d": path, **self._filled(end)})

    def path(self, path: str, name: str) -> None:
        ET.SubElement(self._svg, "path", {"class": name, "d": path})

    def box(self, x: float, y: float, wide: float, high: float, end: str) -> None:
        place = {"x": f"{x:g}", "y": f"{y:g}", "width": f"{wide:g}", "height": f"{high:g}"}
        ET.SubElement(self._svg, "rect", {**place, **self._filled(end)})

    def dot(self, x: float, y: float) -> None:
        ET.SubElement(self._svg, "circle", {"class": "c-dot", "cx": f"{x:g}", "cy": f"{y:g}", "r": "5"})

    def _filled(self, end: str) -> dict[str, str]:
        if end not in ENDS:
            return {"class": end}
        return {"class": f"c-{end}"} if end == "delivered" else {"class": f"c-{end}", "fill": f"url(#{self._id}-{end})"}

    def markup(self) -> str:
        return ET.tostring(self._svg, encoding="unicode")


def _patterns(id: str) -> ET.Element:
    """× for failed, slanting for unknown, dots for stopped: to be told apart in grey and in print."""
    defs = ET.Element("defs")
    shapes = {
        "failed": "M0 0L8 8M8 0L0 8",
        "unknown": "M0 8L8 0M-2 2L2 -2M6 10L10 6",
        "stopped": "M1 2h3M5 6h3",
    }
    for end, path in shapes.items():
        size = {"width": "8", "height": "8", "patternUnits": "userSpaceOnUse"}
        pattern = ET.SubElement(defs, "pattern", {"id": f"{id}-{end}", **size})
        ET.SubElement(pattern, "rect", {"class": "c-ground", "width": "8", "height": "8"})
        ET.SubElement(pattern, "path", {"class": f"c-hatch-{end}", "d": path})
    return defs
