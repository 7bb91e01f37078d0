"""Charts of a search as SVG text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from oleaster.search.papers import Findings, Objective, Trial

WIDTH, HEIGHT = 1000, 300
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 12, 28
GOOD, POOR = (0x2F, 0x6B, 0x4F), (0xC9, 0xD3, 0xB8)
"""Colours of the best and the worst trial."""
Scale = Callable[[float], float]


def history(findings: Findings) -> str:
    """A dot per complete trial, and the best so far as a line. Empty before one is complete."""
    objective = findings.objectives[0]
    done = [trial for trial in findings.trials if trial.state == "complete"]
    if not done:
        return ""
    x = _scale(0, max(1, findings.trials[-1].number), LEFT, WIDTH - RIGHT)
    y, ticks = _vertical([trial.values[objective.name] for trial in done])
    best: float | None = None
    steps: list[str] = []
    for trial in done:
        value = trial.values[objective.name]
        if best is None or objective.better(value, best):
            if best is not None:
                steps.append(f"{x(trial.number):.1f},{y(best):.1f}")
            best = value
            steps.append(f"{x(trial.number):.1f},{y(best):.1f}")
    assert best is not None
    steps.append(f"{WIDTH - RIGHT:.1f},{y(best):.1f}")
    line = f'<polyline points="{" ".join(steps)}" fill="none" stroke="{_hex(GOOD)}" stroke-width="1.5"/>'
    dots = [_dot(trial, x(trial.number), y(trial.values[objective.name]), objective, done) for trial in done]
    labels = [_text(x(t.number), HEIGHT - 8, str(t.number), "middle") for t in done[:: max(1, len(done) // 20)]]
    return _svg([*ticks, line, *dots, *labels])


def pareto(findings: Findings) -> str:
    """The first two objectives against each other; trials that none beats are filled. Empty before one is complete."""
    first, second = findings.objectives[:2]
    done = [trial for trial in findings.trials if trial.state == "complete"]
    if not done:
        return ""
    across = [trial.values[second.name] for trial in done]
    x = _scale(*_padded(across), LEFT, WIDTH - RIGHT)
    y, ticks = _vertical([trial.values[first.name] for trial in done])
    best = {trial.number for trial in findings.best}
    dots = []
    for trial in done:
        fill = _hex(GOOD) if trial.number in best else "none"
        place = f'cx="{x(trial.values[second.name]):.1f}" cy="{y(trial.values[first.name]):.1f}"'
        mark = f'<circle {place} r="5" fill="{fill}" stroke="{_hex(GOOD)}">{_title(trial)}</circle>'
        dots.append(_of_trial(trial, mark))
    ends = [
        _text(x(value), HEIGHT - 8, f"{value:.4g}", anchor)
        for value, anchor in ((min(across), "start"), (max(across), "end"))
    ]
    return _svg([*ticks, *dots, *ends, _text(WIDTH / 2, HEIGHT - 8, second.name, "middle")])


def bars(shares: Mapping[str, float]) -> str:
    """A horizontal bar per name. Empty without any."""
    if not shares:
        return ""
    longest, row = max(shares.values()) or 1.0, 26
    parts = []
    for i, (name, share) in enumerate(shares.items()):
        top, length = i * row + 4, share / longest * (WIDTH - 320)
        parts.append(_text(230, top + 14, name, "end"))
        parts.append(f'<rect x="240" y="{top}" width="{max(1.0, length):.1f}" height="18" fill="{_hex(GOOD)}"/>')
        parts.append(_text(248 + length, top + 14, f"{share:.0%}", "start"))
    return _svg(parts, row * len(shares) + 8)


def parallel(findings: Findings) -> str:
    """An axis per setting and one for the objective; a line per complete trial. Empty with fewer than two trials."""
    objective = findings.objectives[0]
    done = [trial for trial in findings.trials if trial.state == "complete"]
    names = list(dict.fromkeys(name for trial in done for name in trial.settings))
    if len(done) < 2 or not names:
        return ""
    columns = {name: [trial.settings.get(name) for trial in done] for name in names}
    columns[objective.name] = [str(trial.values[objective.name]) for trial in done]
    at = _scale(0, len(columns) - 1, 90, WIDTH - 90)
    heights, parts = [], []
    for i, (name, values) in enumerate(columns.items()):
        place, labels = _axis(values)
        heights.append([place(value) for value in values])
        parts.append(f'<line class="axis" x1="{at(i):.1f}" x2="{at(i):.1f}" y1="34" y2="{HEIGHT - 14}"/>')
        parts.append(_text(at(i), 16, name, "middle"))
        parts += [_text(at(i) + 6, height + 4, label, "start", soft=True) for label, height in labels]
    order = sorted(range(len(done)), key=lambda k: _rank(done[k], objective, done))  # the best line is drawn last
    for k in order:
        points = [f"{at(i):.1f},{column[k]:.1f}" for i, column in enumerate(heights) if column[k] is not None]
        colour = _colour(done[k], objective, done)
        line = f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="2">'
        parts.append(_of_trial(done[k], f"{line}{_title(done[k])}</polyline>"))
    return _svg(parts)


def course(trials: Sequence[Trial]) -> str:
    """Validation loss over the validations of each trial; pruned ones are dashed. Empty without validations."""
    seen = [trial for trial in trials if trial.course]
    if not seen:
        return ""
    last = max(number for trial in seen for number, _ in trial.course)
    x = _scale(1, max(2, last), LEFT, WIDTH - RIGHT)
    losses = [loss for trial in seen for _, loss in trial.course]
    y, ticks = _vertical(losses)
    parts = [_text(x(k), HEIGHT - 8, str(k), "middle") for k in range(1, last + 1, max(1, last // 20))]
    for trial in seen:
        points = " ".join(f"{x(number):.1f},{y(loss):.1f}" for number, loss in trial.course)
        dash = ' stroke-dasharray="4 4"' if trial.state == "pruned" else ""
        line = f'<polyline points="{points}" fill="none" stroke="{_hex(GOOD)}" stroke-opacity=".6"{dash}>'
        number, loss = trial.course[-1]
        end = f'<circle cx="{x(number):.1f}" cy="{y(loss):.1f}" r="3" fill="{_hex(GOOD)}">{_title(trial)}</circle>'
        parts.append(_of_trial(trial, f"{line}{_title(trial)}</polyline>{end}"))
    return _svg([*ticks, *parts])


def _axis(values: Sequence[str | None]) -> tuple[Callable[[str | None], float | None], list[tuple[str, float]]]:
    """(value -> height, labels with heights) of a setting: numbers (a log scale from a decade on), else names."""
    given = [value for value in values if value is not None]
    numbers = [_number(value) for value in given]
    if any(n is None for n in numbers):
        words = sorted(set(given))
        spot = _scale(0, max(1, len(words) - 1), HEIGHT - 20, 40)
        heights = {word: spot(i) for i, word in enumerate(words)}
        return (lambda value: None if value is None else heights[value]), list(heights.items())
    known = [n for n in numbers if n is not None]
    low, high = min(known), max(known)
    bend = math.log if low > 0 and high / low >= 10 else float
    spot = _scale(bend(low), bend(high), HEIGHT - 20, 40)
    ends = [(f"{n:.4g}", spot(bend(n))) for n in sorted({low, high})]
    return (lambda value: None if value is None else spot(bend(float(value)))), ends


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return low - margin, high + margin


def _vertical(values: Sequence[float]) -> tuple[Scale, list[str]]:
    """A vertical scale for `values`, and its lines with numbers."""
    low, high = _padded(values)
    y = _scale(low, high, HEIGHT - BOTTOM, TOP)
    parts = []
    for i in range(5):
        value = low + (high - low) * i / 4
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(_text(LEFT - 8, y(value) + 4, f"{value:.4g}", "end", soft=True))
    return y, parts


def _rank(trial: Trial, objective: Objective, among: Sequence[Trial]) -> float:
    """0 for the worst, 1 for the best, by place: one very bad trial must not make all others look the same."""
    value = trial.values[objective.name]
    worse = sum(objective.better(value, other.values[objective.name]) for other in among)
    return worse / max(1, len(among) - 1)


def _colour(trial: Trial, objective: Objective, among: Sequence[Trial]) -> str:
    share = _rank(trial, objective, among)
    return _hex(tuple(round(p + (g - p) * share) for p, g in zip(POOR, GOOD, strict=True)))


def _hex(colour: Sequence[int]) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)


def _dot(trial: Trial, x: float, y: float, objective: Objective, among: Sequence[Trial]) -> str:
    fill = _colour(trial, objective, among)
    return _of_trial(trial, f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}">{_title(trial)}</circle>')


def _of_trial(trial: Trial, mark: str) -> str:
    return f'<g class="trial" data-trial="{trial.number}">{mark}</g>'


def _title(trial: Trial) -> str:
    """What the pointer shows."""
    lines = [f"trial {trial.number} ({trial.state})", *(f"{k}: {v}" for k, v in trial.settings.items())]
    lines += [f"{name} {value:.5g}" for name, value in trial.values.items()]
    return f"<title>{escape(chr(10).join(lines))}</title>"


def _text(x: float, y: float, text: str, anchor: str, soft: bool = False) -> str:
    css = ' class="soft"' if soft else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{css}>{escape(text)}</text>'


def _svg(parts: Sequence[str], height: float = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img">{"".join(parts)}</svg>'
