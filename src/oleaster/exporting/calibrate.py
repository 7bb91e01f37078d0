"""4-bit weights that keep the tune: calibrated on the task's own rows.

1. Hessians: the inputs of every linear layer on the rows, each text prefix counted once.
2. GPTQ: every weight in 4 bits.
3. Bits where they count: how far each weight's rounding moves the answers (second-order KL, from gradients of sampled
   answers) against the bytes that 8 bits would cost; the most useful ones get 8 bits until the size is reached.
4. Refit: the scales of the 4-bit blocks are trained for a few steps to give the float32 model's distribution back
   (as in EfficientQAT's second phase, Chen et al. 2024); codes and file size stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from oleaster.core.errors import ModelError
from oleaster.exporting.gptq import gptq
from oleaster.exporting.quantize import HEAD, Format, Quantised, linear_weights, round_to_nearest

LOW = Format(4, 32, asymmetric=True)
HIGH = Format(8, 64)
DEFAULT_BITS = 6.0
"""Bits per weight of the default size, table included."""
HARM_ROWS = 48
REFIT_ROWS = 16
"""Rows of a refit step."""
REFIT_EPOCHS = 8
REFIT_RATE = 2e-3
"""Relative change of a scale per step, at the start."""


@dataclass(frozen=True)
class Row:
    """One calibration text."""

    ids: tuple[int, ...]
    targets: tuple[int, ...]
    """Positions whose tokens are the answer; the answers' distribution is what has to survive."""


@dataclass(frozen=True)
class Linear:
    """A weight of the graph and the torch modules whose rows it stacks."""

    name: str
    modules: tuple[nn.Linear, ...]

    @property
    def weight(self) -> torch.Tensor:
        """float32 [N, K]"""
        return torch.cat([module.weight.detach() for module in self.modules])

    @property
    def size(self) -> int:
        return sum(module.weight.numel() for module in self.modules)

    def put(self, weight: torch.Tensor) -> None:
        """Overwrite the modules' weights with `weight` [N, K]."""
        for module, part in zip(self.modules, weight.split([m.weight.shape[0] for m in self.modules]), strict=True):
            module.weight.data = part


def calibrate(
    model_folder: Path, source: Path, rows: Sequence[Row], target_mb: float | None
) -> tuple[dict[str, Format], dict[str, Quantised]]:
    """Formats and codes for `quantise_graph`.

    Args:
        model_folder: the merged float32 model that `source` was built from.
        source: its graph (model.onnx).
        rows: texts of the task, through its template, with their answers.
        target_mb: size of the weights in MB; None = `DEFAULT_BITS` per weight.

    Raises: ModelError when the graph's weights cannot be found in the model.
    """
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval().requires_grad_(False)
    linears = match_linears(model, source)
    hessians = collect_hessians(model, linears, rows)
    low = {each.name: gptq(each.weight, hessians[each.name], LOW) for each in linears}
    plan = spend_bits(linears, measure_harm(model, linears, low, rows), target_mb)
    ready = {each.name: low[each.name] for each in linears if plan[each.name] == LOW}
    ready |= {each.name: round_to_nearest(each.weight.numpy(), HIGH) for each in linears if plan[each.name] == HIGH}
    return plan, refit_scales(model, linears, ready, rows)


def match_linears(model: nn.Module, source: Path) -> list[Linear]:
    """The torch modules behind each of the graph's weights, compared value by value.

    Raises: ModelError for a family whose graph stacks its weights in another way.
    """
    found, missing = [], []
    modules = dict(model.named_modules())
    for name, weight in linear_weights(source):
        paths = _module_paths(name)
        own = [modules[path] for path in paths if isinstance(modules.get(path), nn.Linear)]
        linear = Linear(name, tuple(own))  # pyright: ignore[reportArgumentType]
        if own and linear.weight.shape == weight.shape and np.array_equal(linear.weight.numpy(), weight):
            found.append(linear)
        else:
            missing.append(name)
    if missing:
        raise ModelError(
            f"{len(missing)} weights of the graph are not found in the torch model, first: {missing[0]}",
            where=str(source),
            remedy="use --precision int8, which needs no calibration",
        )
    return found


