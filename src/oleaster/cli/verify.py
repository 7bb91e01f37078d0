"""`oleaster verify`: the fidelity ladder again, on an artifact that exists."""

from __future__ import annotations

from oleaster.cli.auto_opt import SETTINGS, SHIPPING_TITLES
from oleaster.cli.evaluate import ADAPTER
from oleaster.cli.words import Command, Given
from oleaster.config.flags import Flag, select
from oleaster.config.rules import ALWAYS

ARTIFACT = Flag("artifact_path", "Folder that auto-opt made.", "path")


def command() -> Command:
    """What `verify` takes."""
    names = ("max_drop", "max_kl", "verify_rows")
    return Command(
        name="verify",
        summary=(
            "Check an artifact's files, and that it still answers like the model it was exported from.\n"
            "A difference beyond what is allowed ends the command with exit code 3."
        ),
        usage=("oleaster verify ARTIFACT [--adapter NAME] [--run RUN] [-d ROWS] [flags]",),
        run=run,
        words=(ARTIFACT,),
        own=(
            ARTIFACT,
            ADAPTER,
            Flag("run", "Run that it was exported from. [the folder that its recipe names]", "path"),
        ),
        settings=tuple(select(["data"], (*names, *SETTINGS))),
        titles=SHIPPING_TITLES,
    )


def run(given: Given) -> int:
    """Climb and print the ladder."""
    given.require(artifact_path=("the artifact", "artifacts/first"))
    path = given.own["artifact_path"]

    from oleaster.cli.settings import config_for
    from oleaster.pipeline.loading import recipe_of

    config = config_for(given, recipe_of(path, given.own["adapter"]), ALWAYS)

    from rich.console import Console

    from oleaster import pipeline
    from oleaster.cli.ladder import shown_ladder

    with shown_ladder(Console()) as on_progress:
        pipeline.verify(path, config, given.own["run"], on_progress, given.own["adapter"])
    print("every rung holds")
    return 0
