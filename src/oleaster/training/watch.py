"""Eyes on the losses: when to stop, and what to tell the user.

Each watcher is a small dataclass: its settings, then what it has seen. `state_of` and `restore` carry the latter over
a checkpoint as plain JSON values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from oleaster.training.reports import EvalReport, Notice, StepReport


@dataclass
class EarlyStopping:
    """Says when validation has stopped getting better."""

    patience: int
    """Validations without a better loss before the stop (0 = never)."""
    threshold: float = 0.0
    """Smallest fall of the loss (nats per token) that counts as better."""
    best_loss: float = math.inf
    """The lowest loss so far, whether or not the fall counted."""
    best_step: int = 0
    reference: float = math.inf
    """The loss that the next fall is measured from; small falls add up until they count."""
    failures: int = 0
    """Validations since a fall that counted."""
    last_loss: float = math.nan
    """That of the newest validation."""

    def update(self, loss: float, step: int) -> bool:
        """Take in one validation. Returns: is it the lowest so far? A NaN never is."""
        self.last_loss, is_best = loss, loss < self.best_loss
        if is_best:
            self.best_loss, self.best_step = loss, step
        # At first the reference is infinite, and so would be the difference: any finite loss counts.
        if loss < self.reference - self.threshold:
            self.reference, self.failures = loss, 0
        else:
            self.failures += 1
        return is_best

    @property
    def should_stop(self) -> bool:
        return 0 < self.patience <= self.failures

    def notice(self, step: int) -> Notice:
        """What to tell the user when `should_stop` ended the training at `step`."""
        return Notice(
            step,
            "early_stop",
            f"Stopped at step {step}: the last {self.failures} validations brought no better loss than "
            f"{self.best_loss:.4f} of step {self.best_step}.",
        )


@dataclass
class OverfittingWatch:
    """Notices once when validation rises while training still falls.

    The signs: in `validations` validations in a row the loss was higher than the lowest by more than `margin`, and
    the training loss is lower than it was at the lowest. One bad validation is noise; two are a direction.
    """

    validations: int = 2
    margin: float = 0.01
    """Relative rise over the lowest validation loss that is more than noise."""
    best_loss: float = math.inf
    best_step: int = 0
    best_train_loss: float = math.inf
    worse: int = 0
    noticed: bool = False

    def update(self, report: EvalReport) -> Notice | None:
        """Take in one validation. Returns the notice at the validation that completes the signs."""
        if report.eval_loss < self.best_loss:
            self.best_loss, self.best_step = report.eval_loss, report.step
            self.best_train_loss, self.worse = report.train_loss, 0
            return None
        self.worse = self.worse + 1 if report.eval_loss > self.best_loss * (1 + self.margin) else 0
        if self.noticed or self.worse < self.validations or not report.train_loss < self.best_train_loss:
            return None
        self.noticed = True
        return Notice(
            report.step,
            "overfitting",
            f"Overfitting since step {self.best_step}: validation loss rose from {self.best_loss:.4f} to "
            f"{report.eval_loss:.4f} while training loss fell from {self.best_train_loss:.4f} to "
            f"{report.train_loss:.4f}. More or more varied rows, fewer epochs, a smaller lora_r, lora_dropout or "
            f"weight_decay help.",
        )


@dataclass
class DivergenceWatch:
    """Notices once when the training loss climbs above where it began, after it had fallen below that."""

    factor: float = 1.2
    """How far above the first reported loss is more than noise."""
    first_loss: float = math.inf
    lowest_loss: float = math.inf
    lowest_step: int = 0
    noticed: bool = False

    def update(self, report: StepReport) -> Notice | None:
        """Take in one report. Returns the notice when the loss has climbed."""
        if math.isinf(self.first_loss):
            self.first_loss = report.loss
        if report.loss < self.lowest_loss:
            self.lowest_loss, self.lowest_step = report.loss, report.step
        fell = self.lowest_loss < self.first_loss
        if self.noticed or not fell or not report.loss > self.factor * self.first_loss:
            return None
        self.noticed = True
        return Notice(
            report.step,
            "divergence",
            f"The training loss has climbed to {report.loss:.4f}, above the {self.first_loss:.4f} it began with; the "
            f"lowest was {self.lowest_loss:.4f} at step {self.lowest_step}. A smaller learning_rate (now "
            f"{report.learning_rate:.1e}) or more warmup_steps help.",
        )


@dataclass
class PlateauWatch:
    """Notices once when neither validation nor training gets better any more, though much of the training is left."""

    validations: int = 3
    margin: float = 0.005
    """Relative fall over these validations that is less than worth their time."""
    eval_losses: list[float] = field(default_factory=list)
    train_losses: list[float] = field(default_factory=list)
    noticed: bool = False

    def update(self, report: EvalReport) -> Notice | None:
        """Take in one validation. Returns the notice at the validation that completes the signs."""
        self.eval_losses = [*self.eval_losses[-self.validations :], report.eval_loss]
        self.train_losses = [*self.train_losses[-self.validations :], report.train_loss]
        if self.noticed or len(self.eval_losses) <= self.validations or report.step > 0.8 * report.total_steps:
            return None
        if any(_fell(losses, self.margin) for losses in (self.eval_losses, self.train_losses)):
            return None
        self.noticed = True
        return Notice(
            report.step,
            "plateau",
            f"Plateau: in the last {self.validations} validations neither the validation loss ({report.eval_loss:.4f}) "
            f"nor the training loss ({report.train_loss:.4f}) fell by {self.margin:.1%}. Waiting will hardly help: "
            f"stop here, or try a learning_rate three times as high, a larger lora_r, or other rows.",
        )


def _fell(losses: list[float], margin: float) -> bool:
    return min(losses[1:]) < losses[0] * (1 - margin)


_SETTINGS = {"patience", "threshold", "validations", "margin", "factor", "threads", "reports", "share", "limit_mb"}


def state_of(watcher: Any) -> dict[str, Any]:
    """What the watcher has seen, without its settings."""
    return {name: value for name, value in asdict(watcher).items() if name not in _SETTINGS}


def restore(watcher: Any, state: Mapping[str, Any]) -> None:
    """Put back what `state_of` gave; the settings stay those of now."""
    for name, value in state.items():
        setattr(watcher, name, value)
