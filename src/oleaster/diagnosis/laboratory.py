"""Short trainings with one thing changed, on one base that is read once. Nothing is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oleaster.config.schema import Config
from oleaster.core.errors import NonFiniteError
from oleaster.data.papers import Encoded
from oleaster.diagnosis.facts import FEWEST_VALIDATION_ROWS
from oleaster.inference.predictor import Predictor, Sampling
from oleaster.pipeline.shelf import Ready, Shelf
from oleaster.reporting.causes import Opinion, Trial
from oleaster.training.reports import EvalReport, Event, Sink, StepReport

MOST_ROWS, MOST_VALIDATION_ROWS = 1000, 100
_VALIDATIONS = 6
"""In each trial."""


class _EnoughError(Exception):
    """The trial has said what it was asked."""


@dataclass
class Laboratory:
    """Makes trials and remembers them."""

    ready: Ready
    shelf: Shelf
    steps: int
    """Most optimiser steps of a trial as long as the run's."""
    on_trial: Callable[[Trial], None] = lambda trial: None
    trials: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        train, held = list(self.ready.data.train), list(self.ready.data.validation)
        # Differences between trials must be more than chance: too few validation rows are filled up from the training.
        if missing := min(max(0, FEWEST_VALIDATION_ROWS - len(held)), len(train) // 5):
            moved = {i * len(train) // missing for i in range(missing)}
            held += [train[i] for i in moved]
            train = [row for i, row in enumerate(train) if i not in moved]
        self.rows, self.validation = _thin(train, MOST_ROWS), _thin(held, MOST_VALIDATION_ROWS)

    @property
    def config(self) -> Config:
        return self.ready.config

    @property
    def whole_steps(self) -> int:
        """Steps of the whole run."""
        from oleaster.training.order import Plan

        return Plan.of(self.config, len(self.ready.data.train), len(self.ready.data.validation)).total_steps

    @property
    def is_scaled_down(self) -> bool:
        """Are trials shorter than the run?"""
        return self.steps < self.whole_steps

    def try_out(
        self,
        name: str,
        changes: dict[str, Any] | None = None,
        *,
        longer: float = 1.0,
        rows: Sequence[Encoded] | None = None,
        validation: Sequence[Encoded] | None = None,
        ask: Sequence[Encoded] = (),
        enough: Callable[[EvalReport], bool] = lambda report: False,
    ) -> Trial:
        """Train and validate.

        Args:
            changes: settings that are not those of the run.
            longer: the steps of the trial as a multiple of the usual.
            rows: instead of the training rows.
            ask: rows of which the weights that validated best give their opinion; each has a prompt.
            enough: asked after each validation whether the trial may end.
        """
        from oleaster.config.load import replace

        steps = max(1, round(longer * min(self.steps, self.whole_steps)))
        watching = {
            "logging_steps": max(1, steps // _VALIDATIONS),
            "eval_steps": max(1, steps // _VALIDATIONS),
            "early_stopping_patience": 0,
            "report_to": "none",
            "resume": False,
        }
        config = replace(self.config, **{**watching, "max_steps": steps, **(changes or {})})
        events: list[Event] = []
        used, held = rows or self.rows, validation or self.validation

        def sink(event: Event) -> None:
            events.append(event)
            if isinstance(event, EvalReport) and event.step < event.total_steps and enough(event):
                raise _EnoughError

        opinions, broken = (), False
        try:
            opinions = self._train(config, used, held, sink, ask)
        except _EnoughError:
            pass
        except NonFiniteError:
            broken = True
        trial = _trial(name, events, opinions, broken)
        self.trials.append(trial)
        self.on_trial(trial)
        return trial

    def _train(
        self,
        config: Config,
        rows: Sequence[Encoded],
        validation: Sequence[Encoded],
        sink: Sink,
        ask: Sequence[Encoded],
    ) -> tuple[Opinion, ...]:
        import torch

        from oleaster.inference.torch_predictor import TorchPredictor
        from oleaster.methods import get_method, trainable_parameters
        from oleaster.training.loop import train

        method = get_method(config.method)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with self.shelf.base(config, self.ready, device, method.needs) as (loaded, _):
            model: Any = loaded.model
            method.attach(model.hub_model, config.seed)
            model.gradient_checkpointing = config.training.gradient_checkpointing
            model.neftune_noise_alpha = config.training.neftune_noise_alpha
            parameters = trainable_parameters(model)
            train(model, parameters, rows, validation, config, _in_memory(), settings={}, sinks=lambda _: [sink])
            model.eval()
            return _opinions(TorchPredictor(loaded, "trial"), ask) if ask else ()


def _in_memory() -> Any:
    """Checkpoints that keep the best weights of a trial, and nothing on the disk."""
    from dataclasses import replace

    from oleaster.training.checkpoint import Checkpoints, TrainState

    class InMemory(Checkpoints):
        kept: TrainState | None = None

        def save(self, state: TrainState) -> Path:
            if state.best is not None and state.best.step == state.step:
                tensors = {name: tensor.detach().clone() for name, tensor in state.tensors.items()}
                self.kept = replace(state, tensors=tensors, optimizer={})
            return self.folder

        def best(self) -> Any:
            return self.kept, ()

    return InMemory(Path())


def _opinions(predictor: Predictor, rows: Sequence[Encoded]) -> tuple[Opinion, ...]:
    from oleaster.evaluation.evaluate import confidences

    wanted = [row.input_ids[row.prompt_length :] for row in rows]
    answers = predictor.generate([row.prompt_ids for row in rows], Sampling(max(map(len, wanted))))
    scores = predictor.score([(row.input_ids, row.targets) for row in rows])
    sure = confidences(predictor, rows, answers)
    return tuple(
        # A learned answer ends with its stop token, a given one without.
        Opinion(-score.total, tuple(want) in (answer.token_ids, (*answer.token_ids, want[-1])), confidence)
        for want, answer, score, confidence in zip(wanted, answers, scores, sure, strict=True)
    )


def _trial(name: str, events: Sequence[Event], opinions: tuple[Opinion, ...], broken: bool) -> Trial:
    evals = [event for event in events if isinstance(event, EvalReport)]
    reports = [event for event in events if isinstance(event, StepReport)]
    curve = [(e.step, e.eval_loss if math.isfinite(e.eval_loss) else math.inf) for e in evals]
    best_step, loss = min(curve, key=lambda point: point[1], default=(0, math.inf))
    whole = bool(curve and reports) and not broken
    return Trial(
        name=name,
        loss=loss,
        last_loss=curve[-1][1] if whole else math.inf,
        train_loss=reports[-1].loss if whole else math.inf,
        first_loss=reports[0].loss if reports else math.inf,
        best_step=best_step,
        steps=max((event.step for event in (*evals, *reports)), default=0),
        curve=tuple(curve),
        opinions=opinions,
    )


def _thin(rows: list[Encoded], most: int) -> list[Encoded]:
    """`most` rows from all over the set."""
    return rows if len(rows) <= most else [rows[i * len(rows) // most] for i in range(most)]
