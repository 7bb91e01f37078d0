"""`oleaster auto-opt`: a run or model becomes a folder that ONNX Runtime runs and that answers the same."""

from __future__ import annotations

from oleaster.cli.evaluate import MODEL
from oleaster.cli.finetune import TITLES
from oleaster.cli.words import Command, Given
from oleaster.config.flags import ALIASES, Flag, select
from oleaster.config.rules import ALWAYS

OUTPUT = Flag(
    "output_path",
    "Folder of the artifact; one that is there is replaced.",
    "path",
    short="o",
    aliases=tuple(alias for alias, name in ALIASES.items() if name == "output_path"),
)
SETTINGS = ("max_new_tokens", "num_threads", "trust_remote_code", "seed", "log_level", "plugins")
SHIPPING_TITLES = {**TITLES, "": "other", "data": "rows that it is held to", "training": "speed"}


def command() -> Command:
    """What `auto-opt` takes."""
    return Command(
        name="auto-opt",
        summary=(
            "Export a run, or a model and an adapter, for ONNX Runtime GenAI, and prove that it answers the same.\n"
            "A form of the model that loses more than allowed ends the command with exit code 3 and is named."
        ),
        usage=(
            "oleaster auto-opt RUN -o FOLDER [flags]",
            "oleaster auto-opt -m MODEL --adapter_path ADAPTER -d ROWS -o FOLDER [flags]",
        ),
        run=run,
        words=(MODEL,),
        own=(
            MODEL,
            Flag("adapter_path", "PEFT adapter that is merged in. [that of the run]", "path"),
            OUTPUT,
        ),
        settings=tuple(select(["export", "data"], SETTINGS)),
        titles=SHIPPING_TITLES,
    )


def run(given: Given) -> int:
    """Export; print each step, the fidelity ladder and what the precision was chosen from."""
    given.require(
        model_path=("the run or model to export", "runs/first"),
        output_path=("the folder to write", "-o artifacts/first"),
    )
    path, adapter, output = (given.own[name] for name in ("model_path", "adapter_path", "output_path"))

    from oleaster.cli.settings import config_for
    from oleaster.pipeline.loading import recipe_of

    config = config_for(given, recipe_of(adapter or path), ALWAYS)

    from rich.console import Console

    from oleaster import pipeline
    from oleaster.cli.ladder import print_artifact, shown_ladder

    with shown_ladder(Console()) as on_progress:
        artifact = pipeline.auto_opt(path, config, output, adapter, on_progress)
    print_artifact(artifact)
    return 0
