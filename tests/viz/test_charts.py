from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from jaxvl.viz.curves import Series, line_chart, number, series_from_rows, ticks
from jaxvl.viz.evidence import Look, evidence_sheet
from jaxvl.viz.timeline import Bar, timeline


def parse(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # raises where a tag is left open or a text is not escaped


def test_series_come_from_rows_that_hold_them():
    rows = [{"step": 1, "a": 3.0}, {"step": 2, "b": 1}, {"step": 3, "a": 2.0, "b": 0}, {"a": 9.0}]
    found = series_from_rows(rows, ["a", "b", "c"])
    assert [(s.name, list(s.x), list(s.y)) for s in found] == [("a", [1, 3], [3, 2]), ("b", [2, 3], [1, 0])]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 100, [0, 25, 50, 75, 100]), (0, 600, [0, 200, 400, 600]), (-1, 1, [-1, -0.5, 0, 0.5, 1]),
     (0.13, 0.47, [0.2, 0.3, 0.4]), (5, 5, [5])],
)  # fmt: skip
def test_ticks_by_hand(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(("low", "high"), [(0, 1e-9), (1e6, 1.0001e6), (-3e-4, 7e-4), (0, 3.7)])
def test_ticks_are_round_evenly_spaced_and_inside(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 6
    assert low - 1e-9 * abs(high) <= found[0] <= found[-1] <= high * (1 + 1e-9)
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert max(steps) == pytest.approx(min(steps), rel=1e-3)


def test_ticks_of_nothing_are_refused():
    with pytest.raises(ValueError, match="no ticks"):
        ticks(0, math.inf)


def test_numbers_are_short():
    assert [number(v) for v in (0, 0.05, 1200, 2.5e6, 3e-5, -12, 1e9)] == [
        "0",
        "0.05",
        "1.2k",
        "2.5M",
        "3.0e-05",
        "-12",
        "1G",
    ]


def test_a_chart_has_its_points_where_they_belong():
    svg = line_chart(
        [Series("loss", [0, 10, 20], [4.0, 2.0, 0.0]), Series("<b>&", [0, 20], [1.0, 3.0])], "train <loss>"
    )
    root = parse(svg)
    circles = list(root.iter("circle"))
    x, y = ([float(c.get(k)) for c in circles[:3]] for k in ("cx", "cy"))
    assert x[1] == pytest.approx((x[0] + x[2]) / 2, abs=0.2)
    assert y[1] == pytest.approx((y[0] + y[2]) / 2, abs=0.2)
    assert y[0] < y[2]  # up is smaller in SVG
    assert [c.find("title").text for c in circles[:2]] == ["loss: 4 at 0", "loss: 2 at 10"]
    texts = [t.text for t in root.iter("text")]
    assert "train <loss>" in texts
    assert "<b>&" in texts
    colours = [p.get("stroke") for p in root.iter("path")]
    assert len(set(colours)) == 2
    assert [r.get("fill") for r in root.iter("rect")] == colours  # the legend
    assert {"0", "5", "10", "15", "20"} <= {t.text for t in root.iter("text") if t.get("class") == "tick-x"}
    assert "<script" not in svg
    assert "http" not in svg


def test_missing_values_break_the_line_and_log_leaves_out_what_has_no_logarithm():
    path = parse(line_chart([Series("a", range(5), [1, 2, math.nan, 3, 4])])).find(".//path").get("d")
    assert re.sub(r"[-\d. ]+", "", path) == "MLML"
    root = parse(line_chart([Series("a", range(4), [0.0, 1, 10, 100])], log_y=True))
    y = [float(c.get("cy")) for c in root.iter("circle")]
    assert len(y) == 3
    assert y[0] - y[1] == pytest.approx(y[1] - y[2], abs=0.2)
    assert {"1", "10", "100"} <= {t.text for t in root.iter("text") if t.get("class") == "tick-y"}


def test_empty_flat_and_single_points_are_drawn():
    for series in ([], [Series("a", [], [])], [Series("a", [1], [math.nan])]):
        assert "no data" in line_chart(series)
    for series in ([Series("a", [3], [7.0])], [Series("a", [1, 2], [0.0, 0.0])]):
        root = parse(line_chart(series))
        numbers = [float(c.get(k)) for c in root.iter("circle") for k in ("cx", "cy")]
        assert numbers
        assert all(math.isfinite(v) for v in numbers)
    with pytest.raises(ValueError, match="2 x and 1 y"):
        line_chart([Series("a", [1, 2], [1])])


def test_a_long_series_stays_small():
    svg = line_chart([Series("a", range(20_000), [math.sin(k / 900) for k in range(20_000)])])
    assert svg.count("<circle") <= 160


def test_timeline_bars_are_in_proportion_and_cut_to_the_clip():
    svg = timeline([("truth", [Bar(0, 5, "a < b", "x"), Bar(8, 12, "", "y")]), ("found", [Bar(2.5, 5, "", "x")])], 10.0)
    rects = list(parse(svg).iter("rect"))
    width = [float(r.get("width")) for r in rects]
    assert width[0] == pytest.approx(2 * width[2], rel=0.01)
    assert width[1] == pytest.approx(width[0] * 0.4, rel=0.01)  # 8 to 10
    assert rects[0].get("fill") == rects[2].get("fill") != rects[1].get("fill")
    assert float(rects[0].get("y")) == float(rects[1].get("y")) < float(rects[2].get("y"))
    assert parse(svg).find(".//g/title").text == "a < b: 0.00-5.00 s"
    with pytest.raises(ValueError, match="before it starts"):
        timeline([("a", [Bar(2, 1)])], 3.0)
    with pytest.raises(ValueError, match="not positive"):
        timeline([], 0)


def test_evidence_of_a_moment_is_drawn():
    look = Look(np.array([0.7, 0.3]), (0,), None)
    sheet = evidence_sheet("what is it?", "a circle", [look], np.zeros((2, 2)))
    assert sheet.width > sheet.height > 0
