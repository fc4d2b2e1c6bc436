"""Charts: well-formed, small, beginning at zero, and saying what they show."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from broadcaster import charts
from broadcaster.charts import Curve, Latency, Level, Reached, Step

SVG = "{http://www.w3.org/2000/svg}"


def a_curve(*, total: int = 4812, seconds: float = 42.0, failed: int = 12) -> Curve:
    """Evenly sent, a few refused on the way."""
    tenths = int(seconds * 10)
    each = (total - failed) // tenths
    ended = [(tenth / 10, "delivered", each) for tenth in range(1, tenths)]
    ended += [(seconds, "delivered", total - failed - each * (tenths - 1)), (seconds, "failed", failed)]
    return Curve.of(total, ended)


def over_time(curve: Curve) -> str:
    marks = [(at, f"{name} {at:.0f}秒") for at, name in ((curve.reached(0.5), "半分"), (curve.last_s, "最後")) if at]
    return charts.over_time(
        "c", curve, title="42秒で届きました", about="横は時間", seconds=lambda s: f"{s:g}秒", marks=marks
    )


def levels(steps: list[Level]) -> str:
    return charts.levels(
        "v", steps, steps[-1].at_s * 1.1, title="いちばん高いのは5", about="横は時間", seconds=lambda s: f"{s:g}秒"
    )


LATENCIES = [
    Latency(name="RSS・JSON", first_s=0.2, half_s=0.2, most_s=0.2, last_s=0.2),
    Latency(name="メール", first_s=0.4, half_s=9.0, most_s=40.0, last_s=3_900.0),
]
LEVELS = [Level(at_s=at, level=level) for at, level in ((0, 3), (1_800, 4), (1_830, 4), (7_200, 5), (30_000, 0))]
DISTRICTS = [Reached(name=f"品川第{n}地区", total=100 * n, delivered=90 * n, screens=n % 4) for n in range(1, 14)]


def every_chart() -> dict[str, str]:
    return {
        "levels": levels(LEVELS),
        "over time": over_time(a_curve()),
        "nothing yet": over_time(Curve.of(10, [])),
        "an hour": over_time(a_curve(seconds=3_700.0, total=50_000)),
        "every end": over_time(
            Curve.of(9, [(0.1, "delivered", 3), (0.2, "failed", 2), (0.3, "unknown", 2), (0.4, "stopped", 2)])
        ),
        "latencies": charts.latencies(
            "l", LATENCIES, title="速い", about="横は時間", seconds=lambda s: f"{s:g}秒", goal=(60.0, "1分")
        ),
        "reach": charts.reach("r", DISTRICTS, title="90％", about="棒は割合", number=lambda row: f"{row.delivered}人"),
    }


@pytest.mark.parametrize("name", every_chart())
def test_a_chart_is_sound_small_and_says_what_it_shows(name: str) -> None:
    markup = every_chart()[name]
    assert len(markup.encode()) <= charts.LARGEST
    svg = ET.fromstring(markup)
    assert svg.get("role") == "img"
    title, about = svg.find(f"{SVG}title"), svg.find(f"{SVG}desc")
    assert title is not None
    assert about is not None
    assert title.text
    assert about.text
    assert svg.get("aria-labelledby") == title.get("id")
    assert svg.get("aria-describedby") == about.get("id")
    assert "style" not in markup, "looks are classes: the policy allows no inline style, and night follows"


@pytest.mark.parametrize("name", every_chart())
def test_nothing_is_drawn_outside_and_no_text_is_cut(name: str) -> None:
    svg = ET.fromstring(every_chart()[name])
    height = float((svg.get("viewBox") or "").split()[3])
    for node in svg.iter():
        for key in ("x", "x1", "x2", "cx"):
            if key in node.attrib:
                assert -1 <= float(node.attrib[key]) <= charts.WIDTH, (name, node.attrib)
        for key in ("y", "y1", "y2", "cy"):
            if key in node.attrib:
                assert 0 <= float(node.attrib[key]) <= height, (name, node.attrib)


def test_areas_begin_at_zero_and_stack_to_what_has_ended() -> None:
    curve = Curve.of(10, [(0.0, "delivered", 0), (10.0, "delivered", 5), (20.0, "failed", 5)])
    svg = ET.fromstring(over_time(curve))
    paths = {
        node.get("class"): node.get("d") or "" for node in svg.iter(f"{SVG}path") if node.get("d", "").startswith("M8")
    }
    bottom, top, half = 196.0, 58.0, 127.0
    good, bad = [_heights(paths[name]) for name in ("c-delivered", "c-failed")]
    assert (max(good), min(good)) == (bottom, half)
    assert (max(bad), min(bad)) == (bottom, top)


def _heights(path: str) -> list[float]:
    return [float(y) for y in re.findall(r"V([\d.]+)", path)] + [float(path[1:].split("H")[0].split()[1])]


def test_ends_are_told_apart_without_colour() -> None:
    svg = ET.fromstring(every_chart()["every end"])
    areas = [node for node in svg.iter(f"{SVG}path") if (node.get("d") or "").startswith("M8 196")]
    fills = {node.get("class"): node.get("fill") for node in areas}
    assert fills == {
        "c-delivered": None,
        "c-failed": "url(#c-failed)",
        "c-unknown": "url(#c-unknown)",
        "c-stopped": "url(#c-stopped)",
    }
    shapes = [node.find(f"{SVG}path") for node in svg.iter(f"{SVG}pattern")]
    assert len({shape.get("d") for shape in shapes if shape is not None}) == 3


def test_a_share_is_reached_when_it_is_and_not_before() -> None:
    curve = a_curve(failed=0)
    half, most = curve.reached(0.5), curve.reached(0.99)
    assert half is not None
    assert most is not None
    assert half == pytest.approx(21, abs=1)
    assert most == pytest.approx(41.6, abs=0.5)
    assert curve.last_s == 42.0
    assert a_curve(failed=100).reached(0.99) is None, "99 % of all, not of those that went out"
    nothing = Curve.of(5, [])
    assert (nothing.reached(0.5), nothing.last_s, nothing.first_s, nothing.delivered) == (None, None, None, 0)


def test_a_thinned_curve_keeps_its_end() -> None:
    curve = a_curve(seconds=900.0, total=90_000)
    assert len(curve.steps) > 800
    thinned = curve.thinned()
    assert len(thinned) == charts.MOST_STEPS
    assert thinned[-1] == curve.steps[-1]
    assert [step.at_s for step in thinned] == sorted(step.at_s for step in thinned)
    assert Step(at_s=1, delivered=2, failed=1).ended == 3


def test_after_a_minute_time_is_drawn_by_its_logarithm() -> None:
    axis = charts.Axis(3_600, 0, 100)
    assert [axis(at) for at in (0, 30, 60, 3_600)] == [0, 25, 50, 100]
    assert 50 < axis(600) < 100
    assert axis(600) - axis(60) == pytest.approx(axis(3_600) - axis(360), abs=0.2)
    assert charts.Axis(40, 0, 100)(20) == 50


def test_districts_stand_in_order_with_their_numbers() -> None:
    rows = [Reached(name="a", total=10, delivered=1), Reached(name="b", total=10, delivered=9), Reached(name="c", total=0, delivered=0)]  # fmt: skip
    markup = charts.reach("r", rows, title="t", about="a", number=lambda row: f"{row.delivered}/{row.total}")
    texts = [node.text for node in ET.fromstring(markup).iter(f"{SVG}text")]
    assert texts == ["b", "9/10", "a", "1/10", "c", "0/0"]


def test_a_meter_never_leaves_its_frame() -> None:
    numbers = {"delivered": 997, "failed": 1, "unknown": 1, "stopped": 1}
    svg = ET.fromstring(charts.meter("m", name="997 of 1000", total=1000, numbers=numbers))
    boxes = [node for node in svg.iter("rect") if node.get("fill")]
    ends = [float(box.get("x") or 0) + float(box.get("width") or 0) for box in boxes]
    assert max(ends) <= 160
    assert svg.get("aria-label") == "997 of 1000"


def test_the_level_stands_until_the_next_act_and_every_act_has_its_number() -> None:
    drawn = ET.fromstring(levels(LEVELS))
    path = next(part.attrib["d"] for part in drawn.iter(f"{SVG}path") if part.get("class") == "c-level")
    heights = [float(found) for found in re.findall(r"V([\d.]+)", path)]
    bottom, five = heights[-1], heights[-2]
    assert heights == [*sorted(heights[:4], reverse=True), bottom], "up, and down at the end"
    assert [(bottom - high) / (bottom - five) * 5 for high in heights] == [3, 4, 4, 5, 0]
    assert [part.text for part in drawn.iter(f"{SVG}text") if part.get("class") == "c-name"] == list("12345")
