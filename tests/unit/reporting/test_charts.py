"""Curves are drawn where their numbers say."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oleaster.reporting.charts import (
    HEIGHT,
    MOST_POINTS,
    WIDTH,
    Curve,
    Mark,
    duration,
    line_chart,
    linear_ticks,
    log_ticks,
    number,
)

finite = st.floats(-1e9, 1e9, allow_nan=False)


def places(svg: str) -> list[tuple[float, float]]:
    (points,) = re.findall(r'<polyline class="curve first" points="([^"]*)"', svg)
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in points.split())]


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=40, unique_by=lambda p: p[0]))
def test_a_chart_is_valid_and_its_curve_lies_inside(points: list[tuple[float, float]]) -> None:
    svg = line_chart("Loss", "nats", [Curve("training", tuple(sorted(points)))])
    ET.fromstring(svg)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places(svg))


def test_higher_is_higher_on_both_kinds_of_axis() -> None:
    for values in ([1.0, 2.0, 4.0], [0.001, 0.1, 10.0]):
        heights = [y for _, y in places(line_chart("x", "", [Curve("a", tuple(enumerate(values)))]))]
        assert heights == sorted(heights, reverse=True)
    logarithmic = [y for _, y in places(line_chart("x", "", [Curve("a", ((0, 0.01), (1, 0.1), (2, 1.0)))]))]
    assert logarithmic[0] - logarithmic[1] == pytest.approx(logarithmic[1] - logarithmic[2], abs=0.2)


def test_what_is_no_number_is_left_out() -> None:
    svg = line_chart("x", "", [Curve("a", ((1, 2.0), (2, math.nan), (3, math.inf), (4, 3.0)))])
    assert len(places(svg)) == 2
    assert line_chart("x", "", [Curve("a", ((1, math.nan),))]) == ""


def test_thinning_keeps_the_spike() -> None:
    values = [1.0] * 5000
    values[2345] = 9.0
    drawn = places(line_chart("x", "", [Curve("a", tuple(enumerate(values)))]))
    assert len(drawn) <= MOST_POINTS
    assert min(y for _, y in drawn) < max(y for _, y in drawn) - 100


def test_names_and_marks_cannot_break_out() -> None:
    svg = line_chart("<b>", "&", [Curve("</svg>", ((0, 1.0), (1, 2.0)))], [Mark(1, '"<script>')])
    ET.fromstring(svg)
    assert "<script>" not in svg


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_inside(low: float, width: float) -> None:
    ticks = linear_ticks(low, low + width)
    assert 1 <= len(ticks) <= 10
    assert all(low - 1e-6 * width - 1e-9 <= tick <= low + width * (1 + 1e-6) + 1e-9 for tick in ticks)


def test_log_ticks_are_powers_of_ten_where_those_are_enough() -> None:
    assert log_ticks(0.005, 20) == pytest.approx([0.01, 0.1, 1, 10])
    assert len(log_ticks(0.5, 20)) >= 3


@pytest.mark.parametrize(
    ("value", "text"), [(0.00021, "2.1e-4"), (0.0021, "0.0021"), (12.5, "12.5"), (1640, "1,640"), (4884480, "4.88M")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_a_duration_has_two_units_at_most():
    assert [duration(s) for s in (0.4, 59.6, 433, 7500)] == ["0 s", "1 min 0 s", "7 min 13 s", "2 h 5 min"]


def test_dots_without_a_line_tell_what_they_are():
    svg = line_chart("x", "", [Curve("a", ((0, 1.0), (1, 2.0)), joined=False, told={(1, 2.0): "trial 1 <b>"})])
    assert "polyline" not in svg
    assert re.findall("<title>(.*?)</title>", svg) == ["a, step 0: 1", "trial 1 &lt;b&gt;"]


def test_between_two_steps_there_is_no_tick():
    svg = line_chart("x", "", [Curve("a", ((1, 1.0), (2, 2.0)))])
    assert re.findall(r'text-anchor="middle">([^<]*)<', svg) == ["1", "2"]