def _module_paths(name: str) -> list[str]:
    """`layers.0.attn.qkv_proj` -> the paths that may hold its rows, in the order in which the graph stacks them."""
    if name == HEAD:
        return ["lm_head"]
    path = "model." + name.replace(".attn.", ".self_attn.")
    parent = path.rpartition(".")[0]
    if name.endswith(".qkv_proj"):
        return [path, *(f"{parent}.{part}_proj" for part in "qkv")]
    if name.endswith(".gate_up_proj"):
        return [path, f"{parent}.gate_proj", f"{parent}.up_proj"]
    return [path]


@dataclass(frozen=True)
class Padded:
    """Rows as one rectangle, padded on the right: causal attention needs no mask for that."""

    ids: torch.Tensor
    """[B, L]"""
    fresh: torch.Tensor
    """bool [B, L]: real tokens whose prefix no earlier row has; the others would be counted twice."""
    asked: torch.Tensor
    """bool [B, L]: the next token is an answer's."""


def padded_batches(rows: Sequence[Row], size: int = 16) -> list[Padded]:
    """Rows of like length together; see `Padded`."""
    seen: set[tuple[int, ...]] = set()
    batches = []
    ordered = sorted(rows, key=lambda row: len(row.ids))
    for start in range(0, len(ordered), size):
        group = ordered[start : start + size]
        length = max(len(row.ids) for row in group)
        ids = torch.zeros(len(group), length, dtype=torch.long)
        fresh = torch.zeros(len(group), length, dtype=torch.bool)
        asked = torch.zeros(len(group), length, dtype=torch.bool)
        for i, row in enumerate(group):
            ids[i, : len(row.ids)] = torch.tensor(row.ids)
            asked[i, torch.tensor(row.targets, dtype=torch.long) - 1] = True
            for j in range(len(row.ids)):
                if (prefix := row.ids[: j + 1]) not in seen:
                    seen.add(prefix)
                    fresh[i, j] = True
        batches.append(Padded(ids, fresh, asked))
    return batches


