"""Several adapters trained in one line of tokens come to what each comes to alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from plain_reference import random_rows

from oleaster.config.load import replace
from oleaster.config.schema import Config
from oleaster.core.errors import NonFiniteError
from oleaster.data.batch import pack
from oleaster.methods import get_method, trainable_parameters
from oleaster.models.decoder import Decoder
from oleaster.models.joint import Joint, share_base, why_not_together
from oleaster.models.load import load_weights
from oleaster.models.tiny import FAMILIES, make_tiny
from oleaster.training.checkpoint import Checkpoints
from oleaster.training.driving import drive_together
from oleaster.training.loop import default_loss, train, training

LARGEST_RELATIVE_DIFFERENCE = 2e-5
COMMON = replace(Config(), max_steps=9, eval_steps=4, logging_steps=1, early_stopping_patience=0, optim="sgd")
CONFIGS = (
    replace(COMMON, lora_r=4, learning_rate=0.3, per_device_train_batch_size=3),
    replace(COMMON, lora_r=7, learning_rate=0.2, per_device_train_batch_size=2, gradient_accumulation_steps=3, seed=1),
    replace(
        COMMON, lora_r=2, learning_rate=0.1, max_steps=5, target_modules=["q_proj", "down_proj"], max_grad_norm=0.1
    ),
)
ROWS = [random_rows(seed=i, shared=3 * i, count=7 + 2 * i) for i in range(3)]
HELD_OUT = [random_rows(seed=10 + i, shared=0, count=3) for i in range(3)]


def with_adapters(folder: Path, configs=CONFIGS) -> list[Any]:
    """Models on one base, each with the adapter of its config; B is not zero, so that A has a gradient."""
    base: Any = load_weights(folder, torch.float32)[0]
    models = [share_base(base) for _ in configs]
    for model, config in zip(models, configs, strict=True):
        get_method(config.method).attach(model.hub_model, config.seed)
        draw = torch.Generator().manual_seed(config.seed)
        for name, parameter in trainable_parameters(model).items():
            if "lora_B" in name:
                parameter.data = 0.1 * torch.randn(parameter.shape, generator=draw)
    return models


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in trainable_parameters(model).items() if p.grad is not None}


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"gpt2"}))  # runs on transformers' code
def test_every_gradient(family, tmp_path):
    folder = make_tiny(family, tmp_path)
    configs = [replace(config, target_modules="all-linear") for config in CONFIGS]
    alone, together = with_adapters(folder, configs), with_adapters(folder, configs)
    batches = [pack(rows) for rows in ROWS]
    loss = default_loss(COMMON)
    for model, batch in zip(alone, batches, strict=True):
        assert isinstance(model, Decoder)
        loss(model.train(), batch).total.backward()
    joint = Joint([model.train() for model in together])
    for model, batch, hidden in zip(together, batches, joint.target_hidden(batches), strict=True):
        assert torch.allclose(hidden, model.target_hidden(batch), atol=1e-5)
        hidden.square().sum().backward(retain_graph=True)
        got = gradients(model)
        model.zero_grad()
        model.target_hidden(batch).square().sum().backward()
        for name, wanted in gradients(model).items():
            assert (got[name] - wanted).norm() <= LARGEST_RELATIVE_DIFFERENCE * wanted.norm(), name


def trained(folder: Path, out: Path, jointly: bool) -> tuple[list[dict[str, torch.Tensor]], list[list[Any]]]:
    models, logs = with_adapters(folder), [[] for _ in CONFIGS]

    def arguments(i: int) -> tuple[Any, ...]:
        checkpoints = Checkpoints(out / f"{jointly}{i}")
        return models[i], trainable_parameters(models[i]), ROWS[i], HELD_OUT[i], CONFIGS[i], checkpoints

    def sinks(i: int) -> dict[str, Any]:
        return {"settings": {}, "sinks": lambda _: [logs[i].append]}

    if jointly:
        outcomes = drive_together([training(*arguments(i), **sinks(i)) for i in range(3)])
    else:
        outcomes = [train(*arguments(i), **sinks(i)) for i in range(3)]
    assert [outcome.steps for outcome in outcomes] == [9, 9, 5]
    return [{n: p.detach() for n, p in trainable_parameters(model).items()} for model in models], logs


def test_whole_trainings(tmp_path):
    """Other numbers of steps, rows, ranks, modules and accumulations for each; validated and kept as if alone."""
    folder = make_tiny("llama", tmp_path / "tiny")
    (alone, logs), (together, joint_logs) = (trained(folder, tmp_path, jointly) for jointly in (False, True))
    for one, other in zip(alone, together, strict=True):
        for name, weight in one.items():
            assert torch.allclose(weight, other[name], rtol=1e-3, atol=1e-5), name
    for log, joint_log in zip(logs, joint_logs, strict=True):
        assert [(type(a), a.step) for a in log] == [(type(b), b.step) for b in joint_log]
        for a, b in zip(log, joint_log, strict=True):
            for field in ("loss", "eval_loss", "grad_norm"):
                assert getattr(a, field, 0.0) == pytest.approx(getattr(b, field, 0.0), rel=1e-4), (field, a.step)


def test_what_one_seat_is_given_leaves_the_others_alone(tmp_path):
    models = with_adapters(make_tiny("llama", tmp_path))
    batches = [pack(rows) for rows in ROWS]
    before = Joint(models).target_hidden(batches)
    with torch.no_grad():
        for parameter in trainable_parameters(models[1]).values():
            parameter.mul_(3.0)
    after = Joint(models).target_hidden(batches)
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == [True, False, True]


def test_one_failure_keeps_the_work_of_the_others(tmp_path):
    models = with_adapters(make_tiny("llama", tmp_path / "tiny"))
    places = [Checkpoints(tmp_path / str(i)) for i in range(3)]
    trainings = [
        training(
            models[i], trainable_parameters(models[i]), ROWS[i], [], CONFIGS[i], places[i], settings={},
            sinks=lambda _: [],
        )
        for i in range(3)
    ]  # fmt: skip
    next(iter(trainable_parameters(models[2]).values())).data[0, 0] = float("nan")
    with pytest.raises(NonFiniteError):
        drive_together(trainings)
    assert [checkpoints.steps() for checkpoints in places] == [[2], [2], []]


def test_what_cannot_be_computed_as_one_line_is_said(tmp_path):
    one, other = (load_weights(make_tiny("llama", tmp_path / n), torch.float32)[0] for n in "ab")
    assert why_not_together([one, other]) == "they do not stand on the same base"
    whole = share_base(one)
    whole.requires_grad_(True)
    assert "trained whole" in (why_not_together([one, whole]) or "")
    gpt2 = load_weights(make_tiny("gpt2", tmp_path / "c"), torch.float32)[0]
    assert "transformers" in (why_not_together([gpt2, share_base(gpt2)]) or "")
