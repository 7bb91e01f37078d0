"""`oleaster generate-adapter`: one exported base that carries several adapters."""

from __future__ import annotations

from pathlib import Path

from oleaster.cli.auto_opt import OUTPUT, SHIPPING_TITLES
from oleaster.cli.words import Command, Given
from oleaster.config.flags import Flag, select
from oleaster.config.rules import ALWAYS

SETTINGS = ("precision", "target_mb", "calibration_rows", "max_drop", "max_kl", "verify_rows", "device", "provider")


def command() -> Command:
    """What `generate-adapter` takes."""
    names = ("num_threads", "trust_remote_code", "log_level", "plugins")
    return Command(
        name="generate-adapter",
        summary=(
            "Export one base model with several adapters, of which each request chooses one (--adapter NAME).\n"
            "An artifact that is there keeps its base and gets the adapters as well; auto means int8 here."
        ),
        usage=("oleaster generate-adapter --base_model_path MODEL --adapter_paths RUN,RUN -o FOLDER [flags]",),
        run=run,
        own=(
            Flag("base_model_path", "Model that the adapters were trained on. [that of the first run]"),
            Flag("adapter_paths", "Runs or PEFT folders; each is called after its task_name, else its folder.", "list"),
            OUTPUT,
        ),
        settings=tuple(select((), (*SETTINGS, *names))),
        titles=SHIPPING_TITLES,
    )


def run(given: Given) -> int:
    """Export; print each adapter's fidelity ladder."""
    given.require(
        adapter_paths=("the adapters", "--adapter_paths runs/a,runs/b"),
        output_path=("the folder to write", "-o artifacts/shared"),
    )
    base, adapters, output = (given.own[name] for name in ("base_model_path", "adapter_paths", "output_path"))

    from oleaster.cli.settings import config_for

    config = config_for(given, None, ALWAYS)

    from rich.console import Console

    from oleaster import pipeline
    from oleaster.cli.ladder import print_artifact, shown_ladder

    with shown_ladder(Console()) as on_progress:
        artifact = pipeline.generate_adapter([Path(path) for path in adapters], config, output, base, on_progress)
    print_artifact(artifact)
    return 0
