"""Shows an export as it goes: a line a step, then the fidelity ladder and what the precision was chosen from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from oleaster.cli.tables import print_pairs
from oleaster.core.artifact import Artifact

if TYPE_CHECKING:
    from oleaster.exporting.export import Candidate
    from oleaster.exporting.ladder import Figures

_NONE = "-"
_LEGEND = """\
ids: prompts that the runtime's own tokenizer makes the same; logits: largest
difference; KL: nats per token; ends: answers that end by themselves"""


@contextmanager
def shown_ladder(console: Console) -> Iterator[Callable[[str | Figures | Candidate], None]]:
    """A function that shows each event with the seconds since the start; the tables follow, whatever ends the block."""
    from oleaster.exporting.export import Candidate

    ladders: dict[str, list[Figures]] = {}
    tried: list[Candidate] = []
    began = time.monotonic()

    def on_progress(event: str | Figures | Candidate) -> None:
        if isinstance(event, str) and event.startswith("adapter "):
            ladders[event] = []  # each adapter climbs a ladder of its own
        if isinstance(event, Candidate):
            tried.append(event)
        figures = event.figures if isinstance(event, Candidate) else event
        if not isinstance(figures, str):
            ladders.setdefault(next(reversed(ladders), ""), []).append(figures)
            figures = rung_line(figures)
        line = f"{time.monotonic() - began:6.1f} s  {figures}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    try:
        yield on_progress
    finally:
        for title, climbed in ladders.items():
            if climbed:
                console.print()
                console.print(ladder_table(climbed, title), markup=False)
        if ladders:
            console.print(_LEGEND, markup=False, highlight=False)
        if tried:
            console.print()
            console.print(choice_table(tried), markup=False)
        console.print()


def print_artifact(artifact: Artifact) -> None:
    """What was made, and what to do with it."""
    from oleaster.pipeline.heads import head_behind

    made = f"{artifact.folder} ({artifact.precision}, {artifact.size_mb:.1f} MB)"
    print_pairs([("artifact", made), ("figures", str(artifact.folder / "manifest.json"))], "made")
    first = next((f" --adapter {Path(f.path).stem}" for f in artifact.files if f.path.endswith(".onnx_adapter")), "")
    asking = "chat" if head_behind(artifact.folder) is None else "evaluate"
    folder = quote(str(artifact.folder))
    print(f"next: oleaster {asking} {folder}{first}, oleaster verify {folder}{first}")


def rung_line(figures: Figures) -> str:
    """One rung in a sentence."""
    said = "holds" if figures.fault is None else "lost too much"
    parts = [f"KL {figures.kl:.2g}" if figures.kl else "", _share("exact match", figures.exact_match)]
    return ", ".join([f"rung {figures.rung}: {said}", *filter(None, parts)])


def ladder_table(climbed: Sequence[Figures], what: str = "") -> Table:
    """A row per form of the model; differences are against the first. Fits into 80 columns."""
    title = ", ".join(filter(None, ["fidelity ladder", what, f"{climbed[0].rows} rows, shares in %"]))
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    table.add_column("rung", no_wrap=True)
    for name in ("ids", "logits", "KL", "top-1", "exact match [95 %]", "ends", ""):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for figures in climbed:
        table.add_row(
            figures.rung,
            _percent(figures.same_ids),
            _NONE if figures.max_difference is None else f"{figures.max_difference:.2g}",
            _NONE if figures.kl is None else f"{figures.kl:.2g}",
            _percent(figures.top1),
            _percent(figures.exact_match) + _interval(figures.exact_interval),
            _percent(figures.natural_stop),
            "holds" if figures.fault is None else "lost",
        )
    return table


def choice_table(tried: Sequence[Candidate]) -> Table:
    """A row per precision that was made, smallest first."""
    table = Table(box=None, pad_edge=False, title="precision, smallest first", title_justify="left")
    table.add_column("precision")
    for name in ("MB", "memory MB", "KL", "exact match %"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for line in tried:
        figures = line.figures
        table.add_row(
            line.precision,
            _NONE if line.size_mb is None else f"{line.size_mb:.1f}",
            _NONE if line.memory_mb is None else f"{line.memory_mb:.0f}",
            _NONE if figures.kl is None else f"{figures.kl:.2g}",
            _percent(figures.exact_match),
            line.verdict,
        )
    return table


def _share(name: str, value: float | None) -> str:
    return "" if value is None else f"{name} {_percent(value)} %"


def _percent(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.1f}"


def _interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"
