"""Optimisers and learning-rate schedules, by the names of transformers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import nn, optim
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from oleaster.config.schema import TrainingConfig
from oleaster.core.errors import ConfigError, near_names


def make_optimizer(named_params: Iterable[tuple[str, nn.Parameter]], config: TrainingConfig) -> optim.Optimizer:
    """The optimiser `config.optim` over the parameters that require a gradient.

    Weight decay acts on matrices, not on biases and norms (one dimension). It is decoupled from the gradient in AdamW
    and Adafactor; in the others it is the classic L2 term. Adafactor is used as transformers' Trainer does: without
    its own step size and without scaling by the weights, which would all but stop LoRA's B, as that begins at zero.

    Args:
        named_params: in a fixed order, as the optimiser's state is saved by position.
    """
    params = [p for _, p in named_params if p.requires_grad]
    matrices, vectors = [p for p in params if p.ndim >= 2], [p for p in params if p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": members, "weight_decay": decay}
        for members, decay in ((matrices, config.weight_decay), (vectors, 0.0))
        if members
    ]
    lr = config.learning_rate
    if config.optim == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(groups, lr=lr, scale_parameter=False, relative_step=False)
    if config.optim == "sgd":
        return optim.SGD(groups, lr=lr)
    if config.optim == "rmsprop":
        return optim.RMSprop(groups, lr=lr)
    if config.optim == "adagrad":
        return optim.Adagrad(groups, lr=lr)
    betas = (config.adam_beta1, config.adam_beta2)
    return optim.AdamW(groups, lr=lr, betas=betas, eps=config.adam_epsilon, fused=True)


def make_schedule(optimizer: optim.Optimizer, config: TrainingConfig, total_steps: int) -> LRScheduler:
    """The schedule `config.lr_scheduler_type`; call its `step()` after each of `total_steps` optimiser steps.

    The usual four are written out here with transformers' formulas (tests hold them equal to the last bit), because
    importing transformers.optimization takes up to three seconds; the others are transformers' own.

    Raises: ConfigError for a name that is not a schedule, or one that cannot be driven by the step number alone.
    """
    name = config.lr_scheduler_type
    if name not in SCHEDULES:
        raise ConfigError(
            f"there is no schedule '{name}'", where="lr_scheduler_type", remedy=near_names(name, SCHEDULES)
        )
    warmup = warmup_steps(config, total_steps)
    if (shape := _SHAPES.get(name)) is not None:
        return LambdaLR(optimizer, partial(shape, warmup=warmup, total=total_steps))
    from transformers.optimization import get_scheduler

    extra = {key: value(total_steps) for key, value in SCHEDULES[name].items()}
    return get_scheduler(name, optimizer, warmup, total_steps, extra or None)  # pyright: ignore[reportReturnType]


def warmup_steps(config: TrainingConfig, total_steps: int) -> int:
    """Steps that the learning rate rises: `warmup_steps` if given, else the ratio's share, rounded up."""
    if config.warmup_steps is not None:
        return config.warmup_steps
    return math.ceil(config.warmup_ratio * total_steps)


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
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * 0.5 * 2.0 * progress)))


_SHAPES: dict[str, Callable[..., float]] = {
    "constant": _constant,
    "constant_with_warmup": _constant_with_warmup,
    "linear": _linear,
    "cosine": _cosine,
}

SCHEDULES: dict[str, dict[str, Callable[[int], Any]]] = {
    "linear": {},
    "cosine": {},
    "constant": {},
    "constant_with_warmup": {},
    "cosine_with_restarts": {},
    "polynomial": {},
    "inverse_sqrt": {},
    "cosine_with_min_lr": {"min_lr_rate": lambda total: 0.1},
    "cosine_warmup_with_min_lr": {"min_lr_rate": lambda total: 0.1},
    "warmup_stable_decay": {"num_decay_steps": lambda total: max(1, total // 5)},
}
"""Names that `make_schedule` takes, each with what transformers wants to know besides, from the total of steps: the
lowest rate is a tenth of the peak, the decay at the end takes a fifth of the steps. `reduce_lr_on_plateau` and `greedy`
are left out: they need a metric at every step."""
