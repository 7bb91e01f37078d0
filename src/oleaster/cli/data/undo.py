"""`oleaster data undo`."""

from __future__ import annotations

from pathlib import Path

from oleaster.cli.data.rows import new_file
from oleaster.cli.words import Command, Given
from oleaster.config.flags import Flag

CLEANED = Flag("file", "File that data clean has written; its list of changes stands beside it.")


def command() -> Command:
    """What `data undo` takes."""
    return Command(
        name="data undo",
        summary="Write the rows as they were before a cleaning: byte by byte, where they were JSON lines.",
        usage=("oleaster data undo CLEANED.jsonl -o FILE",),
        run=run,
        words=(CLEANED,),
        own=(CLEANED, Flag("output", "File to write.", "path", short="o")),
    )


def run(given: Given) -> int:
    """Go back."""
    given.require(file=("the cleaned file", "cleaned.jsonl"), output=("the file to write", "-o rows.jsonl"))
    output = new_file(given)

    from oleaster.quality.changes import undo

    source = undo(Path(given.own["file"]), output)
    same = "the same bytes as" if source.exact else "the same rows as"
    print(f"{output}: {source.lines:,} lines, {same} {source.path} had")
    return 0
