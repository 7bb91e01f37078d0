"""Optimisers and learning-rate schedules, by the names of transformers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn, optim
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from oleaster.config.schema import TrainingConfig
from oleaster.core.errors import ConfigError


def make_optimizer(named_params: Iterable[tuple[str, nn.Parameter]], config: TrainingConfig) -> optim.Optimizer:
    """The optimiser `config.optim` over the parameters that require a gradient.

    Weight decay acts on matrices, not on biases and norms (one dimension), and is always decoupled from the gradient
    (Loshchilov and Hutter 2017). Adafactor is used as transformers' Trainer does: without its own step size and
    without scaling by the weights, which would all but stop LoRA's B, as that begins at zero.

    Args:
        named_params: in a fixed order, as the optimiser's state is saved by position.
    """
    params = [p for _, p in named_params if p.requires_grad]
    matrices, vectors = [p for p in params if p.ndim >= 2], [p for p in params if p.ndim < 2]
    decays = ((matrices, config.weight_decay), (vectors, 0.0))
    groups: list[dict[str, Any]] = [{"params": p, "weight_decay": decay} for p, decay in decays if p]
    lr = config.learning_rate
    if config.optim in _COUPLED:
        return _decoupled(_COUPLED[config.optim], groups, lr)
    if config.optim == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(groups, lr=lr, scale_parameter=False, relative_step=False)
    betas = (config.adam_beta1, config.adam_beta2)
    return AdamW(groups, lr=lr, betas=betas, eps=config.adam_epsilon, fused=True)


class AdamW(optim.AdamW):
    """torch's AdamW with its methods as they were before torch wrapped them for torch.compile: the wrappers import
    the compiler, which nobody here calls and which would keep the first step waiting for a second."""

    add_param_group = inspect.unwrap(optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(optim.Optimizer.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(optim.AdamW.step))


_COUPLED: dict[str, type[optim.Optimizer]] = {"sgd": optim.SGD, "rmsprop": optim.RMSprop, "adagrad": optim.Adagrad}
"""Optimisers whose own weight decay goes through the gradient. RMSprop divides by the gradient's size, which makes of
any such decay, however small, a step of full length towards zero and beyond."""


def _decoupled(kind: type[optim.Optimizer], groups: list[dict[str, Any]], lr: float) -> optim.Optimizer:
    groups = [{"params": g["params"], "decoupled_decay": g["weight_decay"]} for g in groups]
    optimizer = kind(groups, lr=lr)  # pyright: ignore[reportCallIssue]

    def decay(optimizer: optim.Optimizer, *_: Any) -> None:
        with torch.no_grad():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.mul_(1 - group["lr"] * group["decoupled_decay"])

    optimizer.register_step_pre_hook(decay)
    return optimizer


def make_schedule(optimizer: optim.Optimizer, config: TrainingConfig, total_steps: int) -> LRScheduler:
    """The schedule `config.lr_scheduler_type`; call its `step()` after each of `total_steps` optimiser steps.

    The usual four are written out here with transformers' formulas (a test holds them equal to the last bit), because
    importing transformers.optimization takes up to three seconds; the others are transformers' own.

    Raises: ConfigError as `warmup_steps`.
    """
    warmup = warmup_steps(config, total_steps)
    if (shape := _SHAPES.get(config.lr_scheduler_type)) is not None:
        return LambdaLR(optimizer, partial(shape, warmup=warmup, total=total_steps))
    from transformers.optimization import get_scheduler

    schedule = get_scheduler(config.lr_scheduler_type, optimizer, warmup, total_steps)
    assert isinstance(schedule, LRScheduler)
    return schedule


def warmup_steps(config: TrainingConfig, total_steps: int) -> int:
    """Steps that the learning rate rises: `warmup_steps` if given, else the ratio's share, rounded up.

    The share never takes all steps: the rate begins at zero, and a training of one step would change nothing.

    Raises: ConfigError when the `warmup_steps` given leave no step at the full rate.
    """
    if config.warmup_steps is None:
        return min(math.ceil(config.warmup_ratio * total_steps), max(0, total_steps - 1))
    if config.warmup_steps >= total_steps:
        raise ConfigError(
            f"{config.warmup_steps} of {total_steps} steps: the learning rate would not reach its peak",
            where="warmup_steps",
            remedy=f"give less than {total_steps}, or leave it out for warmup_ratio ({config.warmup_ratio:g})",
        )
    return config.warmup_steps


def _constant(step: int, *, warmup: int, total: int) -> float:
    return 1.0


def _constant_with_warmup(step: int, *, warmup: int, total: int) -> float:
    return step / max(1, warmup) if step < warmup else 1.0


def _linear(step: int, *, warmup: int, total: int) -> float:
    if step < warmup:
        return step / max(1, warmup)
    return max(0.0, (total - step) / max(1, total - warmup))


def _cosine(step: int, *, warmup: int, total: int) -> float:
    if step < warmup:
        return step / max(1, warmup)
    progress = (step - warmup) / max(1, total - warmup)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


_SHAPES: dict[str, Callable[..., float]] = {
    "constant": _constant,
    "constant_with_warmup": _constant_with_warmup,
    "linear": _linear,
    "cosine": _cosine,
}
"""Learning rate at a step, as a share of the peak."""
