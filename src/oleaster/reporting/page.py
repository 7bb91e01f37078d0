"""The report as one HTML file: no script, no network, light and dark, on a phone as on paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from oleaster.core.artifact import Artifact
from oleaster.evaluation.report import Report, Value
from oleaster.exporting.ladder import Figures
from oleaster.reporting.answers import class_lines, confusion_matrix, examples
from oleaster.reporting.causes import Diagnosis, Trial
from oleaster.reporting.charts import Curve, Mark, duration, line_chart, number
from oleaster.reporting.history import History
from oleaster.reporting.story import MAIN, Story

_WORST_CLASSES = 12
_SPEED = {"score_seconds", "generate_seconds", "generate_speed"}
"""Figures about the evaluation itself, not about the model's answers."""
NO_WARNINGS = {"note", "early_stop"}
"""Kinds of notices that warn of nothing."""


@dataclass(frozen=True)
class Tile:
    """One figure at the top of the page."""

    label: str
    figure: str
    detail: str


@dataclass(frozen=True)
class Chart:
    """A picture with its heading; `legend` is (style class, name) of each curve."""

    title: str
    svg: str
    legend: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Bar:
    """A figure between 0 and 1 with its interval, as percentages of the width."""

    model: str
    value: str
    interval: str
    position: float
    low: float
    width: float


def render(story: Story, now: datetime | None = None) -> str:
    """The whole page."""
    report = story.best_report
    return template("report.html.jinja").render(
        story=story,
        now=now or datetime.now(),
        headline=headline(story),
        tiles=tiles(story),
        charts=training_charts(story.history),
        bars=score_bars(story.reports),
        table=score_table(story),
        report_notes=report.notes if report else (),
        matrix=confusion_matrix(report) if report else None,
        classes=class_lines(report)[:_WORST_CLASSES] if report and report.labels else [],
        examples=examples(report, story.base_report if report is not story.base_report else None) if report else [],
        ladders=[(artifact, ladder(artifact), precisions(artifact)) for artifact in story.artifacts],
        recipe=story.recipe.read_text("utf-8") if story.recipe else "",
        costs=costs(story),
        warnings=[notice for notice in story.history.notices if notice.kind not in NO_WARNINGS],
        notes=[notice for notice in story.history.notices if notice.kind in NO_WARNINGS],
        tokens=token_shares(story),
        trials=trial_shares(story.diagnosis),
    )


def headline(story: Story) -> str:
    """The result in one or two sentences, for somebody who reads nothing else."""
    report, base, metric = story.best_report, story.base_report, story.main_metric
    if report is None or metric is None:
        if story.run is None:
            return "An exported model; no evaluation of its answers lies beside it."
        if story.summary:
            return "Trained, and not yet evaluated: oleaster evaluate says how good its answers are."
        return "This training is under way." if story.run.is_under_way else _broken_off(story)
    value, name = report.metrics[metric], _words(metric)
    rows = f"{value.count:,} rows"
    said = f"On {rows} the {report.model} model reaches {shown(value)} {name}{_range(value)}."
    if base is None or base is report or metric not in base.metrics:
        return said
    said += f" Before tuning it was {shown(base.metrics[metric])}."
    difference = story.differences.get(metric)
    verdicts = {
        "better": "The gain is larger than chance explains.",
        "worse": "It has become worse, by more than chance explains.",
    }
    if difference is not None:
        said += " " + verdicts.get(difference.verdict, "With this many rows the difference could be chance.")
    return said


def _broken_off(story: Story) -> str:
    steps = story.history.steps
    where = f" at step {steps[-1].step:,} of {steps[-1].total_steps:,}" if steps else " before its first report"
    return f"This training was broken off{where}; the same command with --resume goes on."


