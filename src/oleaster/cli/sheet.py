"""`oleaster sheet`: a blind sheet for people to judge two models by."""

from __future__ import annotations

from shlex import quote

from oleaster.cli.compare import FIRST, SECOND, SETTINGS, TWO_MODELS, two_reports
from oleaster.cli.finetune import TITLES
from oleaster.cli.words import Command, Given
from oleaster.config.flags import Flag, select
from oleaster.core.errors import ConfigError


def command() -> Command:
    """What `sheet` takes."""
    return Command(
        name="sheet",
        summary=(
            "Make a blind sheet: the answers of two models side by side in random order, for people to judge.\n"
            "Judges open sheet.html (or fill in sheet.csv) and hand back a CSV file; `oleaster unblind` reads them."
        ),
        usage=("oleaster sheet FIRST SECOND [-d ROWS] -o FOLDER [flags]",),
        run=run,
        words=(FIRST, SECOND),
        own=(
            FIRST,
            SECOND,
            Flag("output", "Folder for sheet.html, sheet.csv and key.json.", "path", short="o"),
            Flag("sheet_rows", "At most this many rows, drawn from those where the answers differ.", "integer", 50),
            Flag("show_reference", "Show the judges the expected answer.", "switch", False),
        ),
        settings=(*SETTINGS, *select((), ("seed",))),
        titles={**TITLES, "": "other", "training": "speed"},
    )


def run(given: Given) -> int:
    """Ask both models (or read what they answered) and write the sheet."""
    given.require(**TWO_MODELS, output=("the folder of the sheet", "-o sheet"))
    folder, count = given.own["output"], given.own["sheet_rows"]
    if count < 1:
        raise ConfigError(f"a sheet of {count} rows is none", where="--sheet_rows", remedy="--sheet_rows 50")
    first, second = two_reports(given)

    from oleaster.config.load import load_config
    from oleaster.evaluation.sheet import KEY, PAGE, TABLE, make_sheet

    seed = load_config(None, {name: value for name, value in given.settings.items() if name == "seed"}).seed
    key = make_sheet(first, second, folder, count, seed, given.own["show_reference"])
    equal = f"; {key.same} rows with equal answers are left out" if key.same else ""
    print(f"{len(key.sources)} of the {key.pool} rows on which the answers differ{equal}\n")
    print(f"for the judges:  {folder / PAGE} (or {folder / TABLE})")
    print(f"not for them:    {folder / KEY}")
    print(f"then:            put their CSV files into {folder}, and: oleaster unblind {quote(str(folder))}")
    return 0
