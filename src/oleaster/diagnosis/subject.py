"""The run that is asked about: its rows, its log, its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from oleaster.config.schema import Config
from oleaster.core.run import Run
from oleaster.data.papers import Example
from oleaster.evaluation.evaluate import prompt_text
from oleaster.evaluation.report import Report, Row
from oleaster.pipeline.shelf import Ready
from oleaster.reporting.history import History

MOST_ASKED = 60
"""Validation rows that base and tuned model are asked: enough to see what goes wrong."""
_MOST_TOKENS, _SPARE = 32, 4
"""Of an answer, and how many more than the longest training answer has: enough to see whether it ends."""


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

    @property
    def longest_answer(self) -> int:
        """Tokens of the longest training answer, its stop token included."""
        return _longest_answer(self.ready)

    @property
    def should_have_ended(self) -> list[Row]:
        """Answers of the tuned model to rows whose reference is shorter than what it was allowed to write."""
        room = _tokens_to_ask(self.ready) - _SPARE
        return [row for row in self.tuned.rows if row.finish and row.targets <= room] if self.tuned else []

    def texts(self) -> list[tuple[str, str]]:
        """(prompt, answer) of the training rows."""
        return [(prompt_text(example), example.target) for example in self.train]


def examine(run: Run, ready: Ready) -> Subject:
    """Read the run's log and ask its model some of the rows it held out."""
    from oleaster.config.load import replace
    from oleaster.pipeline.scoring import evaluate

    reports: tuple[Report, ...] = ()
    if run.is_done and ready.data.validation:
        most = {"eval_max_samples": MOST_ASKED, "max_new_tokens": _tokens_to_ask(ready)}
        config = replace(ready.config, **most, answer_with="text")
        reports = tuple(evaluate(run.folder, config, True, run.folder / "diagnosis" / "answers"))
    return Subject(run, ready, History.of(run.log), reports)


def _longest_answer(ready: Ready) -> int:
    return max(len(row.input_ids) - row.prompt_length for row in ready.data.train)


def _tokens_to_ask(ready: Ready) -> int:
    return min(_MOST_TOKENS, _longest_answer(ready) + _SPARE)
