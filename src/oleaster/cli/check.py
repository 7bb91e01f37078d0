"""`oleaster check`: everything about a recipe that can be known without a model's weights."""

from __future__ import annotations

from pathlib import Path

from oleaster.cli.finetune import RECIPE, TITLES
from oleaster.cli.run import SAVE, recipe_of_command, saved
from oleaster.cli.words import Command, Given
from oleaster.config.flags import config_flags, sections, select
from oleaster.core.errors import collect


def command() -> Command:
    """What `check` takes."""
    return Command(
        name="check",
        summary=(
            "Say whether a recipe can be done: settings, steps, rows, packages and the model's shape. All that is\n"
            "wrong is said at once, with its line. No weights are read, nothing is written or fetched."
        ),
        usage=("oleaster check RECIPE.yaml [flags]",),
        run=run,
        words=(RECIPE,),
        own=(RECIPE, SAVE),
        settings=tuple(select(["", *sections()])),
        titles=TITLES,
    )


def run(given: Given) -> int:
    """Collect what is wrong in settings, rows, model and installation; else say what the steps would do."""
    from oleaster.cli.settings import set_log_level
    from oleaster.config.load import read_config
    from oleaster.config.rules import names_what_it_needs
    from oleaster.pipeline.line import TO_RUN

    given, recipes = recipe_of_command(given)
    read = read_config(recipes, given.settings, rules=(*TO_RUN, names_what_it_needs(given.command)))
    config, problems = read.config, read.errors
    set_log_level(config.log_level)
    if given.own["save_config_file"] and not problems:
        return saved(config, given.own["save_config_file"])

    from oleaster.pipeline.outlook import look_ahead

    outlook = None
    if not any(_is_of_rows(name) for name, _ in read.problems):
        outlook = look_ahead(config, rows_only=bool(problems))
        problems += map(read.located, outlook.problems)
    collect(problems)

    from oleaster.cli.tables import print_pairs

    for name, pairs in outlook.steps if outlook else ():
        print_pairs(pairs, name)
    print(f"{', '.join(str(Path(recipe)) for recipe in recipes)}: can be done in {config.output_path}")
    return 0


def _is_of_rows(name: str) -> bool:
    """Is a problem about the rows, or about everything, so that to look at them would say the same again?"""
    flag = config_flags().get(name)
    return flag is not None and flag.section == "data"
