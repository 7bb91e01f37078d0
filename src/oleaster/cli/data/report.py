"""`oleaster data report`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from oleaster.cli.data.rows import FILES, RECIPE, TITLES, settings_of, shape_flags
from oleaster.cli.words import Command, Given
from oleaster.config.flags import Flag

if TYPE_CHECKING:
    from rich.console import Console

    from oleaster.quality.findings import DataReport, Finding, Named, PartFigures

SHOWN_ROWS = 3
SHOWN_LABELS = 6
SHOWN_LANGUAGES = 4
_MARKS = {"error": ("red", "error"), "warning": ("yellow", "warning"), "note": ("cyan", "note")}


def command() -> Command:
    """What `data report` takes."""
    return Command(
        name="data report",
        summary=(
            "Look at rows before they are trained on: lengths, labels, languages, repeats, contradictions, leakage\n"
            "between the parts, broken text, personal data. Every row concerned is named by file and line."
        ),
        usage=("oleaster data report FILES [-m MODEL] [flags]", "oleaster data report --config RECIPE.yaml"),
        run=run,
        words=(FILES,),
        own=(
            FILES,
            RECIPE,
            Flag("json", "File for the whole report, all rows named.", "path"),
            Flag("show", "Rows that are shown of each finding.", "integer", SHOWN_ROWS),
            Flag("strict", "End with exit code 1 when there is an error among the findings.", "switch"),
        ),
        settings=shape_flags(
            "system_prompt", "max_length", "model_name_or_path", "revision", "trust_remote_code", "plugins"
        ),
        titles=TITLES,
    )


def run(given: Given) -> int:
    """Print the report, and write it where a file is named."""
    config = settings_of(given)

    from rich.console import Console

    from oleaster import pipeline
    from oleaster.core.files import atomic_write_json

    found = pipeline.report_data(given.own["files"] or (), config)
    print_report(Console(), found, given.own["show"])
    path: Path | None = given.own["json"]
    if path is not None:
        atomic_write_json(path, found.to_json())
        print(f"\nwhole report: {path}")
    return int(bool(given.own["strict"]) and any(finding.severity == "error" for finding in found.findings))


def print_report(console: Console, found: DataReport, shown: int = SHOWN_ROWS) -> None:
    """A table of the parts, then every finding with its first rows and what to do."""
    from rich.table import Table

    whose = f"tokens of {found.model}" if found.unit == "tokens" else "characters"
    console.print(f"lengths in {whose}, median/95 %/longest", markup=False, highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for name in ("part", "rows", "bad", "prompt", "answer", "row", "labels"):
        table.add_column(name, justify="left" if name == "part" else "right", no_wrap=True)
    for part in found.parts:
        table.add_row(*_cells(part))
    console.print(table, markup=False)
    for part in found.parts:
        for line in _spread(part):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    for finding in found.findings:
        _print_finding(console, finding, shown)
    counts = {severity: sum(f.severity == severity for f in found.findings) for severity in _MARKS}
    said = ", ".join(f"{count} {severity}{'s' * (count != 1)}" for severity, count in counts.items() if count)
    console.print(f"\n{said or 'nothing was found'}", markup=False, highlight=False)


def _cells(part: PartFigures) -> Sequence[str]:
    lengths = (f"{q.median:,}/{q.p95:,}/{q.longest:,}" for q in (part.prompt, part.answer, part.whole))
    labels = f"{len(part.labels):,}" if part.labels else "-"
    return [part.name, f"{part.rows:,}", f"{part.unusable:,}", *lengths, labels]


def _spread(part: PartFigures) -> Iterator[str]:
    """A line on the labels and one on the languages of a part, where there are any."""
    if part.labels:
        entries = [f"{label} {count:,}" for label, count in part.labels.items()]
        if len(entries) > 2 * SHOWN_LABELS:
            entries = [*entries[:SHOWN_LABELS], "...", *entries[-SHOWN_LABELS:]]
        yield f"labels of {part.name}: {', '.join(entries)}"
    if part.languages:
        total = sum(part.languages.values())
        shown = list(part.languages.items())[:SHOWN_LANGUAGES]
        shares = [f"{name} {100 * count / total:.1f} %" for name, count in shown]
        yield f"languages of {part.name}: {', '.join(shares)} ({total:,} rows are long enough to tell)"


def _print_finding(console: Console, finding: Finding, shown: int) -> None:
    from rich.text import Text

    style, word = _MARKS[finding.severity]
    head = Text.assemble("\n", (word, f"bold {style}"), "  ", (finding.kind, "bold"), f"  {finding.message}")
    console.print(head, soft_wrap=True, highlight=False)
    for row in finding.rows[:shown]:
        console.print(f"    {_row_line(row)}", markup=False, highlight=False, soft_wrap=True)
    if len(finding.rows) > shown:
        more = f"    and {len(finding.rows) - shown:,} more rows (--show N, --json FILE)"
        console.print(more, markup=False, highlight=False, soft_wrap=True)
    console.print(f"    -> {finding.advice}", markup=False, highlight=False, soft_wrap=True)


def _row_line(row: Named) -> str:
    return f"{row.place}  {row.seen}".rstrip()
