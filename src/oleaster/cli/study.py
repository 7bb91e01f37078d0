"""Shows a search: a line per trial as it ends, then the best, all trials in order, and what mattered."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from shlex import quote
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from oleaster.cli.tables import print_pairs
from oleaster.search.papers import SearchNote, TrialBegins, TrialEnds, rounded

if TYPE_CHECKING:
    from oleaster.config.schema import Config
    from oleaster.config.search import Dimension
    from oleaster.search.papers import Findings, Objective, SearchEvent, Trial, Watch

SHOWN_TRIALS = 10
_BLOCKS = "▁▂▃▄▅▆▇█"
_BAR = 24
"""Characters of the longest bar."""


@contextmanager
def shown_trials(console: Console) -> Iterator[Watch]:
    """A function that prints each event of a search with the seconds since the start."""
    began = time.monotonic()

    def watch(event: SearchEvent) -> None:
        if isinstance(event, TrialBegins):
            line = f"trial {event.number} {'goes on' if event.continued else 'begins'}: {settings_text(event.settings)}"
        elif isinstance(event, TrialEnds):
            line = ended_line(event)
        elif isinstance(event, SearchNote):
            line = event.text
        else:
            line = f"trial {event.number}: {event.share:4.0%} trained, validation loss {event.loss:.4f}"
        style = "bold" if isinstance(event, TrialEnds) else "dim" if not isinstance(event, SearchNote) else "yellow"
        text = f"{time.monotonic() - began:7.1f} s  {line}"
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    yield watch


def ended_line(event: TrialEnds) -> str:
    """What came of a trial."""
    trial = event.trial
    if trial.state != "complete":
        return f"trial {trial.number} {trial.state}: {trial.why.splitlines()[0]}"
    figures = ", ".join(f"{name} {number(value)}" for name, value in event.aims.items())
    note = f", {trial.why}" if trial.why else ""
    best = "  best so far" if event.is_best else ""
    return f"trial {trial.number} is complete: {figures} ({trial.seconds:.1f} s of training{note}){best}"


def settings_text(settings: object) -> str:
    """`learning_rate 0.001, lora_r 8`"""
    return ", ".join(f"{name} {rounded(value)}" for name, value in dict(settings).items())  # type: ignore[call-overload]


def number(value: float) -> str:
    """Four digits that matter."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def print_findings(console: Console, findings: Findings) -> None:
    """The whole search: best trials, history, importance, and where everything is."""
    console.print()
    for table in (trials_table(findings), importance_table(findings)):
        if table is not None:
            console.print(table, markup=False)
            console.print()
    if line := history_line(findings):
        console.print(line, markup=False, highlight=False)
    kinds = [f"{findings.count(state)} {state}" for state in ("complete", "pruned", "failed", "running")]
    print_pairs(
        [
            ("trials", ", ".join(kind for kind in kinds if not kind.startswith("0 "))),
            *_pareto_rows(findings),
            ("best", f"{findings.folder / 'best'} (trial {findings.best[0].number})"),
            ("its recipe", str(findings.folder / "best" / "oleaster.yaml")),
            ("report", str(findings.folder / "report.html")),
        ],
        "search",
    )
    best = quote(str(findings.folder / "best"))
    print(f"next: oleaster evaluate {best} -d test.jsonl, oleaster auto-opt {best} -o FOLDER")


def trials_table(findings: Findings) -> Table:
    """The best trials first; with several objectives those that none beats in all (Pareto), then the others."""
    names = list(dict.fromkeys(name for trial in findings.trials for name in trial.settings))
    columns = [objective.name for objective in findings.objectives]
    shown = ranked(findings)[:SHOWN_TRIALS]
    table = Table("trial", *columns, *names, "seconds", box=None, pad_edge=False)
    best = {trial.number for trial in findings.best}
    for trial in shown:
        cells = [number(trial.values[name]) for name in columns]
        settings = [rounded(trial.settings.get(name, "-")) for name in names]
        mark = " *" if trial.number in best else ""
        table.add_row(f"{trial.number}{mark}", *cells, *settings, f"{trial.seconds:.1f}")
    of = f"{len(shown)} of {findings.count('complete')}"
    table.caption = f"{of} complete trials; * = {'best' if len(columns) == 1 else 'no other trial beats it in all'}"
    table.caption_justify = "left"
    return table


def ranked(findings: Findings) -> list[Trial]:
    """Complete trials: the best ones first, then by the first objective."""
    first, best = findings.objectives[0], {trial.number for trial in findings.best}
    sign = -1.0 if first.maximize else 1.0
    complete = [trial for trial in findings.trials if trial.state == "complete"]
    return sorted(complete, key=lambda t: (t.number not in best, sign * t.values[first.name], t.number))


def importance_table(findings: Findings) -> Table | None:
    """A bar per setting; None where trials are too few to tell."""
    if not findings.importance:
        return None
    table = Table("setting", "importance", "", box=None, pad_edge=False)
    longest = max(findings.importance.values()) or 1.0
    for name, share in findings.importance.items():
        table.add_row(name, f"{share:.0%}", "█" * round(_BAR * share / longest))
    return table


def history_line(findings: Findings) -> str:
    """The first objective over the trials, low to high, and how it moved; empty before there are two."""
    objective = findings.objectives[0]
    values = [trial.values[objective.name] for trial in findings.trials if trial.state == "complete"]
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    scale = (len(_BLOCKS) - 1) / ((high - low) or 1.0)
    bars = "".join(_BLOCKS[round((value - low) * scale)] for value in values)
    way = "more" if objective.maximize else "less"
    return f"{objective.name} by trial: {bars}  {number(low)} to {number(high)} ({way} is better)"


def _pareto_rows(findings: Findings) -> list[tuple[str, str]]:
    if len(findings.objectives) == 1:
        return []
    rows = []
    for trial in findings.best:
        figures = ", ".join(f"{o.name} {number(trial.values[o.name])}" for o in findings.objectives)
        rows.append(("not beaten", f"trial {trial.number}: {figures}"))
    return rows


def print_plan(config: Config, dimensions: Sequence[Dimension], objectives: Sequence[Objective]) -> None:
    """What a search would do."""
    from oleaster.search.points import grid
    from oleaster.search.study import DEFAULT_TRIALS

    strategy = config.search_strategy
    points = sum(1 for _ in grid(dimensions, config)) if strategy.type == "grid" else None
    trials = strategy.num_trials or points or DEFAULT_TRIALS
    of_grid = f" of a grid of {points}" if points else ""
    rows = [("trials", f"{trials}{of_grid}, chosen by {strategy.type}, {strategy.workers} at a time")]
    rows += [("aim", f"{'more' if o.maximize else 'less'} {o.name}") for o in objectives]
    rows += [("searched", _dimension_text(dimension)) for dimension in dimensions]
    if strategy.pruning != "none":
        rows.append(("pruning", f"{strategy.pruning}, after validation {strategy.pruning_warmup}"))
    if strategy.budget_minutes:
        rows.append(("budget", f"{strategy.budget_minutes:g} minutes"))
    print_pairs([*rows, ("output", f"{config.output_path} (nothing was written)")])


def _dimension_text(d: Dimension) -> str:
    values = ", ".join(d.values) or f"{d.low:g} to {d.high:g}"
    step = f" in steps of {d.step:g}" if d.step else ""
    when = " and ".join(f"{name} is {' or '.join(given)}" for name, given in d.when)
    return f"{d.name}: {values}{step}{' (log)' if d.log else ''}{f', while {when}' if when else ''}"
