"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from oleaster.core.run import Run


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
    made = [(name, str(path)) for name, path in (("adapter", run.adapter), ("model", run.model)) if path.exists()]
    print_pairs([*made, ("log", str(run.log))], "made")
    print(f"next: oleaster evaluate {run.folder}, oleaster chat {run.folder}")


def print_reports(console: Console, reports: Sequence[Any]) -> None:
    """One column per model."""
    raise NotImplementedError
