"""The loop: rows in, best weights out. Count the targets first, divide once.

It takes model, parameters, rows and settings as arguments; nobody subclasses. Everything that the next step depends
on is in `TrainState`, so a run killed at any moment goes on bit for bit from its last checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from oleaster.config.schema import Config
from oleaster.core.errors import NonFiniteError
from oleaster.data.batch import Batch, pack
from oleaster.data.papers import Encoded
from oleaster.training.bottlenecks import IdleCoresWatch, StarvationWatch, SwapWatch
from oleaster.training.checkpoint import Best, Checkpoints, TrainState, capture_rng, restore_rng, seed_rng
from oleaster.training.cluster import Cluster
from oleaster.training.driving import Answer, Demand, Outcome, Training, drive
from oleaster.training.losses import Loss, LossSum, cross_entropy
from oleaster.training.optimizers import make_optimizer, make_schedule
from oleaster.training.order import Plan, rows_of_step, seed_of_step
from oleaster.training.reports import EvalReport, Notice, Sink, StepReport
from oleaster.training.resources import ResourceMeter
from oleaster.training.watch import (
    DivergenceWatch,
    EarlyStopping,
    OverfittingWatch,
    PlateauWatch,
    restore,
    state_of,
)


@dataclass
class _Sums:
    """Running sums over the steps since some report."""

    loss: float = 0.0
    targets: int = 0
    inputs: int = 0
    rows: int = 0

    def add(self, loss: float, targets: int, inputs: int, rows: int) -> None:
        self.loss, self.targets = self.loss + loss, self.targets + targets
        self.inputs, self.rows = self.inputs + inputs, self.rows + rows

    @property
    def mean(self) -> float:
        return self.loss / max(1, self.targets)


@dataclass
class _Progress:
    """The loop's own state beside model, optimiser and schedule."""

    step: int = 0
    best: Best | None = None
    since_log: _Sums = field(default_factory=_Sums)
    since_eval: _Sums = field(default_factory=_Sums)
    overall: _Sums = field(default_factory=_Sums)
    preparing: float = 0.0
    """Seconds of this process spent on rows since the last report."""

    def counters(self) -> dict[str, int | float]:
        parts = {"log": self.since_log, "eval": self.since_eval, "all": self.overall}
        return {f"{name}.{key}": value for name, sums in parts.items() for key, value in vars(sums).items()}

    def restore(self, state: TrainState) -> None:
        self.step, self.best = state.step, state.best
        for name, sums in (("log", self.since_log), ("eval", self.since_eval), ("all", self.overall)):
            for key in vars(sums):
                setattr(sums, key, state.counters[f"{name}.{key}"])


def default_loss(config: Config) -> Loss:
    """Cross-entropy over the targets, label-smoothed while training if the config says so."""

    def loss(model: Any, batch: Batch) -> LossSum:
        smoothing = config.training.label_smoothing_factor if model.training else 0.0
        return cross_entropy(model.target_hidden(batch), model.head(), batch.target_ids, smoothing)

    return loss


