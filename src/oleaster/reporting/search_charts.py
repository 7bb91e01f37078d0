"""Charts of a search: how it went, what pays for what, and which settings lead where."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from oleaster.reporting.charts import Curve, line_chart, number
from oleaster.search.papers import Findings, Objective, Trial

WIDTH, HEIGHT = 760, 280
TOP, BOTTOM = 44, 14
SIDE = 70
_FAINTEST = 0.15
"""Opacity of the worst trial's line."""
UNITS = {"eval_loss": "nats per token", "train_seconds": "seconds", "size_mb": "MB", "latency_ms": "ms"}
Scale = Callable[[float], float]


def history(findings: Findings) -> str:
    """A dot per complete trial, and the best so far as a line. Empty before one is complete."""
    objective = findings.objectives[0]
    done = complete(findings)
    best: list[tuple[float, float]] = []
    for trial in done:
        value = trial.values[objective.name]
        if not best or objective.better(value, best[-1][1]):
            best += [(trial.number, best[-1][1])] if best else []
            best.append((trial.number, value))
    if best:
        best.append((done[-1].number, best[-1][1]))
    dots = _dots("trial", [(trial.number, trial.values[objective.name], trial) for trial in done])
    line = Curve("best so far", tuple(best), "second")
    return line_chart("History", UNITS.get(objective.name, ""), [line, dots], x_name="trial")


def pareto(findings: Findings) -> str:
    """The first two objectives against each other, those that no trial beats in all apart. Empty before one is done."""
    first, second = findings.objectives[:2]
    best = {trial.number for trial in findings.best}
    points = [(trial.values[second.name], trial.values[first.name], trial) for trial in complete(findings)]
    others = _dots("beaten", [point for point in points if point[2].number not in best])
    unbeaten = _dots("unbeaten", [point for point in points if point[2].number in best], "second")
    name = f"{second.name} ({UNITS[second.name]})" if second.name in UNITS else second.name
    return line_chart("Pareto", UNITS.get(first.name, ""), [others, unbeaten], x_name=name)


def course(findings: Findings) -> str:
    """Validation loss over the validations of each trial, the best one apart. Empty without validations."""
    best = findings.best[0].number if findings.best else None
    curves = [
        Curve(f"trial {trial.number}", trial.course, "second" if trial.number == best else "faint")
        for trial in sorted(findings.trials, key=lambda trial: trial.number == best)  # the best is drawn last
    ]
    return line_chart("Course", UNITS["eval_loss"], curves, x_name="validation")


def parallel(findings: Findings) -> str:
    """An axis per setting and one for the objective; a line per complete trial. Empty with fewer than two trials."""
    objective = findings.objectives[0]
    done = complete(findings)
    names = list(dict.fromkeys(name for trial in done for name in trial.settings))
    if len(done) < 2 or not names:
        return ""
    columns = {name: [trial.settings.get(name) for trial in done] for name in names}
    columns[objective.name] = [str(trial.values[objective.name]) for trial in done]
    at = _scale(0, len(columns) - 1, SIDE, WIDTH - SIDE)
    heights, parts = [], []
    for i, (name, values) in enumerate(columns.items()):
        place, labels = _axis(values)
        heights.append([place(value) for value in values])
        parts.append(f'<line class="grid" x1="{at(i):.1f}" x2="{at(i):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(_text(at(i), 16 if i % 2 else 32, name, "middle"))  # long names beside each other
        parts += [_text(at(i) + 6, height + 4, label, "start") for label, height in labels]
    for k in sorted(range(len(done)), key=lambda k: _rank(done[k], objective, done)):  # the best line is drawn last
        points = " ".join(f"{at(i):.1f},{column[k]:.1f}" for i, column in enumerate(heights) if column[k] is not None)
        strength = _FAINTEST + (1 - _FAINTEST) * _rank(done[k], objective, done)
        line = f'<polyline class="curve first" stroke-opacity="{strength:.2f}" points="{points}">'
        parts.append(f"{line}<title>{escape(_told(done[k]))}</title></polyline>")
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Parallel coordinates">{"".join(parts)}</svg>'


def complete(findings: Findings) -> list[Trial]:
    """Trials that have all figures."""
    return [trial for trial in findings.trials if trial.state == "complete"]


def _axis(values: Sequence[str | None]) -> tuple[Callable[[str | None], float | None], list[tuple[str, float]]]:
    """(value -> height, labels with heights) of a setting: numbers (a log scale from a decade on), else names."""
    low_end, high_end = HEIGHT - BOTTOM - 6, TOP + 8
    given = [value for value in values if value is not None]
    numbers = [_number(value) for value in given]
    if any(n is None for n in numbers):
        words = sorted(set(given))
        spot = _scale(0, max(1, len(words) - 1), low_end, high_end)
        heights = {word: spot(i) for i, word in enumerate(words)}
        return (lambda value: None if value is None else heights[value]), list(heights.items())
    known = [n for n in numbers if n is not None]
    low, high = min(known), max(known)
    bend = math.log if low > 0 and high / low >= 10 else float
    spot = _scale(bend(low), bend(high), low_end, high_end)
    ends = [(number(n), spot(bend(n))) for n in sorted({low, high})]
    return (lambda value: None if value is None else spot(bend(float(value)))), ends


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _rank(trial: Trial, objective: Objective, among: Sequence[Trial]) -> float:
    """0 for the worst, 1 for the best, by place: one very bad trial must not make all others look the same."""
    value = trial.values[objective.name]
    better = sum(objective.better(other.values[objective.name], value) for other in among)
    return 1 - better / max(1, len(among) - 1)


def _dots(name: str, points: Sequence[tuple[float, float, Trial]], kind: str = "first") -> Curve:
    places = tuple((float(x), float(y)) for x, y, _ in points)
    told = {place: _told(trial) for place, (_, _, trial) in zip(places, points, strict=True)}
    return Curve(name, places, kind, joined=False, told=told)


def _told(trial: Trial) -> str:
    """What the pointer shows."""
    lines = [f"trial {trial.number} ({trial.state})", *(f"{k}: {v}" for k, v in trial.settings.items())]
    return "\n".join([*lines, *(f"{name} {value:.5g}" for name, value in trial.values.items())])


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
