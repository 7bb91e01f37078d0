"""`oleaster plan`."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from oleaster.cli.finetune import RECIPE, TITLES
from oleaster.cli.words import Command, Given
from oleaster.config.flags import Flag, sections, select

if TYPE_CHECKING:
    from oleaster.pipeline import Forecast


def command() -> Command:
    """What `plan` takes: what `finetune` does."""
    settings = select(["", *(name for name in sections() if name != "export")])
    return Command(
        name="plan",
        summary="Run a few steps of a training in memory and say what all of it will take. Nothing is kept.",
        usage=("oleaster plan -m MODEL -d ROWS [flags of finetune]", "oleaster plan --config RECIPE.yaml"),
        run=run,
        own=(RECIPE, Flag("json", "Print the figures as one JSON object.", "switch")),
        settings=tuple(flag for flag in settings if flag.name != "passes"),
        titles=TITLES,
    )


def run(given: Given) -> int:
    """Forecast, and print."""
    from oleaster.cli.settings import config_for, recipes_behind
    from oleaster.config.rules import TO_FINETUNE, names_what_it_needs

    rules = (*TO_FINETUNE, names_what_it_needs(given.command, writes=False))
    config = config_for(given, recipes_behind(given), rules)

    from oleaster import pipeline

    found = pipeline.forecast(config)
    if given.own["json"]:
        print(json.dumps(figures(found)))
    else:
        _show(found)
    return 0


def figures(found: Forecast) -> dict[str, object]:
    """The measured numbers by name, the ways to train, the advice."""
    numbers = {name: value for name, value in vars(found).items() if isinstance(value, (float, str))}
    choices = [dataclasses.asdict(choice) for choice in found.choices]
    return {**numbers, "total_steps": found.preview.total_steps, "choices": choices, "advice": list(found.advice)}


def _show(found: Forecast) -> None:
    from rich.console import Console
    from rich.table import Table

    from oleaster.cli.tables import print_pairs

    print_pairs(
        [*(row for row in found.preview.rows() if row[0] not in ("output", "memory, estimated")), *found.rows()]
    )
    table = Table("way to train", "trained numbers", "peak MB", "work of a step", "fits", box=None, pad_edge=False)
    for choice in found.choices:
        cells = (f"{choice.trained:,}", f"{choice.memory_mb:,.0f}", f"{choice.work:.2f} x")
        table.add_row(choice.name, *cells, "yes" if choice.fits else "no")
    print()
    Console().print(table, markup=False)
    print()
    for line in found.advice:
        print(f"- {line}")
