"""Why a run is not better: the trials that a diagnosis made, and what they say. The report reads them back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

Cause = Literal[
    "truncation",
    "template",
    "wrong_base",
    "constant_answer",
    "cannot_fit",
    "no_signal",
    "base_as_good",
    "label_noise",
    "learning_rate_low",
    "learning_rate_high",
    "too_short",
    "too_long",
    "no_stop",
    "small_validation",
]
"""Why a model may be no better, upstream first: what stands earlier explains what stands later. A model whose answers
were cut off also seems to need another learning rate; the reverse does not happen."""

DIAGNOSIS = Path("diagnosis", "diagnosis.json")
"""In the folder of a run."""
_TIERS = ((0, 1, 2), (3,), (4,), (5,), (6,), (7,), (8, 9, 10, 11), (12,), (13,))
"""Positions in `Cause` that compete by their severity; a tier before comes first."""


@dataclass(frozen=True)
class Opinion:
    """What the model of a trial thinks of a row that it was not trained on."""

    nats: float
    """Of the row's answer, summed over its tokens."""
    agrees: bool
    """Would it give that answer?"""
    confidence: float
    """Probability of the answer that it would give."""


@dataclass(frozen=True)
class Trial:
    """One short training with one thing changed."""

    name: str
    loss: float
    """Lowest validation loss, nats per token; infinite when the training broke down before the first."""
    last_loss: float
    """Validation loss at the end; infinite when the training broke down."""
    train_loss: float
    """Nats per token over the last stretch of training; infinite when it broke down."""
    first_loss: float
    """Of the first step."""
    best_step: int
    steps: int
    """That were made: a trial ends early when its answer is clear."""
    curve: tuple[tuple[int, float], ...] = field(default=(), repr=False)
    """(step, loss) of each validation."""
    opinions: tuple[Opinion, ...] = field(default=(), repr=False)
    """Of each row that was asked for."""


@dataclass(frozen=True)
class Finding:
    """A likely cause, what speaks for it, and what to change."""

    cause: Cause
    severity: float
    """0 to 1: share of the rows that are hit, or of the loss that a change took away."""
    evidence: str
    """What was seen, with its numbers."""
    advice: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the changed recipe; empty when only other rows can help."""
    rows: tuple[Mapping[str, Any], ...] | None = field(default=None, repr=False)
    """Training rows of the changed recipe, where they are to be others."""
    recipe: Path | None = None
    """The changed recipe, once written."""

    @property
    def rank(self) -> tuple[int, float]:
        """Sorts the likeliest cause first."""
        position = get_args(Cause).index(self.cause)
        return next(tier for tier, places in enumerate(_TIERS) if position in places), -self.severity


@dataclass(frozen=True)
class Diagnosis:
    """Findings, the likeliest first, and all that was tried."""

    findings: tuple[Finding, ...]
    trials: tuple[Trial, ...]
    notes: tuple[str, ...]
    """What limits the diagnosis: experiments that were scaled down or left out."""

    def to_json(self) -> dict[str, Any]:
        """For `diagnosis.json`."""
        found = asdict(self)
        for finding in found["findings"]:
            finding["recipe"] = str(finding["recipe"]) if finding["recipe"] else None
            del finding["rows"]
        for trial in found["trials"]:
            del trial["opinions"], trial["curve"]
        return found


def read_diagnosis(run: Path) -> Diagnosis | None:
    """What `diagnose` wrote of the run in that folder; None before."""
    file = run / DIAGNOSIS
    if not file.is_file():
        return None
    found = json.loads(file.read_text("utf-8"))
    findings = [Finding(**{**f, "recipe": Path(f["recipe"]) if f["recipe"] else None}) for f in found["findings"]]
    return Diagnosis(tuple(findings), tuple(Trial(**trial) for trial in found["trials"]), tuple(found["notes"]))