def training(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    rows: Sequence[Encoded],
    validation: Sequence[Encoded],
    config: Config,
    checkpoints: Checkpoints,
    *,
    settings: Mapping[str, Any],
    sinks: Callable[[int | None], Sequence[Sink]],
    places: Sequence[str] = (),
    loss: Loss | None = None,
    cluster: Cluster | None = None,
) -> Training:
    """Train `parameters` of `model` on `rows`; at the end they hold the best validated weights (or the last, if asked).

    A generator: before each optimiser step it asks for the gradient of the step's batches, and goes on when it is
    there. `train` drives one to its end; `driving.drive_together` several that stand on one base.

    Args:
        parameters: what is trained, float32, in the model's order.
        settings: what a resumed run must have in common with this one (`settings_that_matter`).
        sinks: called once with the step that is resumed from (None: from the start), gives the sinks.
        places: `Example.source` by `Encoded.example`, to name rows in errors.
        loss: default: `default_loss(config)`.

    Raises:
        NonFiniteError: loss or gradient became NaN or infinite; the state before that step is kept.
        KeyboardInterrupt: after Ctrl-C, when the step under way is done and kept in a checkpoint.
        CheckpointError, ConfigError, StorageError: see `Checkpoints`.
    """
    cluster = cluster or Cluster.alone()
    plan = Plan.of(config, len(rows), len(validation), cluster.size)
    loss = loss or default_loss(config)
    seed_rng(config.seed)
    optimizer = make_optimizer(parameters.items(), config.training)
    schedule = make_schedule(optimizer, config.training, plan.total_steps)
    stopping = EarlyStopping(config.watch.early_stopping_patience, config.watch.early_stopping_threshold)
    of_evals = {"overfitting": OverfittingWatch(), "plateau": PlateauWatch()}
    of_steps = {
        "divergence": DivergenceWatch(),
        "idle_cores": IdleCoresWatch(torch.get_num_threads()),
        "data_starvation": StarvationWatch(),
        "swap": SwapWatch(),
    }
    watchers: dict[str, Any] = {"early_stopping": stopping, **of_evals, **of_steps}
    progress, meter = _Progress(), ResourceMeter()

    idle = pack(rows[:1]).without_targets() if config.training.fsdp != "none" else None

    state, notices = checkpoints.latest(settings) if config.training.resume else (None, ())
    emit = _broadcast(sinks(state.step if state else None), cluster)
    for notice in notices:
        emit(notice)
    if state is not None:
        _put_back(state, parameters, optimizer, schedule)
        progress.restore(state)
        for name, seen in state.watchers.items():
            restore(watchers[name], seen)

    def save() -> None:
        if cluster.is_main:
            checkpoints.save(
                TrainState(
                    step=progress.step,
                    tensors=dict(parameters),
                    optimizer=optimizer.state_dict(),
                    scheduler=schedule.state_dict(),
                    rng=capture_rng(),
                    best=progress.best,
                    counters=progress.counters(),
                    watchers={name: state_of(watcher) for name, watcher in watchers.items()},
                    settings=settings,
                )
            )
        cluster.wait()

    begun = logged = time.perf_counter()
    while progress.step < plan.total_steps and not stopping.should_stop:
        choosing = time.perf_counter()
        group = rows_of_step(rows, config, plan, progress.step, cluster)
        progress.preparing += time.perf_counter() - choosing
        seed_rng(seed_of_step(config.seed, progress.step, cluster.rank))
        norm, stop = yield from _step(model, parameters, group, loss, config, progress, cluster, save, places, idle)
        rate = float(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress.step += 1
        last = progress.step == plan.total_steps
        if progress.step % config.watch.logging_steps == 0 or progress.step == 1 or last:
            now = time.perf_counter()
            report = _step_report(progress, plan, rate, norm, now - logged, meter)
            progress.since_log, progress.preparing, logged = _Sums(), 0.0, now
            emit(report)
            _tell(of_steps.values(), report, emit)
        is_best = False
        if plan.eval_steps and (progress.step % plan.eval_steps == 0 or last):
            paused = time.perf_counter()
            report, is_best = _validate(model, validation, loss, config, progress, plan, cluster, stopping, idle)
            emit(report)
            _tell(of_evals.values(), report, emit)
            logged += time.perf_counter() - paused
        if progress.step % plan.save_steps == 0 or is_best or last or stop:
            save()
        if stop:
            raise KeyboardInterrupt
    if stopping.should_stop:
        emit(stopping.notice(progress.step))
    result = progress.best
    if config.watch.load_best_model_at_end:
        if result is not None and result.step < progress.step:  # else they are what the parameters hold
            _use_best(checkpoints, parameters, emit)
    elif result is not None:  # the last step was validated, whatever ended the training
        result = Best(stopping.last_loss, progress.step)
    return Outcome(
        steps=progress.step,
        total_steps=plan.total_steps,
        best=result,
        last_loss=progress.since_eval.mean if progress.since_eval.targets else progress.overall.mean,
        target_tokens=progress.overall.targets,
        input_tokens=progress.overall.inputs,
        seconds=time.perf_counter() - begun,
    )


train = drive(training)
"""`training`, from its first step to its end."""


def _step(model: nn.Module, parameters: Mapping[str, nn.Parameter], group: list[list[Encoded]], loss: Loss,
          config: Config, progress: _Progress, cluster: Cluster, save: Callable[[], None],
          places: Sequence[str], idle: Batch | None) -> Generator[Demand, Answer, tuple[float, bool]]:  # fmt: skip
    """Get the gradient of one optimiser step and clip it. Returns its norm before clipping, and the wish to stop.

    `idle`: computed where this process has no rows but others have, as processes that share a base go in step.
    """
    packing = time.perf_counter()
    batches = [pack(part) for part in group if part]
    progress.preparing += time.perf_counter() - packing
    count = cluster.sum(sum(batch.units for batch in batches))
    waiting = [idle] * (len(group) - len(batches)) if idle is not None else []
    total, stop = yield Demand(model, [*batches, *waiting], count, loss)
    cluster.sum_gradients(parameters.values())
    norm = float(nn.utils.clip_grad_norm_(parameters.values(), config.training.max_grad_norm or math.inf))
    value = cluster.sum(total)
    if not (math.isfinite(value) and math.isfinite(norm)):
        for parameter in parameters.values():
            parameter.grad = None
        if all(parameter.isfinite().all() for parameter in parameters.values()):
            save()  # else the last checkpoint is the last good state, and must stay the newest
        raise _not_finite(progress.step, value, norm, batches, places)
    inputs = cluster.sum(sum(len(batch.ids) for batch in batches))
    for sums in (progress.since_log, progress.since_eval, progress.overall):
        sums.add(value, int(count), int(inputs), int(cluster.sum(sum(batch.examples for batch in batches))))
    return norm, bool(cluster.sum(stop))  # one process hears the signal before another; all must stop at one step


def validation_loss(
    model: nn.Module, rows: Sequence[Encoded], loss: Loss, batch_size: int, cluster: Cluster, idle: Batch | None = None
) -> LossSum:
    """Loss summed over `rows` without gradient, in batches of similar length. `idle`: see `_step`."""
    model.eval()
    device = next(model.parameters()).device
    ordered = sorted(rows, key=lambda row: len(row.input_ids))
    batches = [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]
    total, count = 0.0, 0
    with torch.no_grad():
        mine = [pack(part) for part in batches[cluster.rank :: cluster.size]]
        if idle is not None and len(mine) * cluster.size < len(batches):
            mine.append(idle)
        for batch in mine:
            value = loss(model, batch.to(device))
            total, count = total + float(value.total), count + value.count
    return LossSum(torch.tensor(cluster.sum(total), dtype=torch.float64), int(cluster.sum(count)))


def _validate(model: nn.Module, rows: Sequence[Encoded], loss: Loss, config: Config, progress: _Progress, plan: Plan,
              cluster: Cluster, stopping: EarlyStopping, idle: Batch | None) -> tuple[EvalReport, bool]:  # fmt: skip
    """Score the validation rows. Returns: the report, and whether this is the best so far."""
    begun = time.perf_counter()
    found = validation_loss(model, rows, loss, config.training.per_device_eval_batch_size, cluster, idle)
    value = float(found.total) / found.count
    is_best = stopping.update(value, progress.step)
    if is_best:
        progress.best = Best(value, progress.step)
    report = EvalReport(
        step=progress.step,
        total_steps=plan.total_steps,
        epoch=progress.step / plan.steps_per_epoch,
        eval_loss=value,
        train_loss=progress.since_eval.mean,
        target_tokens=found.count,
        seconds=time.perf_counter() - begun,
        best=is_best,
    )
    progress.since_eval = _Sums()
    return report, is_best


def _tell(watchers: Iterable[Any], report: StepReport | EvalReport, emit: Sink) -> None:
    """What the watchers have to say about a report."""
    for watcher in watchers:
        if notice := watcher.update(report):
            emit(notice)


def _step_report(
    progress: _Progress, plan: Plan, rate: float, norm: float, seconds: float, meter: ResourceMeter
) -> StepReport:
    sums, resources = progress.since_log, meter()
    return StepReport(
        step=progress.step,
        total_steps=plan.total_steps,
        epoch=progress.step / plan.steps_per_epoch,
        loss=sums.mean,
        learning_rate=rate,
        grad_norm=norm,
        target_tokens=sums.targets,
        input_tokens=sums.inputs,
        rows=sums.rows,
        seconds=seconds,
        preparing_seconds=progress.preparing,
        **vars(resources),
    )


def _put_back(state: TrainState, parameters: Mapping[str, nn.Parameter], optimizer: Any, schedule: Any) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state.tensors[name])
    optimizer.load_state_dict(state.optimizer)
    schedule.load_state_dict(state.scheduler)
    restore_rng(state.rng)


def _use_best(checkpoints: Checkpoints, parameters: Mapping[str, nn.Parameter], emit: Sink) -> None:
    state, notices = checkpoints.best()
    for notice in notices:
        emit(notice)
    if state is not None:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state.tensors[name])


def _broadcast(sinks: Sequence[Sink], cluster: Cluster) -> Sink:
    def emit(event: StepReport | EvalReport | Notice) -> None:
        if cluster.is_main:
            for sink in sinks:
                sink(event)

    return emit


def _not_finite(
    step: int, value: float, norm: float, batches: Sequence[Batch], places: Sequence[str]
) -> NonFiniteError:
    what = f"the loss became {value}" if not math.isfinite(value) else f"the gradient's norm became {norm}"
    named = [places[i] if i < len(places) else f"row {i}" for batch in batches for i in batch.rows]
    some = ", ".join(named[:8]) + (f" and {len(named) - 8} more" if len(named) > 8 else "")
    return NonFiniteError(
        f"{what} at step {step + 1}; the last good state is kept\n  rows of the step: {some}\n"
        "  -> look at these rows; else a smaller learning_rate, or --dtype float32"
    )
