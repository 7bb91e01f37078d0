"""Curves as inline SVG: no script, colours from the page's style sheet, so that they follow light and dark.

Drawn for a width of 440 units, which a phone shows almost unscaled: text stays readable there and lines stay thin on a
desktop, where two charts stand side by side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape

WIDTH, HEIGHT = 440, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 14, 34
MOST_POINTS = 400
"""More than a screen can show; a longer curve is thinned so that the page stays small."""
_DOTS_UP_TO = 30
_LOG_FROM, _LOG_TO = 30.0, 1e12
"""Largest over smallest value from which a logarithmic axis shows more, and up to which its ticks can be read."""


@dataclass(frozen=True)
class Curve:
    """A named series of points."""

    name: str
    points: tuple[tuple[float, float], ...]
    """(x, y), x rising"""
    kind: str = "first"
    """Style class: first, second, third, fourth, faint."""
    joined: bool = True
    """A line through the points; without, a dot for each."""
    told: Mapping[tuple[float, float], str] = field(default_factory=dict)
    """What the pointer shows at a point, where it is more than its numbers."""


@dataclass(frozen=True)
class Mark:
    """A vertical line at one x: an alert, the kept weights."""

    x: float
    text: str
    kind: str = "mark"


def line_chart(
    title: str,
    unit: str,
    curves: Sequence[Curve],
    marks: Sequence[Mark] = (),
    *,
    x_name: str = "step",
    from_zero: bool = False,
) -> str:
    """An `<svg>`; empty when no curve has a point that is a number.

    Args:
        from_zero: for amounts, where half as high must mean half as much.
    """
    curves = [replace(c, points=points) for c in curves if (points := _drawable(c.points))]
    if not curves:
        return ""
    everything = [point for curve in curves for point in curve.points]
    low_x, high_x = _extent([x for x, _ in everything])
    values = [y for _, y in everything]
    log = not from_zero and min(values) > 0 and _LOG_FROM <= max(values) / min(values) <= _LOG_TO
    low, high = (min(values) / 1.15, max(values) * 1.15) if log else _padded([*values, 0.0] if from_zero else values)

    def place(x: float, y: float) -> tuple[float, float]:
        share = math.log(y / low) / math.log(high / low) if log else (y - low) / (high - low)
        across = (x - low_x) / (high_x - low_x)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    ticks = log_ticks(low, high) if log else linear_ticks(low, high)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for tick in ticks:
        _, y = place(low_x, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    whole = all(x == int(x) for x, _ in everything)  # half a step is no step
    for tick in [tick for tick in linear_ticks(low_x, high_x, 5) if not whole or tick == int(tick)]:
        x, _ = place(tick, low)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{number(tick)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{escape(x_name)}</text>')
    scale = f"{unit}, log scale" if log else unit
    parts.append(f'<text x="2" y="{HEIGHT - 3}">{escape(scale)}</text>')
    for mark in marks:
        if low_x <= mark.x <= high_x:
            x, _ = place(mark.x, low)
            line = f'<line class="{mark.kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}">'
            parts.append(f"{line}<title>{escape(mark.text)}</title></line>")
    for curve in curves:
        parts += _drawn(curve, [place(*point) for point in curve.points], x_name)
    return "".join([*parts, "</svg>"])


def _drawn(curve: Curve, places: Sequence[tuple[float, float]], x_name: str) -> list[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [f'<polyline class="curve {curve.kind}" points="{path}"/>'] if curve.joined else []
    if curve.joined and len(places) > _DOTS_UP_TO:
        return parts
    for (x, y), point in zip(places, curve.points, strict=True):
        told = curve.told.get(point, f"{curve.name}, {x_name} {number(point[0])}: {number(point[1])}")
        circle = f'<circle class="dot {curve.kind}" cx="{x:.1f}" cy="{y:.1f}" r="{3 if curve.joined else 4.5}">'
        parts.append(f"{circle}<title>{escape(told)}</title></circle>")
    return parts


def linear_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers from `low` to `high`."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * f for f in (1, 2, 2.5, 5, 10) if power * f >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, and 2 and 5 times them where that leaves few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
        ticks = [f * 10.0**d for d in decades for f in factors if low <= f * 10.0**d <= high]
        if len(ticks) >= 3:
            break
    return ticks


def number(value: float) -> str:
    """Three digits that matter: 0.0021, 12.5, 1,640, 2.1M, 3e-05."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 1000:
        return f"{value:,.0f}"
    if 0 < size < 1e-3:
        return f"{value:.1e}".replace("e-0", "e-").replace(".0e", "e")
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """`42 s`, `7 min 13 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _drawable(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    good = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if len(good) <= MOST_POINTS:
        return tuple(good)
    # Highest and lowest of each stretch: thinning must not hide a spike.
    size = math.ceil(2 * len(good) / MOST_POINTS)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(good), size):
        part = good[start : start + size]
        kept += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    return tuple(kept)


def _extent(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 0.5
    bottom = low - margin
    return (0.0 if low >= 0 > bottom or 0 <= low <= 0.4 * high else bottom), high + margin
