"""`oleaster search`: the best of many trainings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shlex import quote

from oleaster.cli.finetune import RECIPE, TITLES
from oleaster.cli.words import Command, Given
from oleaster.config.flags import Flag, sections, select


def command() -> Command:
    """What `search` takes."""
    return Command(
        name="search",
        summary=(
            "Look for the best settings: train trials of the recipe's search_space, keep the best in FOLDER/best and\n"
            "write FOLDER/report.html. After a kill --resume goes on; given in several shells it works in all of them."
        ),
        usage=(
            "oleaster search RECIPE.yaml [flags]",
            "oleaster search -m MODEL -d ROWS -o FOLDER --search_space '{lora_r: [8, 16, 32]}' [flags]",
            "oleaster search -o FOLDER --resume [flags]",
        ),
        run=run,
        words=(RECIPE,),
        own=(RECIPE, Flag("dry_run", "Check everything and say what would be searched; no model is loaded.", "switch")),
        settings=tuple(flag for flag in select(["", *sections()]) if flag.name != "passes"),
        titles=TITLES,
    )


def run(given: Given) -> int:
    """Read recipe and space, check them, search (or say what would be searched)."""
    from oleaster.cli.settings import config_for, recipes_behind
    from oleaster.config.rules import TO_FINETUNE, names_what_it_needs
    from oleaster.search.folder import is_search

    given = with_search_of_folder(given)
    config = config_for(given, recipes_behind(given), (*TO_FINETUNE, names_what_it_needs(given.command)))
    assert config.output_path is not None  # the rules have seen to it

    from rich.console import Console

    from oleaster import pipeline
    from oleaster.cli.study import print_findings, print_plan, shown_trials

    if given.own["dry_run"]:
        print_plan(config, *pipeline.plan_search(config))
        return 0
    console = Console()
    try:
        with shown_trials(console) as watch:
            findings = pipeline.run_search(config, watch)
    except KeyboardInterrupt:
        kept = f"stopped; trials are kept\n  -> oleaster search -o {quote(str(config.output_path))} --resume"
        raise KeyboardInterrupt(kept if is_search(config.output_path) else "stopped") from None
    print_findings(console, findings)
    return 0


def with_search_of_folder(given: Given) -> Given:
    """`search -o FOLDER --resume` alone goes on with the recipe that the search began with."""
    from oleaster.search.folder import RECIPE as SEARCH
    from oleaster.search.folder import is_search

    folder = given.settings.get("output_path")
    if given.own["config"] or not folder or not is_search(Path(str(folder))):
        return given
    return replace(given, own={**given.own, "config": [str(Path(str(folder)) / SEARCH)]})
