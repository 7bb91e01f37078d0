"""What a search hands on: trials, and what is told while they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

State = Literal["complete", "pruned", "failed", "running", "waiting"]


@dataclass(frozen=True)
class Objective:
    """What is to become large or small."""

    name: str
    maximize: bool
    kind: Literal["training", "answers", "shipping"]
    """What it is measured by: the training itself, the answers to the held-out rows, or the model as it would ship."""

    def better(self, a: float, b: float) -> bool:
        """Is `a` better than `b`?"""
        return a > b if self.maximize else a < b


@dataclass(frozen=True)
class Trial:
    """One training of a search."""

    number: int
    """From 0, in the order begun."""
    state: State
    settings: Mapping[str, str]
    """The searched settings that it has, by name, as a recipe has them."""
    folder: Path
    """Its run."""
    values: Mapping[str, float] = field(default_factory=dict)
    """All that was measured, the objectives among it."""
    course: tuple[tuple[int, float], ...] = ()
    """(number of the validation, its loss)"""
    seconds: float = 0.0
    """Of training, validations included."""
    why: str = ""
    """Why it was pruned or failed, or which trial has the same settings."""


def rounded(value: str) -> str:
    """Four digits of a number that has more, for people; the recipe has all of them."""
    try:
        return value if len(value) < 7 else f"{float(value):.4g}"
    except ValueError:
        return value


@dataclass(frozen=True)
class Findings:
    """A search as it stands."""

    folder: Path
    objectives: tuple[Objective, ...]
    trials: tuple[Trial, ...]
    best: tuple[Trial, ...]
    """Of one objective the best trial; of several those that no other beats in all. Empty before one is complete."""
    importance: Mapping[str, float]
    """Share of the first objective's variation that each setting explains; empty where trials are too few to tell."""
    wanted: int
    """Trials that were asked for."""

    def count(self, state: State) -> int:
        """Trials in that state."""
        return sum(trial.state == state for trial in self.trials)


@dataclass(frozen=True)
class TrialBegins:
    """A trial is trained, or one that was broken off goes on."""

    number: int
    settings: Mapping[str, str]
    continued: bool


@dataclass(frozen=True)
class TrialValidated:
    """A trial under way was validated."""

    number: int
    validation: int
    loss: float
    share: float
    """Of its steps that are done, 0 to 1."""


@dataclass(frozen=True)
class TrialEnds:
    """A trial is complete, pruned or failed."""

    trial: Trial
    aims: Mapping[str, float]
    """Its values of the objectives."""
    is_best: bool
    """No trial before it is better (in one objective) or beats it in all (in several)."""


@dataclass(frozen=True)
class SearchNote:
    """Something worth knowing about the search."""

    text: str


SearchEvent = TrialBegins | TrialValidated | TrialEnds | SearchNote
Watch = Callable[[SearchEvent], None]
