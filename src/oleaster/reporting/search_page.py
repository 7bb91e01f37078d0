"""A search as one HTML page that needs nothing else: no network, no script."""

from __future__ import annotations

from collections.abc import Iterator

from oleaster.reporting.charts import duration, number
from oleaster.reporting.page import Chart, Tile, template
from oleaster.reporting.search_charts import UNITS, course, history, parallel, pareto
from oleaster.search.papers import Findings, Trial, rounded

_WORDS = {"eval_loss": "validation loss", "train_seconds": "training time", "size_mb": "size", "latency_ms": "latency"}


def render_search(findings: Findings) -> str:
    """The whole page."""
    return template("search.html.jinja").render(
        findings=findings,
        title=findings.folder.resolve().name,
        best=[(name, rounded(value)) for name, value in findings.best[0].settings.items()] if findings.best else [],
        headline=_headline(findings),
        tiles=list(_tiles(findings)),
        importance=[(name, share, share / max(findings.importance.values())) for name, share in _by_share(findings)],
        charts=[chart for chart in _charts(findings) if chart.svg],
        parallel=parallel(findings),
        heads=_names(findings),
        lines=[(trial, _cells(findings, trial), trial in findings.best) for trial in findings.trials],
    )


def _headline(findings: Findings) -> str:
    if not findings.best:
        return "No trial is complete yet."
    objective, best = findings.objectives[0], findings.best[0]
    aim = "highest" if objective.maximize else "lowest"
    figure = _figure(objective.name, best.values[objective.name])
    said = f"Trial {best.number} has the {aim} {_words(objective.name)}: {figure}."
    if len(findings.objectives) > 1:
        others = ", ".join(_words(objective.name) for objective in findings.objectives[1:])
        said += f" {len(findings.best)} trials are not beaten by another one in {_words(objective.name)} and {others}."
    return said


def _tiles(findings: Findings) -> Iterator[Tile]:
    if findings.best:
        for objective in findings.objectives:
            value = findings.best[0].values[objective.name]
            detail = [UNITS.get(objective.name, ""), "more is better" if objective.maximize else "less is better"]
            yield Tile(_words(objective.name), number(value), ", ".join(filter(None, detail)))
    states = [f"{findings.count(state)} {state}" for state in ("pruned", "failed", "running") if findings.count(state)]
    yield Tile("complete trials", f"{findings.count('complete')} of {findings.wanted}", ", ".join(states))
    seconds = sum(trial.seconds for trial in findings.trials)
    yield Tile("training in all", duration(seconds), "all trials together")


def _charts(findings: Findings) -> Iterator[Chart]:
    first = findings.objectives[0]
    legend = (("first", "a trial"), ("second", "the best so far"))
    yield Chart(f"History: {_words(first.name)} by trial", history(findings), legend)
    if len(findings.objectives) > 1:
        second = findings.objectives[1]
        legend = (("first", "beaten by another"), ("second", "beaten by none"))
        yield Chart(f"{_words(first.name)} against {_words(second.name)}", pareto(findings), legend)
    legend = (("faint", "a trial"), ("second", "the best one"))
    yield Chart("Validation loss on the way", course(findings), legend)


def _by_share(findings: Findings) -> list[tuple[str, float]]:
    return sorted(findings.importance.items(), key=lambda pair: -pair[1])


def _names(findings: Findings) -> tuple[list[str], list[str]]:
    """(figures, settings) that any trial has."""
    measured = dict.fromkeys(name for trial in findings.trials for name in trial.values)
    return list(measured), list(dict.fromkeys(name for trial in findings.trials for name in trial.settings))


def _cells(findings: Findings, trial: Trial) -> list[str]:
    measured, settings = _names(findings)
    figures = [number(trial.values[name]) if name in trial.values else "" for name in measured]
    return [*figures, *(rounded(trial.settings.get(name, "")) for name in settings)]


def _figure(name: str, value: float) -> str:
    return f"{number(value)} {UNITS.get(name, '')}".strip()


def _words(name: str) -> str:
    return _WORDS.get(name, name.replace("_", " "))
