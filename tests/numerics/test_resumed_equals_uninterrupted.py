"""A run that broke off and was resumed = one that never did, bit for bit: weights, losses, every log line."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_reference import random_rows

from oleaster.config.load import replace
from oleaster.config.schema import Config
from oleaster.core.errors import ConfigError
from oleaster.methods import get_method, trainable_parameters
from oleaster.models.load import load_weights
from oleaster.models.tiny import make_tiny
from oleaster.training.checkpoint import Best, Checkpoints
from oleaster.training.driving import Outcome
from oleaster.training.loop import train
from oleaster.training.reports import EvalReport, Event, Notice, Sink

CLOCK = {
    *("seconds", "preparing_seconds", "cpu_percent", "machine_cpu_percent"),
    *("memory_mb", "peak_memory_mb", "gpu_memory_mb", "swap_mb"),
}
"""Fields of a report that no two runs share."""
STEPS = 13
ROWS = random_rows(seed=0, shared=4, count=14)
HELD_OUT = random_rows(seed=1, shared=4, count=5)
CONFIG = replace(
    Config(),
    lora_dropout=0.2,
    neftune_noise_alpha=5.0,
    label_smoothing_factor=0.1,
    weight_decay=0.01,
    learning_rate=3e-3,
    per_device_train_batch_size=2,
    gradient_accumulation_steps=2,  # 4 steps an epoch, the last one with 2 rows
    max_steps=STEPS,
    logging_steps=3,
    eval_steps=5,
    save_steps=4,
    early_stopping_patience=0,
)


class PowerCutError(Exception):
    """Ends a training as abruptly as an exception can."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return make_tiny("llama", tmp_path_factory.mktemp("tiny"))


def trained(tiny: Path, folder: Path, config: Config, sink: Sink) -> tuple[dict[str, torch.Tensor], Outcome]:
    """Train as `pipeline.finetune` does. Returns: the weights at the end, and what the loop says of them."""
    model: Any = load_weights(tiny, torch.float32)[0]
    get_method(config.method).attach(model.hub_model, config.seed)
    model.gradient_checkpointing = config.training.gradient_checkpointing
    model.neftune_noise_alpha = config.training.neftune_noise_alpha
    parameters = trainable_parameters(model)
    checkpoints = Checkpoints(folder, config.watch.save_total_limit)
    outcome = train(model, parameters, ROWS, HELD_OUT, config, checkpoints, settings={"a": 1}, sinks=lambda _: [sink])
    return {name: p.detach().clone() for name, p in parameters.items()}, outcome


def run(tiny: Path, folder: Path, config: Config, until: int | None = None) -> tuple[dict, list[Event]]:
    """Weights and reports of a training; at the first report of step `until` or later the current is cut."""
    seen: list[Event] = []

    def sink(event: Event) -> None:
        if until is not None and event.step >= until:
            raise PowerCutError
        seen.append(event)

    try:
        return trained(tiny, folder, config, sink)[0], seen
    except PowerCutError:
        assert until is not None
        return {}, seen


def lines(events: list[Event], up_to: int = STEPS) -> list[dict[str, Any]]:
    kept = [event for event in events if event.step <= up_to and not isinstance(event, Notice)]
    return [{k: v for k, v in asdict(event).items() if k not in CLOCK} for event in kept]


@pytest.mark.parametrize(("optim", "checkpointing"), [("adamw", False), ("adamw", True), ("adafactor", False)])
def test_bit_for_bit(tiny, tmp_path, optim, checkpointing):
    config = replace(CONFIG, gradient_checkpointing=checkpointing, optim=optim)
    weights, events = run(tiny, tmp_path / "whole", config)
    expected = lines(events)
    assert [line["step"] for line in expected] == [1, 3, 5, 6, 9, 10, 12, 13, 13]
    validated = {line["step"]: line["best"] for line in expected if "best" in line}
    for until, kept in ((3, 0), (9, 8), (12, 10 if validated[10] else 8)):
        folder = tmp_path / f"cut{until}"
        before = run(tiny, folder, config, until)[1]
        assert Checkpoints(folder).steps()[-1:] == ([kept] if kept else [])
        torch.manual_seed(until)  # another process begins with other random numbers
        torch.rand(until)
        resumed, after = run(tiny, folder, replace(config, resume=True))
        assert lines(before, up_to=kept) + lines(after) == expected
        assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_cut_again_and_again(tiny, tmp_path):
    weights, events = run(tiny, tmp_path / "whole", CONFIG)
    log: list[dict[str, Any]] = []
    for until in (6, 6, 9, 10, 13, None):
        step = (Checkpoints(tmp_path / "cut").steps() or [0])[-1]
        resumed, after = run(tiny, tmp_path / "cut", replace(CONFIG, resume=True), until)
        log = [line for line in log if line["step"] <= step] + lines(after)
    assert log == lines(events)
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_the_weights_of_the_best_validation_or_of_the_last_step(tiny, tmp_path):
    """Rows of chance cannot be learned: validation gets worse while training gets better."""
    config = replace(CONFIG, learning_rate=0.03, load_best_model_at_end=False)
    reports: list[Event] = []
    last, outcome = trained(tiny, tmp_path, config, reports.append)
    losses = {event.step: event.eval_loss for event in reports if isinstance(event, EvalReport)}
    best_step = min(losses, key=lambda step: losses[step])
    assert best_step < STEPS
    assert outcome.best == Best(losses[STEPS], STEPS)
    again, resumed = trained(tiny, tmp_path, replace(config, resume=True), reports.append)
    assert resumed.best == outcome.best
    best, outcome = trained(tiny, tmp_path, replace(config, resume=True, load_best_model_at_end=True), reports.append)
    assert outcome.best == Best(losses[best_step], best_step)
    state, _ = Checkpoints(tmp_path).best()
    assert state is not None
    assert all(torch.equal(last[name], again[name]) for name in last)
    assert all(torch.equal(state.tensors[name], best[name]) for name in best)
    assert not all(torch.equal(last[name], best[name]) for name in best)


def test_another_seed_would_be_seen(tiny, tmp_path):
    """The comparison above can fail: other masks, another order, other numbers."""
    weights, events = run(tiny, tmp_path / "a", CONFIG)
    others, other_events = run(tiny, tmp_path / "b", replace(CONFIG, seed=43))
    assert lines(events) != lines(other_events)
    assert not all(torch.equal(weights[name], others[name]) for name in weights)


def test_other_settings_are_refused(tiny, tmp_path):
    run(tiny, tmp_path, CONFIG, until=6)
    model: Any = load_weights(tiny, torch.float32)[0]
    get_method(CONFIG.method).attach(model.hub_model, 0)
    with pytest.raises(ConfigError, match="a: 1 then, 2 now"):
        train(model, trainable_parameters(model), ROWS, HELD_OUT, replace(CONFIG, resume=True),
              Checkpoints(tmp_path), settings={"a": 2}, sinks=lambda _: [])  # fmt: skip
