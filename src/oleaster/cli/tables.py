"""What is printed when work is done."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from oleaster.core.run import Run

if TYPE_CHECKING:
    from oleaster.evaluation.report import Report, Value

_SHOWN_MISTAKES = 5


def print_pairs(rows: Sequence[tuple[str, str]], title: str | None = None) -> None:
    """Two columns: what, and how much. Never wrapped, so that paths and commands can be copied."""
    width = max((len(name) for name, _ in rows), default=0)
    if title:
        print(f"{title}:")
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")
    if title:
        print()


def print_run(run: Run) -> None:
    """What a finished run made, and what to do with it."""
    from oleaster.methods import saved_method
    from oleaster.pipeline.heads import head_behind

    made = [(name, str(path)) for name, path in (("adapter", run.adapter), ("model", run.model)) if path.exists()]
    print_pairs([*made, ("log", str(run.log))], "made")
    folder = quote(str(run.folder))
    ways = [f"oleaster evaluate {folder}"]
    if head_behind(run.folder) is None:
        ways.append(f"oleaster chat {folder}")
    if not run.adapter.exists() or saved_method(run.adapter).no_export is None:
        ways.append(f"oleaster auto-opt {folder} -o FOLDER")
    print(f"next: {', '.join(ways)}")


def print_reports(console: Console, reports: Sequence[Report]) -> None:
    """A row per metric, a column per model with its 95 % interval; beside two models, whether they differ."""
    from oleaster.evaluation.compare import compare

    differences = compare(*reports) if len(reports) == 2 else {}
    table = Table("metric", *(report.model for report in reports), box=None, pad_edge=False)
    if differences:
        table.add_column("second against first")
    for name in dict.fromkeys(name for report in reports for name in report.metrics):
        cells = [_cell(name, report.metrics.get(name)) for report in reports]
        verdict = [differences[name].advice if name in differences else ""] if differences else []
        table.add_row(name.replace("_", " "), *cells, *verdict)
    console.print(table, markup=False)
    console.print("[...] = 95 % interval", markup=False, highlight=False)
    for note in dict.fromkeys(note for report in reports for note in report.notes):
        console.print(f"note: {note}", markup=False, highlight=False)
    for report in reports[-1:]:
        if report.confusions:
            console.print("\nmost frequent mistakes (expected -> answered):", markup=False)
        for found in report.confusions[:_SHOWN_MISTAKES]:
            line = f"  {found.count:4d} x  {found.reference!r} -> {found.prediction!r}"
            console.print(line, markup=False, highlight=False)
        if report.predictions:
            console.print(f"\nanswers: {report.predictions}", markup=False, soft_wrap=True)


def print_comparison(console: Console, first: Report, second: Report) -> None:
    """A row per metric that both have: the figures, by how much they differ, and what to make of it."""
    from oleaster.evaluation.compare import compare
    from oleaster.evaluation.report import Value

    found = compare(first, second)
    console.print(f"first:  {first.model}\nsecond: {second.model}\n", markup=False, highlight=False, soft_wrap=True)
    table = Table("metric", "first", "second", "second - first", "second is", box=None, pad_edge=False)
    for name, difference in found.items():
        value = first.metrics.get(name) or second.metrics.get(name)
        unit = value.unit if value else ""
        share = unit if unit == "share" else ""  # another one stands beside the name, so that the columns stay narrow
        change = Value(difference.second - difference.first, *difference.interval, difference.count, share)
        values = [
            Value(figure, None, None, difference.count, share) for figure in (difference.first, difference.second)
        ]
        heading = name.replace("_", " ")
        if not share and unit.replace("/", " per ").lower() not in heading:
            heading += f", {unit}"
        table.add_row(heading, *map(str, (*values, change)), difference.advice)
    console.print(table, markup=False)
    console.print("[...] = 95 % interval of the difference, the rows taken in pairs", markup=False, highlight=False)


def _cell(name: str, value: Value | None) -> str:
    return "-" if value is None else value.beside(name)
