"""4-bit weights that keep the tune: calibrated on the task's own rows.

1. The inputs of every linear layer on the rows, as H = X^T X; a text prefix that rows share counts once.
2. GPTQ with these: every weight, embedding and head too, in 4 bits.
3. Bits where they count: how far each weight's rounding moves the answers' distribution, against the bytes that 8 bits
   would cost. The weights that gain most per byte get 8 bits, until the size is used up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from oleaster.core.errors import ModelError
from oleaster.exporting.gptq import gptq
from oleaster.exporting.harm import measure_harm
from oleaster.exporting.lessons import Lesson, Linear, Piece, asked_logits, padded_batches, shared_prefix, wearing
from oleaster.exporting.quantize import HEAD, INT8, Format, Quantised, linear_weights, round_to_nearest
from oleaster.models.load import load_plain

LOW = Format(4, 32, asymmetric=True)


@dataclass(frozen=True)
class Grades:
    """The two formats that weights are spread over, and what they cost where they are stored."""

    low: Format = LOW
    high: Format = INT8
    low_bits: float = LOW.bits_per_weight
    high_bits: float = INT8.bits_per_weight
    """Per weight, scales included."""


DEFAULT_BITS = 6.0
"""Bits per weight of the default size, scales and table included."""
TOGETHER = 2**24
"""Weights that GPTQ takes at once: 64 MB in float32."""


def calibrate_graph(
    model_folder: Path, source: Path, lessons: Sequence[Lesson], target_mb: float | None
) -> tuple[dict[str, Format], dict[str, Quantised]]:
    """Formats and codes for `quantise_graph`.

    Args:
        model_folder: the float32 model that `source` was built from.
        source: its graph (model.onnx).
        lessons: texts of its tasks, through their templates, with their answers.
        target_mb: size of the weights in MB (1,000,000 bytes); None = `DEFAULT_BITS` per weight.

    Raises: ModelError when the graph's weights cannot be found in the model.
    """
    model = load_plain(model_folder).requires_grad_(False)
    linears = match_linears(model, source)
    if target_mb is not None:  # less what stays as it is: norms, rope tables, the graph itself
        stored = sum(path.stat().st_size for path in source.parent.glob(f"{source.name}*"))
        target_mb -= (stored - 4 * sum(each.size for each in linears)) / 1e6
    return calibrate(model, linears, lessons, target_mb)


def calibrate(
    model: nn.Module,
    linears: Sequence[Linear],
    lessons: Sequence[Lesson],
    target_mb: float | None,
    grades: Grades = Grades(),
) -> tuple[dict[str, Format], dict[str, Quantised]]:
    """Format and codes by name of `linears`, weights of the float32 `model`; see `calibrate_graph`.

    Weights whose columns are no multiple of the low format's block are left out.
    """
    linears = [each for each in linears if each.weight.shape[1] % grades.low.block == 0]
    hessians = collect_hessians(model, linears, lessons)
    ready = {}
    for group in alike(linears):
        weights, inputs = [each.weight for each in group], [hessians[each.name] for each in group]
        ready |= zip((each.name for each in group), gptq(weights, inputs, grades.low), strict=True)
    del hessians
    plan = spend_bits(linears, measure_harm(model, linears, ready, lessons), target_mb, grades)
    for each in linears:
        if plan[each.name] != grades.low:
            ready[each.name] = round_to_nearest(each.weight.numpy(), plan[each.name])
    return plan, ready


def match_linears(model: nn.Module, source: Path) -> list[Linear]:
    """The torch modules behind each of the graph's weights, compared value by value.

    Raises: ModelError for a family whose graph stacks its weights in another way.
    """
    found, missing = [], []
    modules = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    for name, weight in linear_weights(source):
        linear = Linear(name, _pieces(name, modules))
        if linear.pieces and linear.weight.shape == weight.shape and np.array_equal(linear.weight.numpy(), weight):
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


def _pieces(name: str, modules: Mapping[str, nn.Linear]) -> tuple[Piece, ...]:
    """`layers.0.attn.qkv_proj` -> where its rows are, in the order in which the graph stacks them; nowhere: empty."""
    path = HEAD if name == HEAD else "model." + name.replace(".attn.", ".self_attn.")
    if path in modules:
        return (Piece(modules[path]),)
    parent, _, last = path.rpartition(".")
    stacked = [f"{parent}.{part}_proj" for part in {"qkv_proj": "qkv", "gate_up_proj": ("gate", "up")}.get(last, ())]
    if stacked and all(part in modules for part in stacked):
        return tuple(Piece(modules[part]) for part in stacked)
    both = modules.get(f"{parent}.gate_up_proj")
    if both is not None and last in ("gate_proj", "up_proj"):  # Phi-3 keeps as one what its graph has apart
        half = both.out_features // 2
        return (Piece(both, 0, half) if last == "gate_proj" else Piece(both, half),)
    return ()


@torch.no_grad()
def collect_hessians(model: nn.Module, linears: Sequence[Linear], lessons: Sequence[Lesson]) -> dict[str, torch.Tensor]:
    """H = sum of x x^T over the inputs of each linear, [K, K], by plan name; one tensor where inputs are the same."""
    sums: dict[str, torch.Tensor] = {}
    counted = {"head": torch.empty(0), "layers": torch.empty(0)}
    last: dict[str, Any] = {"x": None, "name": ""}  # of the map that ran before: up_proj reads what gate_proj read

    def hook(name: str) -> Any:
        def add(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if last["x"] is inputs[0]:
                sums[name] = sums[last["name"]]
                return
            last.update(x=inputs[0], name=name)
            mask = counted["head" if name == HEAD else "layers"]
            x = inputs[0].flatten(0, -2)[mask.flatten()]
            sums.setdefault(name, torch.zeros(x.shape[1], x.shape[1])).addmm_(x.T, x)

        return add

    handles = [each.pieces[0].module.register_forward_pre_hook(hook(each.name)) for each in linears]
    for lesson in lessons:
        with wearing(model, lesson.adapter):
            for batch in padded_batches(lesson.rows):
                counted.update(layers=batch.new_prefix, head=torch.zeros(1, dtype=torch.bool))
                cache = shared_prefix(model, batch)
                counted.update(layers=batch.fresh, head=batch.asked[:, batch.columns()])
                asked_logits(model, batch, cache)
    for handle in handles:
        handle.remove()
    return sums


def alike(linears: Sequence[Linear]) -> Iterator[list[Linear]]:
    """Weights of one shape, as many together as `TOGETHER` allows."""
    by_shape: dict[tuple[int, ...], list[Linear]] = {}
    for each in linears:
        by_shape.setdefault(tuple(each.weight.shape), []).append(each)
    for group in by_shape.values():
        size = max(1, TOGETHER // group[0].size)
        yield from (group[start : start + size] for start in range(0, len(group), size))


def spend_bits(
    linears: Sequence[Linear], harm: Mapping[str, float], target_mb: float | None, grades: Grades = Grades()
) -> dict[str, Format]:
    """8 bits for the weights that gain most per byte, as many as `target_mb` pays for; 4 bits for the rest."""
    left = sum(each.size for each in linears) * DEFAULT_BITS if target_mb is None else target_mb * 8e6
    left -= sum(each.size for each in linears) * grades.low_bits
    plan = {each.name: grades.low for each in linears}
    for each in sorted(linears, key=lambda each: harm[each.name] / each.size, reverse=True):
        cost = each.size * (grades.high_bits - grades.low_bits)
        if cost <= left:
            plan[each.name] = grades.high.fitting(each.weight.shape[1])
            left -= cost
    return plan
