"""`oleaster finetune`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from oleaster.cli.words import Command, Given
from oleaster.config.flags import Flag, sections, select
from oleaster.core.errors import ConfigError

if TYPE_CHECKING:
    from oleaster.config.rules import Rule
    from oleaster.config.schema import Config

TITLES = {
    "": "the run",
    "model": "base model",
    "data": "rows, and what of them is learned",
    "task": "kind of task, and what answers",
    "method": "method",
    "training": "optimisation",
    "watch": "what is recorded, kept and stopped",
    "evaluation": "answers and their scores",
    "export": "the shipped model",
    "search_strategy": "how the best settings are looked for",
}

_LATER = ("export", "passes", "search_space", "search_strategy")
"""Of a recipe, what other commands read."""
RECIPE = Flag(
    "config", "Recipe (YAML), of several the last on top; flags go before it. A run's oleaster.yaml is one.", "list"
)


ADAPTERS = Flag(
    "adapters",
    "Several adapters at once over one base: for each a recipe with what is its own; made in FOLDER/TASK_NAME.",
    "list",
)
RAY_WORKERS = Flag("ray_workers", "Train with so many processes, on the machines of a Ray cluster.", "integer")
RAY_ADDRESS = Flag("ray_address", "Of the cluster: auto, or HOST:PORT; default: one begun on this machine.")


def command() -> Command:
    """What `finetune` takes."""
    settings = select(["", *sections()])
    return Command(
        name="finetune",
        summary="Fine-tune a model on your rows. Makes FOLDER/adapter, FOLDER/model and a log.",
        usage=(
            "oleaster finetune -m MODEL -d ROWS -o FOLDER [flags]",
            "oleaster finetune --config RECIPE.yaml [flags]",
            "oleaster finetune -o FOLDER --resume",
            "oleaster finetune -m MODEL -o FOLDER --adapters intent.yaml tone.yaml",
        ),
        run=run,
        own=(
            RECIPE,
            ADAPTERS,
            RAY_WORKERS,
            RAY_ADDRESS,
            Flag("dry_run", "Read, check and encode the rows, show what would be done; no model is loaded.", "switch"),
        ),
        settings=tuple(flag for flag in settings if flag.section not in _LATER and flag.name not in _LATER),
        titles=TITLES,
    )


def run(given: Given) -> int:
    """Read the recipe, check it, train or (dry run) say what training would do."""
    from oleaster.cli.settings import config_for, recipes_behind
    from oleaster.config.rules import TO_FINETUNE, names_what_it_needs

    rules = (*TO_FINETUNE, names_what_it_needs(given.command))
    workers, address = given.own["ray_workers"], given.own["ray_address"]
    if given.own["adapters"]:
        if workers is not None or address:
            raise ConfigError("several adapters train in one process", where="--adapters", remedy="leave --ray_... out")
        return run_together(given, [Path(path) for path in given.own["adapters"]], rules)
    config = config_for(given, recipes_behind(given), rules)
    assert config.output_path is not None  # the rules have seen to it

    from rich.console import Console

    from oleaster import pipeline
    from oleaster.cli.progress import shown_progress
    from oleaster.cli.tables import print_pairs, print_run
    from oleaster.core.run import Run

    console = Console()
    if given.own["dry_run"]:
        print_pairs(pipeline.plan(config).rows())
        return 0
    if Run(config.output_path).is_done and config.training.resume:
        console.print(f"{config.output_path} is done; there is nothing to go on with", markup=False, highlight=False)
    try:
        if workers is not None or address:
            console.print(f"on a Ray cluster; what it does: oleaster watch {config.output_path}")
            finished = pipeline.finetune_on_cluster(config, 1 if workers is None else workers, address)
        else:
            with shown_progress(console) as sink:
                finished = pipeline.finetune(config, [sink])
    except KeyboardInterrupt:
        raise KeyboardInterrupt(kept(config.output_path)) from None
    print_run(finished)
    return 0


def run_together(given: Given, recipes: Sequence[Path], rules: Sequence[Rule]) -> int:
    """Train an adapter for each recipe, all over one base."""
    from oleaster.cli.settings import config_for
    from oleaster.config.load import replace
    from oleaster.config.rules import check_together

    common = [Path(path) for path in given.own["config"] or ()]
    configs: list[Config] = []
    for path in recipes:
        config = config_for(given, [*common, path], rules)
        assert config.output_path is not None  # the rules have seen to it
        name = config.task_name or path.stem
        configs.append(replace(config, task_name=name, output_path=config.output_path / name))
    check_together(configs)

    from rich.console import Console

    from oleaster import pipeline
    from oleaster.cli.progress import labelled_lines
    from oleaster.cli.tables import print_pairs, print_run

    console = Console()
    if given.own["dry_run"]:
        for config in configs:
            print_pairs(pipeline.plan(config).rows())
        return 0
    try:
        runs = pipeline.finetune_together(configs, [[labelled_lines(console, str(c.task_name))] for c in configs])
    except KeyboardInterrupt:
        folder = given.settings.get("output_path") or "FOLDER"
        message = f"stopped; what each had trained is kept in {folder}\n  -> the same command with --resume"
        raise KeyboardInterrupt(message) from None
    for finished in runs:
        print_run(finished)
    return 0


def kept(folder: Path) -> str:
    """What a stopped run leaves, and how to go on."""
    from oleaster.core.run import Run

    checkpoints = Run(folder).checkpoints
    found = [p for p in checkpoints.glob("*") if p.is_dir() and not p.name.startswith(".")]
    if not found:
        return f"stopped before the first checkpoint; nothing of the training is kept in {folder}"
    newest = max(found, key=lambda path: path.stat().st_mtime)
    return f"stopped; {newest} is kept\n  -> oleaster finetune --output_path {quote(str(folder))} --resume"
