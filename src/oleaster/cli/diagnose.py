"""`oleaster diagnose`."""

from __future__ import annotations

import textwrap
from shlex import quote
from typing import TYPE_CHECKING

from oleaster.cli.words import Command, Given
from oleaster.config.flags import Flag
from oleaster.core.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from oleaster.reporting.causes import Diagnosis, Trial

FOLDER = Flag("run", "Folder of the run.", "path")


def command() -> Command:
    """What `diagnose` takes."""
    return Command(
        name="diagnose",
        summary=(
            "Say why a run is not better: short trials with one thing changed, the likeliest cause first, and a\n"
            "changed recipe for each. Writes RUN/diagnosis; the run itself stays as it is."
        ),
        usage=("oleaster diagnose RUN [--steps N]",),
        run=run,
        words=(FOLDER,),
        own=(
            FOLDER,
            Flag("steps", "Most optimiser steps of one trial; there are about ten.", "integer", 40),
            Flag("trials", "Train at all; false = only what rows and answers show.", "switch", True),
        ),
    )


def run(given: Given) -> int:
    """Examine, print the trials as they end, then what was found."""
    given.require(run=("the run", "runs/first"))
    path = given.own["run"]
    if given.own["steps"] < 1:
        raise ConfigError("at least one step", where="--steps", remedy="--steps 40")

    from rich.console import Console

    from oleaster.cli.settings import set_log_level
    from oleaster.config.schema import Config

    set_log_level(Config().log_level)
    from oleaster.diagnosis.diagnose import diagnose

    console = Console()

    def shown(trial: Trial) -> None:
        line = f"{trial.name:<36} validation {trial.loss:8.4f}   training {trial.train_loss:8.4f}   {trial.steps} steps"
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    _print(console, diagnose(path, steps=given.own["steps"], trials=given.own["trials"], on_trial=shown))
    return 0


def _print(console: Console, diagnosis: Diagnosis) -> None:
    def say(text: str, indent: str = "") -> None:
        wrapped = textwrap.fill(text, 100, initial_indent=indent, subsequent_indent=indent, break_long_words=False)
        console.print(wrapped, markup=False, highlight=False, soft_wrap=True)

    console.print()
    if not diagnosis.findings:
        say("Nothing found that keeps this run from being better. What helps now: more rows, or a larger base.")
    for number, finding in enumerate(diagnosis.findings, 1):
        say(f"{number}. {finding.cause.replace('_', ' ')}")
        say(finding.evidence, "   ")
        say(f"-> {finding.advice}", "   ")
        if finding.recipe:
            console.print(f"   oleaster run {quote(str(finding.recipe))}", markup=False, soft_wrap=True)
        console.print()
    for note in diagnosis.notes:
        say(f"note: {note}")