def tiles(story: Story) -> list[Tile]:
    """The figures at the top."""
    found: list[Tile] = []
    report, metric, summary = story.best_report, story.main_metric, story.summary
    if report and metric:
        value, base = report.metrics[metric], story.base_report
        before = f"base {shown(base.metrics[metric])}" if base and base is not report and metric in base.metrics else ""
        found.append(Tile(_words(metric), shown(value), ", ".join(filter(None, [_range(value).strip(), before]))))
    if summary.get("eval_loss") is not None:
        where = f"nats per token, best at step {summary['best_step']:,} of {summary['total_steps']:,}"
        found.append(Tile("validation loss", number(summary["eval_loss"]), where))
    if summary:
        share = summary["trained_parameters"] / max(1, summary["parameters"])
        trained = f"{number(summary['trained_parameters'])} of {number(summary['parameters'])} numbers trained"
        found.append(Tile("training time", duration(summary["seconds"]), f"{trained} ({share:.1%})"))
    for artifact in story.artifacts[:1]:
        held = "answers like the trained model" if _holds(artifact) else "lost more than was allowed"
        found.append(Tile(f"shipped in {artifact.precision}", f"{artifact.size_mb:,.0f} MB", held))
    return found


def training_charts(history: History) -> list[Chart]:
    """Loss, learning rate, gradient norm, speed, memory, processor."""
    steps, evals = history.steps, history.evals
    if not steps:
        return []
    marks = [Mark(n.step, n.text) for n in history.notices if n.kind not in NO_WARNINGS]
    marks += [Mark(best[-1].step, "weights that were kept", "kept") for best in [[e for e in evals if e.best]] if best]
    losses = [Curve("training", tuple((s.step, s.loss) for s in steps))]
    if evals:
        losses.append(Curve("validation", tuple((e.step, e.eval_loss) for e in evals), "second"))
    legend = tuple((curve.kind, curve.name) for curve in losses)
    charts = [Chart("Loss", line_chart("Loss", "nats per token", losses, marks), legend)]

    def one(title: str, unit: str, points: Sequence[tuple[float, float]], *, amount: bool = True) -> None:
        drawn = line_chart(title, unit, [Curve(title.lower(), tuple(points))], marks, from_zero=amount)
        charts.append(Chart(title, drawn))

    one("Learning rate", "", [(s.step, s.learning_rate) for s in steps])
    one("Gradient norm", "before clipping", [(s.step, s.grad_norm) for s in steps], amount=False)
    timed = [s for s in steps if s.seconds > 0]
    one("Speed", "tokens per second", [(s.step, s.input_tokens / s.seconds) for s in timed])
    one("Memory", "MB resident", [(s.step, s.memory_mb) for s in steps])
    one("Processor", "busy cores", [(s.step, s.cpu_percent / 100) for s in timed])
    if any(s.gpu_memory_mb is not None for s in steps):
        one("GPU memory", "MB", [(s.step, s.gpu_memory_mb) for s in steps if s.gpu_memory_mb is not None])
    return [chart for chart in charts if chart.svg]


def score_bars(reports: Sequence[Report]) -> list[tuple[str, list[Bar]]]:
    """(metric, a bar per model) for the figures between 0 and 1 that have an interval."""
    names = dict.fromkeys(name for report in reports for name in report.metrics if name not in _SPEED)
    if "accuracy" in names:
        names.pop("exact_match", None)  # the same figure under another name
    found = []
    telling = sorted(names, key=lambda name: MAIN.index(name) if name in MAIN else len(MAIN))
    for name in [name for name in telling if "f1_per_label" not in name]:
        values = [(report.model, report.metrics[name]) for report in reports if name in report.metrics]
        if all(v.low is not None and 0 <= v.value <= 1 and v.unit in ("share", "F1") for _, v in values):
            found.append((_words(name), [_bar(model, value) for model, value in values]))
    return found


def _bar(model: str, value: Value) -> Bar:
    low, high = value.low or 0.0, value.high if value.high is not None else value.value
    return Bar(model, shown(value), _range(value).strip(" ()"), 100 * value.value, 100 * low, 100 * (high - low))


