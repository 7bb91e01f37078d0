"""`oleaster evaluate`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from oleaster.cli.finetune import TITLES
from oleaster.cli.words import Command, Given
from oleaster.config.flags import Flag, select
from oleaster.config.rules import ALWAYS, Problem
from oleaster.config.schema import Config

MODEL = Flag(
    "model_path",
    "Folder of a run, a model or an exported artifact; hub id; .gguf file.",
    short="m",
    aliases=("model", "model_name_or_path"),
)

ADAPTER = Flag("adapter", "Name of the adapter that answers, in an artifact that carries several.")


def command() -> Command:
    """What `evaluate` takes."""
    names = ("dtype", "trust_remote_code", "per_device_eval_batch_size", "num_threads", "seed", "log_level", "plugins")
    return Command(
        name="evaluate",
        summary="Score a model, run or artifact on rows; a run also against its base. Predictions are saved.",
        usage=(
            "oleaster evaluate RUN [flags]",
            "oleaster evaluate MODEL -d ROWS [flags]",
        ),
        run=run,
        words=(MODEL,),
        own=(
            MODEL,
            ADAPTER,
            Flag("config", "Recipe that names the rows. [the run's own]", "path"),
            Flag("base", "Score the base model beside the tuned one.", "switch", True),
            Flag(
                "output",
                "Folder for the report and the predictions. [RUN/predictions, of other models evaluations/NAME]",
                "path",
                short="o",
            ),
        ),
        settings=tuple(select(["data", "task", "evaluation"], names)),
        titles={**TITLES, "": "other", "training": "speed"},
    )


def run(given: Given) -> int:
    """Score and print the table."""
    from oleaster.cli.settings import config_for
    from oleaster.pipeline.loading import recipe_of

    given.require(model_path=("the run or model to score", "runs/first"))
    path = given.own["model_path"]

    def has_rows(config: Config) -> Iterator[Problem]:
        if not (config.data.data_name or config.data.data_files or config.data.eval_data_files):
            why = f"{path} has no recipe" if Path(path).exists() else f"there is no folder {path} with a recipe"
            remedy = f"{given.command} -d rows.jsonl"
            yield Problem("", f"not given: the rows (--data_name or --data_files); {why}", remedy)

    config = config_for(given, given.own["config"] or recipe_of(path, given.own["adapter"]), (*ALWAYS, has_rows))

    from rich.console import Console

    from oleaster import pipeline
    from oleaster.cli.tables import print_reports

    reports = pipeline.evaluate(path, config, given.own["base"], given.own["output"], given.own["adapter"])
    print_reports(Console(), reports)
    return 0
