"""Who computes the gradients: a training asks for them, step by step, and one or several trainings are driven."""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, ParamSpec, TypeAlias

import torch
from torch import Tensor, nn

from oleaster.core.interrupts import was_interrupted
from oleaster.data.batch import Batch
from oleaster.models.joint import Joint, why_not_together
from oleaster.training.checkpoint import Best
from oleaster.training.losses import Loss


@dataclass(frozen=True)
class Outcome:
    """What a training came to."""

    steps: int
    total_steps: int
    best: Best | None
    """The validation the model's weights are now those of; None without validation rows."""
    last_loss: float
    """Nats per target token, mean since the last report."""
    target_tokens: int
    """Learned tokens, repeats in later epochs included."""
    input_tokens: int
    seconds: float
    """Wall time of this process's training, validations included."""


@dataclass(frozen=True)
class Demand:
    """A training wants the gradient of one optimiser step in its parameters' `grad`."""

    model: nn.Module
    batches: Sequence[Batch]
    """The forward passes of this process; their gradients add up."""
    count: float
    """What the summed loss is divided by: the targets (or pairs) of the step, all processes together."""
    loss: Loss


class Answer(NamedTuple):
    """The gradient is there."""

    total: float
    """The summed loss of the batches, in nats."""
    stop: bool
    """Finish this step, keep it in a checkpoint, and end with KeyboardInterrupt."""


Training: TypeAlias = Generator[Demand, Answer, Outcome]
P = ParamSpec("P")


def drive(training: Callable[P, Training]) -> Callable[P, Outcome]:
    """The same function, run to its end."""

    @functools.wraps(training)
    def run(*args: P.args, **kwargs: P.kwargs) -> Outcome:
        return finish(training(*args, **kwargs))

    return run


def finish(training: Generator[Demand, Answer, Any]) -> Any:
    """Drive one training to its end. Returns what it returns; raises what it raises."""
    try:
        demand = next(training)
        with _interrupts() as interrupted:
            while True:
                demand = training.send(Answer(gradient(demand), interrupted()))
    except StopIteration as end:
        return end.value


def gradient(demand: Demand) -> float:
    """Make the gradient that is demanded. Returns the summed loss, in nats."""
    demand.model.train()
    device = next(demand.model.parameters()).device
    total = torch.zeros((), dtype=torch.float64)
    for batch in demand.batches:
        part = demand.loss(demand.model, batch.to(device))
        (part.total / demand.count).backward()
        total += part.total.detach().double().cpu()
    return total.item()


def drive_together(trainings: Sequence[Generator[Demand, Answer, Any]]) -> list[Any]:
    """Drive several trainings side by side, the rows of a step of all of them in the same matrix products.

    Their models must stand on one base (`models.joint.share_base`). A training that has come to its end drops out. When
    one fails, the others keep their state and end with it.

    Returns: what each returns, in their order.
    """
    results: list[Any] = [None] * len(trainings)
    demands = _advance(trainings, dict.fromkeys(range(len(trainings))), results)
    joints: dict[tuple[int, ...], Joint | None] = {}
    with _interrupts() as interrupted:
        while demands:
            totals = _joint_gradients(list(demands.values()), joints)
            stop = interrupted()
            answers = {i: Answer(total, stop) for i, total in zip(demands, totals, strict=True)}
            demands = _advance(trainings, answers, results)
    return results


def _advance(
    trainings: Sequence[Generator[Demand, Answer, Any]], answers: Mapping[int, Answer | None], results: list[Any]
) -> dict[int, Demand]:
    """Give each training its answer; what those want that go on. Raises: the first failure, the others' work kept."""
    demands: dict[int, Demand] = {}
    failures: list[BaseException] = []
    for i, answer in answers.items():
        try:
            demands[i] = trainings[i].send(answer)  # type: ignore[arg-type]  (None begins it)
        except StopIteration as end:
            results[i] = end.value
        except (Exception, KeyboardInterrupt) as failure:
            failures.append(failure)
    if failures:
        for i, demand in demands.items():
            with suppress(KeyboardInterrupt, StopIteration):
                trainings[i].send(Answer(gradient(demand), stop=True))
        raise failures[0]
    return demands


def _joint_gradients(demands: Sequence[Demand], joints: dict[tuple[int, ...], Joint | None]) -> list[float]:
    """The gradients of all demands, one forward pass of each at a time in one line.

    Args:
        joints: those made so far, by the models in them; None where they cannot be computed as one.
    """
    totals = [0.0] * len(demands)
    for demand in demands:
        demand.model.train()
    for turn in range(max(len(demand.batches) for demand in demands)):
        present = [i for i, demand in enumerate(demands) if turn < len(demand.batches)]
        models = [demands[i].model for i in present]
        key = tuple(map(id, models))
        if key not in joints:
            joints[key] = None if len(models) == 1 or why_not_together(models) else Joint(models)
        device = next(models[0].parameters()).device
        batches = [demands[i].batches[turn].to(device) for i in present]
        joint = joints[key]
        if joint is not None:
            hidden = joint.target_hidden(batches)
            models = [_Computed(model, part) for model, part in zip(models, hidden, strict=True)]
        parts = [demands[i].loss(model, batch) for i, model, batch in zip(present, models, batches, strict=True)]
        sum(part.total / demands[i].count for i, part in zip(present, parts, strict=True)).backward()  # type: ignore[union-attr]
        for i, part in zip(present, parts, strict=True):
            totals[i] += part.total.item()
    return totals


class _Computed(nn.Module):
    """A model whose hidden states are there already; everything else is the model's."""

    def __init__(self, model: nn.Module, hidden: Tensor) -> None:
        super().__init__()
        self._of, self._hidden = [model], hidden
        self.train(model.training)

    def target_hidden(self, batch: Batch) -> Tensor:
        """[M, C]"""
        return self._hidden

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_of"][0], name)


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C (or SIGTERM) into a wish, granted after the step under way; the second acts at once."""
    asked = was_interrupted()

    def note(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