@torch.no_grad()
def collect_hessians(model: nn.Module, linears: Sequence[Linear], rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """H = sum of x x^T over the inputs of each linear, [K, K], by plan name."""
    sums = {each.name: torch.zeros(each.weight.shape[1], each.weight.shape[1]) for each in linears}
    counted = torch.empty(0, dtype=torch.bool)

    def hook(name: str) -> Any:
        def add(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            x = inputs[0].reshape(counted.numel(), -1)[counted.reshape(-1)]
            sums[name].addmm_(x.T, x)

        return add

    handles = [each.modules[0].register_forward_pre_hook(hook(each.name)) for each in linears]
    for batch in padded_batches(rows):
        counted = batch.fresh
        model(batch.ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return sums


def measure_harm(
    model: nn.Module, linears: Sequence[Linear], low: Mapping[str, Quantised], rows: Sequence[Row]
) -> dict[str, float]:
    """How far each weight's 4-bit rounding alone moves the answers: KL in nats per answer token, to second order.

    KL(p || p + dp) = 1/2 E_y (g . dW)^2 with g the gradient of ln p(y) and y sampled from the model itself: the Fisher
    information, taken along the very error that 4 bits make. One backward pass per row serves all weights.
    """
    errors = {each.name: torch.from_numpy(low[each.name].dense()) - each.weight for each in linears}
    harm = dict.fromkeys(errors, 0.0)
    chosen = rows[:HARM_ROWS]
    for each in linears:
        for module in each.modules:
            module.weight.requires_grad_(True)
    for row in chosen:
        logits = model(torch.tensor([row.ids]), use_cache=False).logits[0, torch.tensor(row.targets) - 1]
        logs = logits.log_softmax(-1)
        sampled = torch.multinomial(logs.detach().exp(), 1)
        logs.gather(1, sampled).sum().backward()
        for each in linears:
            gradient = torch.cat([_grad(module) for module in each.modules])
            harm[each.name] += 0.5 * float((gradient * errors[each.name]).sum()) ** 2
        model.zero_grad(set_to_none=True)
    model.requires_grad_(False)
    count = sum(len(row.targets) for row in chosen)
    return {name: total / count for name, total in harm.items()}


def _grad(module: nn.Linear) -> torch.Tensor:
    assert module.weight.grad is not None
    return module.weight.grad


def spend_bits(linears: Sequence[Linear], harm: Mapping[str, float], target_mb: float | None) -> dict[str, Format]:
    """8 bits for the weights that gain most per byte, as many as `target_mb` pays for; 4 bits for the rest."""
    left = sum(each.size for each in linears) * DEFAULT_BITS if target_mb is None else target_mb * 8e6
    left -= sum(each.size for each in linears) * LOW.bits_per_weight
    plan = {each.name: LOW for each in linears}
    for each in sorted(linears, key=lambda each: harm[each.name] / each.size, reverse=True):
        cost = each.size * (HIGH.bits_per_weight - LOW.bits_per_weight)
        if cost <= left:
            plan[each.name] = HIGH
            left -= cost
    return plan


class _Dequantised(torch.autograd.Function):
    """y = x W^T with W = (codes - zeros) * scales; neither W nor its gradient outlives the call."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scales: torch.Tensor, centred: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, scales, centred)
        return x @ (centred * scales[..., None]).flatten(1).T

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        x, scales, centred = ctx.saved_tensors
        grad = outputs[0]
        weight = grad.flatten(0, -2).T @ x.flatten(0, -2)
        return (
            grad @ (centred * scales[..., None]).flatten(1),
            (weight.view(centred.shape) * centred).sum(-1),
            None,
        )


class ScaledLinear(nn.Module):
    """A linear layer of fixed codes whose block scales are trained."""

    def __init__(self, centred: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.centred = centred
        """int8 [N, K / block, block]: codes minus zeros."""
        self.first = scales
        self.change = nn.Parameter(torch.zeros_like(scales))
        """[N, K / block], relative."""
        self.bias = bias

    def scales(self) -> torch.Tensor:
        return self.first * (1 + self.change)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = _Dequantised.apply(x, self.scales(), self.centred)
        return y if self.bias is None else y + self.bias  # pyright: ignore[reportOptionalOperand]


def refit_scales(
    model: nn.Module, linears: Sequence[Linear], ready: dict[str, Quantised], rows: Sequence[Row]
) -> dict[str, Quantised]:
    """Train the scales of the 4-bit weights so that the answers' distribution comes back; `model` is spent."""
    batches = padded_batches(rows, REFIT_ROWS)
    with torch.no_grad():
        truths = [model(batch.ids, use_cache=False).logits[batch.asked].log_softmax(-1).half() for batch in batches]
    layers: dict[str, list[ScaledLinear]] = {}
    for each in linears:
        if ready[each.name].format == LOW and each.name != HEAD:
            layers[each.name] = _put_scaled(model, each, ready[each.name])
        else:
            each.put(torch.from_numpy(ready[each.name].dense()))
    parameters = [layer.change for group in layers.values() for layer in group]
    optimiser = torch.optim.Adam(parameters, lr=REFIT_RATE, betas=(0.9, 0.95))
    steps = REFIT_EPOCHS * len(batches)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        index = int(torch.randint(len(batches), ())) if step >= len(batches) else step
        batch, truth = batches[index], truths[index].float()
        logs = model(batch.ids, use_cache=False).logits[batch.asked].log_softmax(-1)
        loss = (truth.exp() * (truth - logs)).sum(-1).mean()
        loss.backward()
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
    refitted = dict(ready)
    for name, group in layers.items():
        scales = torch.cat([layer.scales().detach() for layer in group]).half().numpy()
        old = ready[name]
        refitted[name] = Quantised(old.format, old.codes, scales, old.zeros)
    return refitted


def _put_scaled(model: nn.Module, linear: Linear, quantised: Quantised) -> list[ScaledLinear]:
    """Put `ScaledLinear`s in the place of the modules of `linear`."""
    block = quantised.format.block
    codes = torch.from_numpy(quantised.codes).unflatten(1, (-1, block)).to(torch.int8)
    zeros = torch.from_numpy(quantised.zeros).to(torch.int8) if quantised.zeros is not None else torch.tensor(8)
    centred = codes - zeros[..., None]
    scales = torch.from_numpy(quantised.scales).float()
    paths = {module: path for path, module in model.named_modules()}
    layers, start = [], 0
    for module in linear.modules:
        end = start + module.weight.shape[0]
        layer = ScaledLinear(centred[start:end], scales[start:end], module.bias)
        model.set_submodule(paths[module], layer)
        layers.append(layer)
        start = end
    return layers
