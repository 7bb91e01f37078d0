"""The run that is asked about: its rows, its log, its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from oleaster.config.schema import Config
from oleaster.core.run import Run
from oleaster.data.papers import Example
from oleaster.evaluation.evaluate import prompt_text
from oleaster.evaluation.report import Report
from oleaster.pipeline.shelf import Ready
from oleaster.reporting.history import History

MOST_ASKED = 60
"""Validation rows that base and tuned model are asked: enough to see what goes wrong."""
LONGEST_ANSWER = 32
"""Tokens."""


@dataclass(frozen=True)
class Subject:
    """What the checks look at."""

    run: Run
    ready: Ready
    history: History
    reports: tuple[Report, ...]
    """Base, then tuned, on the same validation rows; empty when the run is not finished."""

    @property
    def config(self) -> Config:
        return self.ready.config

    @property
    def train(self) -> Sequence[Example]:
        return self.ready.prepared.train

    @property
    def tuned(self) -> Report | None:
        return self.reports[-1] if self.reports else None

    def texts(self) -> list[tuple[str, str]]:
        """(prompt, answer) of the training rows."""
        return [(prompt_text(example), example.target) for example in self.train]


def examine(run: Run, ready: Ready) -> Subject:
    """Read the run's log and ask its model some of the rows it held out."""
    from oleaster.config.load import replace
    from oleaster.pipeline.scoring import evaluate

    reports: tuple[Report, ...] = ()
    if run.is_done and ready.data.validation:
        config = replace(ready.config, eval_max_samples=MOST_ASKED, max_new_tokens=LONGEST_ANSWER, answer_with="text")
        reports = tuple(evaluate(run.folder, config, True, run.folder / "diagnosis" / "answers"))
    return Subject(run, ready, History.of(run.log), reports)
