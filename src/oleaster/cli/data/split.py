"""`oleaster data split`."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

from oleaster.cli.data.rows import FILES, RECIPE, SHAPE, TITLES, settings_of, shape_flags
from oleaster.cli.words import Command, Given
from oleaster.config.flags import Flag

if TYPE_CHECKING:
    from oleaster.quality.divide import Division

USUAL = (0.1, 0.2)
"""Share of validation rows that is good practice."""


def command() -> Command:
    """What `data split` takes."""
    return Command(
        name="data split",
        summary=(
            "Divide rows into train.jsonl, validation.jsonl and perhaps test.jsonl: the same share of every label,\n"
            "rows of one group and near duplicates on one side, augmented rows in training only."
        ),
        usage=("oleaster data split FILES -o FOLDER [--validation_fraction 0.15] [--test_fraction 0.1] [flags]",),
        run=run,
        words=(FILES,),
        own=(
            FILES,
            Flag("output", "Folder to write.", "path", short="o"),
            RECIPE,
            Flag("test_fraction", "Share of the rows that becomes test.jsonl.", "number", 0.0),
            Flag("group_field", "Column whose equal values stay on one side (customer, document)."),
            Flag("keep_near", "Near duplicates stay on one side.", "switch", True),
        ),
        settings=shape_flags("validation_fraction"),
        titles=TITLES,
    )


def run(given: Given) -> int:
    """Divide; print the parts."""
    own = given.own
    given.require(files=("the rows", "rows.jsonl"), output=("the folder to write", "-o parts"))
    config = settings_of(given)

    from oleaster import pipeline

    chosen = (own["test_fraction"], own["group_field"], own["keep_near"])
    division = pipeline.split_data(own["files"], own["output"], config, *chosen)
    print_division(division)
    share = config.data.validation_fraction
    if not USUAL[0] <= share <= USUAL[1]:
        print(f"note: 10 to 20 % for validation is usual, {share:.0%} was asked for")
    shape = [f" --{name} {quote(str(value))}" for name, value in given.settings.items() if name in SHAPE]
    print(f"next: oleaster finetune -m MODEL -d {quote(str(own['output']))}{''.join(shape)} -o runs/first")
    return 0


def print_division(division: Division) -> None:
    """Rows of each part, and how evenly the labels are spread."""
    from oleaster.cli.tables import print_pairs

    total = sum(map(len, division.parts.values()))
    pairs = []
    for part, rows in division.parts.items():
        counts = division.labels.get(part)
        spread = f", {len(counts)} labels, the rarest {min(counts.values())} rows" if counts else ""
        pairs.append((part, f"{len(rows):,} rows ({len(rows) / total:.1%}){spread}"))
    if division.tied:
        pairs.append(("tied", f"{division.tied:,} rows stand where the row is that they resemble or belong to"))
    if division.left_out:
        pairs.append(("left out", f"{division.left_out:,} augmented rows that were made from held-out ones"))
    print_pairs(pairs, "made")
