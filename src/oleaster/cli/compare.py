"""`oleaster compare`: two models on the same rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oleaster.cli.finetune import TITLES
from oleaster.cli.words import Command, Given
from oleaster.config.flags import Flag, select
from oleaster.config.rules import ALWAYS

if TYPE_CHECKING:
    from oleaster.evaluation.report import Report

FIRST = Flag("first", "Run, model, artifact, or folder with a report of an evaluation.")
SECOND = Flag("second", "The one that is held against it.")
TWO_MODELS = {"first": ("the first model", "runs/first"), "second": ("the second model", "runs/second -d test.jsonl")}
"""What `Given.require` is asked for."""
SETTINGS = tuple(
    select(
        ["data", "evaluation"],
        ("dtype", "trust_remote_code", "per_device_eval_batch_size", "num_threads", "log_level", "plugins"),
    )
)


def command() -> Command:
    """What `compare` takes."""
    return Command(
        name="compare",
        summary=(
            "Say whether one of two models is better, or how many rows it would take to tell.\n"
            "Without rows, the last evaluations of both are compared; with rows, both are evaluated first."
        ),
        usage=("oleaster compare FIRST SECOND", "oleaster compare FIRST SECOND -d ROWS [flags]"),
        run=run,
        words=(FIRST, SECOND),
        own=(FIRST, SECOND),
        settings=SETTINGS,
        titles={**TITLES, "": "other", "training": "speed"},
    )


def run(given: Given) -> int:
    """Print the table."""
    first, second = two_reports(given)

    from rich.console import Console

    from oleaster.cli.tables import print_comparison

    print_comparison(Console(), first, second)
    return 0


def two_reports(given: Given) -> tuple[Report, Report]:
    """Of both models: evaluated now when rows are named, else the saved ones.

    Raises: ConfigError when a model is not named, DataError when one has no saved report.
    """
    from oleaster.cli.settings import config_for
    from oleaster.pipeline.loading import recipe_of
    from oleaster.pipeline.measuring import report_of

    given.require(**TWO_MODELS)
    paths = [given.own["first"], given.own["second"]]
    fresh = any(given.settings.get(name) for name in ("data_name", "data_files", "eval_data_files"))
    configs = [config_for(given, recipe_of(path), ALWAYS) if fresh else None for path in paths]
    first, second = (report_of(path, config) for path, config in zip(paths, configs, strict=True))
    return first, second
