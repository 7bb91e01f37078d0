"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from oleaster.core.run import Run


def print_pairs(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    """Two columns: what, and how much."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, value in rows:
        table.add_row(name, value)
    console.print(table, markup=False)


def print_run(console: Console, run: Run) -> None:
    """What a finished run made, and what to do with it."""
    rows = [(name, str(path)) for name, path in (("adapter", run.adapter), ("model", run.model)) if path.exists()]
    print_pairs(console, [*rows, ("log", str(run.log))])
    for line in (f"oleaster evaluate {run.folder}", f"oleaster chat {run.folder}"):
        console.print(f"  {line}", markup=False, highlight=False)


def print_reports(console: Console, reports: Sequence[Any]) -> None:
    """One column per model."""
    raise NotImplementedError
