"""`oleaster run`: a whole recipe, step after step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oleaster.cli.finetune import RECIPE, TITLES
from oleaster.cli.words import Command, Given
from oleaster.config.flags import Flag, sections, select
from oleaster.config.recipe import read_recipe
from oleaster.core.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from oleaster.config.schema import Config

SAVE = Flag(
    "save_config_file",
    "Write the recipe in Oleaster's own words to this file (alone: to the screen), and do nothing else.",
    alone="-",
)


def command() -> Command:
    """What `run` takes."""
    return Command(
        name="run",
        summary=(
            "Do all that a recipe says: its passes, in order. What has not changed since is taken as it is; the same\n"
            "command goes on where a killed one ended."
        ),
        usage=("oleaster run RECIPE.yaml [flags]", "oleaster run --config RECIPE.yaml [flags]"),
        run=run,
        words=(RECIPE,),
        own=(
            RECIPE,
            Flag("setup", "First install what the recipe needs and is not here; asks before it does.", "switch"),
            Flag("yes", "Do not ask.", "switch"),
            Flag("dry_run", "Check everything and say what would be done; no model is loaded.", "switch"),
            SAVE,
        ),
        settings=tuple(select(["", *sections()])),
        titles=TITLES,
    )


def run(given: Given) -> int:
    """Read the recipe, check it, do its steps (or say what they would do), show what each makes."""
    from oleaster.cli.settings import config_for, set_log_level
    from oleaster.config.load import read_config
    from oleaster.config.rules import names_what_it_needs
    from oleaster.pipeline.line import TO_RUN

    given, recipes = recipe_of_command(given)
    if given.own["setup"]:
        from oleaster.cli.setup import set_up

        config = read_config(recipes, given.settings).config
        set_log_level(config.log_level)
        set_up(config, given.own["yes"])
    config = config_for(given, recipes, (*TO_RUN, names_what_it_needs(given.command)))
    if given.own["save_config_file"]:
        return saved(config, given.own["save_config_file"])

    from rich.console import Console

    from oleaster import pipeline
    from oleaster.cli.tables import print_pairs

    if given.own["dry_run"]:
        print_pairs(pipeline.foresee(config), f"steps in {config.output_path}")
        return 0
    console = Console()
    try:
        with shown_steps(console) as on_event:
            line = pipeline.run(config, on_event)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; the same command goes on from here") from None
    print_pairs([(step["name"], step["folder"]) for step in line.read_record()], "made")
    return 0


def recipe_of_command(given: Given) -> tuple[Given, list[Path]]:
    """(the command with an output folder, its recipes); a folder that nobody names is `runs/` and the recipe's name.

    Raises: ConfigError when there is no recipe.
    """
    from oleaster.cli.settings import recipes_behind

    recipes = recipes_behind(given)
    if not recipes:
        remedy = f"{given.command} recipe.yaml; oleaster init rows.jsonl writes one"
        raise ConfigError("not given: the recipe", remedy=remedy)
    top = recipes[-1]
    if "output_path" not in given.settings and not read_recipe(top).values.get("output_path"):
        given = replace(given, settings={**given.settings, "output_path": str(Path("runs") / top.stem)})
    return given, recipes


def saved(config: Config, path: str) -> int:
    """Show the recipe in our own words, or write it to a file."""
    from oleaster.config.load import recipe_text, save_config

    again = "oleaster run oleaster.yaml" if path == "-" else f"oleaster run {path}"
    if path == "-":
        print(recipe_text(config, again), end="")
    else:
        save_config(config, Path(path), again)
        print(f"written: {path}")
    return 0


@contextmanager
def shown_steps(console: Console) -> Iterator[Callable[[Any], None]]:
    """A function that shows each event of a recipe's steps, whichever room it comes from."""
    from oleaster.pipeline.line import StepBegins, StepEnds

    with ExitStack() as open_displays:
        shown: dict[str, Callable[[Any], None]] = {}

        def on_event(event: Any) -> None:
            if isinstance(event, StepBegins):
                console.print(_begins(event), markup=False, highlight=False, style="bold", soft_wrap=True)
            elif isinstance(event, StepEnds):
                open_displays.close()
                shown.clear()
            else:
                kind = _kind(event)
                if kind not in shown:
                    shown[kind] = open_displays.enter_context(_DISPLAYS[kind](console))
                shown[kind](event)

        yield on_event


def _begins(event: Any) -> str:
    head = f"[{event.number}/{event.total}] {event.name}"
    if event.reused:
        return f"{head}: is done, nothing it is made from has changed"
    return f"{head}: {event.why}" if event.why else head


def _kind(event: Any) -> str:
    from oleaster.search.papers import SearchNote, TrialBegins, TrialEnds, TrialValidated
    from oleaster.training.reports import EvalReport, Notice, StepReport

    if isinstance(event, (StepReport, EvalReport, Notice)):
        return "training"
    if isinstance(event, (SearchNote, TrialBegins, TrialEnds, TrialValidated)):
        return "trials"
    return "reports" if isinstance(event, list) else "export"


@contextmanager
def _shown_reports(console: Console) -> Iterator[Callable[[Any], None]]:
    from oleaster.cli.tables import print_reports

    yield lambda reports: print_reports(console, reports)


@contextmanager
def _shown_training(console: Console) -> Iterator[Callable[[Any], None]]:
    from oleaster.cli.progress import shown_progress

    with shown_progress(console) as sink:
        yield sink


@contextmanager
def _shown_trials(console: Console) -> Iterator[Callable[[Any], None]]:
    from oleaster.cli.study import shown_trials

    with shown_trials(console) as watch:
        yield watch


@contextmanager
def _shown_export(console: Console) -> Iterator[Callable[[Any], None]]:
    from oleaster.cli.ladder import shown_ladder

    with shown_ladder(console) as on_progress:
        yield on_progress


_DISPLAYS = {"training": _shown_training, "trials": _shown_trials, "reports": _shown_reports, "export": _shown_export}