def score_table(story: Story) -> tuple[list[str], list[list[str]]]:
    """(heads, lines) of every figure of every evaluation, with the verdict where two are compared."""
    reports, differences = story.reports, story.differences
    heads = ["", *(report.model for report in reports), *(["tuned against base"] if differences else [])]
    lines = []
    for name in dict.fromkeys(name for report in reports for name in report.metrics):
        cells = [_cell(report.metrics.get(name)) for report in reports]
        verdict = [differences[name].verdict if name in differences else ""] if differences else []
        lines.append([_words(name), *cells, *verdict])
    return heads, lines


def ladder(artifact: Artifact) -> list[Figures]:
    """The rungs that the manifest tells of; of several adapters, one after the other, each with the adapter's name."""
    found = artifact.fidelity
    rungs = list(found.get("ladder", []))
    for name, climbed in found.get("adapters", {}).items():
        rungs += [{**rung, "rung": f"{name}: {rung['rung']}"} for rung in climbed]
    known = Figures.__dataclass_fields__
    return [Figures(**{k: v for k, v in rung.items() if k in known}) for rung in rungs]


def precisions(artifact: Artifact) -> list[Mapping[str, Any]]:
    """What was tried before the precision was chosen."""
    return [line for line in artifact.fidelity.get("table", []) if isinstance(line, dict)]


def costs(story: Story) -> list[tuple[str, str]]:
    """What the training took."""
    summary, history = story.summary, story.history
    found: list[tuple[str, str]] = []
    if summary:
        found.append(("wall time", duration(summary["seconds"])))
    if cpu := history.cpu_seconds():
        found.append(("processor time", f"{cpu / 3600:.2f} core-hours, validations not counted"))
    if history.steps:
        found.append(("most memory", f"{max(s.peak_memory_mb for s in history.steps):,.0f} MB"))
    if summary:
        inputs, targets = summary["input_tokens"], summary["target_tokens"]
        found.append(("tokens through the model", f"{inputs:,}, of them learned {targets:,}"))
        found.append(("steps", f"{summary['steps']:,} of {summary['total_steps']:,} planned"))
        found.append(("base weights in", str(summary["dtype"])))
    found += [("export", f"{a.fidelity['seconds']:,.0f} s") for a in story.artifacts if "seconds" in a.fidelity]
    return found


def token_shares(story: Story) -> list[tuple[str, int, float]]:
    """(what, tokens, percent) of the training rows' tokens."""
    if story.ledger is None or not story.ledger.train.tokens_read:
        return []
    part = story.ledger.train
    parts = (
        ("learned", part.tokens_trained),
        ("read, not learned", part.tokens_masked),
        ("cut off", part.tokens_truncated),
        ("dropped", part.tokens_dropped),
    )
    return [(name, count, 100 * count / part.tokens_read) for name, count in parts if count]


def trial_shares(diagnosis: Diagnosis | None) -> list[tuple[Trial, float]]:
    """Each trial of a diagnosis, and its loss as a share of the largest."""
    trials = diagnosis.trials if diagnosis else ()
    most = max((trial.loss for trial in trials if math.isfinite(trial.loss)), default=0.0)
    return [(trial, min(1.0, trial.loss / most) if most else 0.0) for trial in trials]


def shown(value: Value) -> str:
    """`85.4 %`, `0.170 nats/token`."""
    if not math.isfinite(value.value):
        return "not finite"
    if value.unit == "share":
        return f"{100 * value.value:.1f}\u00a0%"
    return number(value.value) if value.unit in ("", "F1", "perplexity") else f"{number(value.value)} {value.unit}"


def _cell(value: Value | None) -> str:
    return "" if value is None else f"{shown(value)}{_range(value)}"


def _range(value: Value) -> str:
    """` (82.0 to 88.2)`: the 95 % interval; empty without one."""
    if value.low is None or value.high is None:
        return ""
    scale, digits = (100, partial("{:.1f}".format)) if value.unit == "share" else (1, number)
    return f" ({digits(scale * value.low)} to {digits(scale * value.high)})"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _holds(artifact: Artifact) -> bool:
    return all(rung.fault is None for rung in ladder(artifact))


def template(name: str) -> Any:
    """A template of this room; what it is given is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("oleaster", "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["number"] = number
    return found.get_template(name)
