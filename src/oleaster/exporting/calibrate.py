"""4-bit weights that keep the tune: calibrated on the task's own rows.

1. The inputs of every linear layer on the rows, as H = X^T X; a text prefix that rows share counts once.
2. GPTQ with these: every weight, embedding and head too, in 4 bits.
3. Bits where they count: how far each weight's rounding moves the answers' distribution, against the bytes that 8 bits
   would cost. The weights that gain most per byte get 8 bits, until the size is used up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from oleaster.core.errors import ModelError
from oleaster.data.papers import Encoded
from oleaster.exporting.gptq import gptq
from oleaster.exporting.quantize import HEAD, Format, Quantised, linear_weights, round_to_nearest
from oleaster.methods.lora import attach_saved, attached
from oleaster.models.load import load_plain

LOW = Format(4, 32, asymmetric=True)
HIGH = Format(8, 64)


@dataclass(frozen=True)
class Grades:
    """The two formats that weights are spread over, and what they cost where they are stored."""

    low: Format = LOW
    high: Format = HIGH
    low_bits: float = LOW.bits_per_weight
    high_bits: float = HIGH.bits_per_weight
    """Per weight, scales included."""

    def finest(self, columns: int) -> Format:
        """The high format for a weight of so many columns."""
        return self.high if columns % self.high.block == 0 else replace(self.high, block=self.low.block)


DEFAULT_BITS = 6.0
"""Bits per weight of the default size, scales and table included."""
HARM_PASSES = 16
HARM_ROWS = 3
"""Rows of one backward pass."""


@dataclass(frozen=True)
class Lesson:
    """Texts of one task."""

    rows: Sequence[Encoded]
    """Their answers' distribution is what has to survive."""
    adapter: Path | None = None
    """PEFT folder that the base wears for this task; None = as it is."""


@dataclass(frozen=True)
class Piece:
    """Rows of a torch module's weight."""

    module: nn.Linear
    start: int = 0
    stop: int | None = None

    @property
    def weight(self) -> torch.Tensor:
        """float32 [rows, K], detached."""
        return self.module.weight.detach()[self.start : self.stop]

    @property
    def gradient(self) -> torch.Tensor:
        """[rows, K]; raises when no backward pass was made."""
        assert self.module.weight.grad is not None
        return self.module.weight.grad[self.start : self.stop]


@dataclass(frozen=True)
class Linear:
    """A weight as it is stored, and the torch weights whose rows it stacks."""

    name: str
    pieces: tuple[Piece, ...]

    @property
    def weight(self) -> torch.Tensor:
        """float32 [N, K]"""
        return torch.cat([piece.weight for piece in self.pieces])

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(piece.weight.numel() for piece in self.pieces)


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
    ready = {each.name: gptq(each.weight, hessians.pop(each.name), grades.low) for each in linears}
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


@dataclass(frozen=True)
class Padded:
    """Rows as one rectangle behind their common prefix; padded on the right, where causal attention needs no mask."""

    prefix: torch.Tensor
    """[1, P], P >= 1; goes through the model once."""
    new_prefix: torch.Tensor
    """bool [1, P]: no earlier batch had these tokens."""
    ids: torch.Tensor
    """[B, L]"""
    fresh: torch.Tensor
    """bool [B, L]: tokens that stand behind other tokens than in any earlier row; the rest would be counted twice."""
    asked: torch.Tensor
    """bool [B, L]: the next token is an answer's."""

    def columns(self) -> torch.Tensor:
        """Columns in which anything is asked."""
        return self.asked.any(0).nonzero()[:, 0]


def padded_batches(rows: Sequence[Encoded], size: int = 16) -> list[Padded]:
    """Rows of like length together; see `Padded`."""
    seen: set[tuple[int, ...]] = set()
    batches = []
    ordered = sorted((row for row in rows if row.targets), key=lambda row: len(row.input_ids))
    for start in range(0, len(ordered), size):
        group = ordered[start : start + size]
        shared = _common_prefix([row.input_ids[: row.targets[0] - 1] for row in group])
        fresh = [[_is_new(row.input_ids[: j + 1], seen) for j in range(len(row.input_ids))] for row in group]
        length = max(len(row.input_ids) for row in group) - shared
        ids = torch.zeros(len(group), length, dtype=torch.long)
        kept = torch.zeros(len(group), length, dtype=torch.bool)
        asked = torch.zeros(len(group), length, dtype=torch.bool)
        for i, row in enumerate(group):
            ids[i, : len(row.input_ids) - shared] = torch.tensor(row.input_ids[shared:])
            kept[i, : len(row.input_ids) - shared] = torch.tensor(fresh[i][shared:])
            asked[i, [t - 1 - shared for t in row.targets if t > shared]] = True
        prefix = torch.tensor([group[0].input_ids[:shared]])
        batches.append(Padded(prefix, torch.tensor([fresh[0][:shared]]), ids, kept, asked))
    return batches


def _common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Tokens that all rows begin with, at least 1."""
    equal = [len(set(column)) == 1 for column in zip(*rows, strict=False)]
    return max(1, [*equal, False].index(False))


def _is_new(prefix: tuple[int, ...], seen: set[tuple[int, ...]]) -> bool:
    new = prefix not in seen
    seen.add(prefix)
    return new


def shared_prefix(model: nn.Module, batch: Padded) -> Any:
    """The cache of the common prefix, computed once, for all rows of the batch."""
    cache = model(batch.prefix, use_cache=True, logits_to_keep=1).past_key_values
    cache.batch_repeat_interleave(len(batch.ids))
    return cache


def asked_logits(model: nn.Module, batch: Padded, cache: Any) -> torch.Tensor:
    """Logits [asked tokens, V] behind the common prefix."""
    columns = batch.columns()
    logits = model(batch.ids, past_key_values=cache, use_cache=True, logits_to_keep=columns).logits
    return logits[batch.asked[:, columns]]


@contextmanager
def wearing(model: nn.Module, adapter: Path | None) -> Iterator[None]:
    """The base with an adapter beside its weights, which stay what they are; taken off in the end."""
    if adapter is not None:
        attach_saved(model, adapter)
        model.requires_grad_(False)
    try:
        yield
    finally:
        for path, layer in attached(model).items():
            model.set_submodule(path, layer.base)


@torch.no_grad()
def collect_hessians(model: nn.Module, linears: Sequence[Linear], lessons: Sequence[Lesson]) -> dict[str, torch.Tensor]:
    """H = sum of x x^T over the inputs of each linear, [K, K], by plan name."""
    sums = {each.name: torch.zeros(each.weight.shape[1], each.weight.shape[1]) for each in linears}
    counted = {"head": torch.empty(0), "layers": torch.empty(0)}

    def hook(name: str) -> Any:
        def add(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            mask = counted["head" if name == HEAD else "layers"]
            if mask.any():
                x = inputs[0].flatten(0, -2)[mask.flatten()]
                sums[name].addmm_(x.T, x)

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


def measure_harm(
    model: nn.Module, linears: Sequence[Linear], low: Mapping[str, Quantised], lessons: Sequence[Lesson]
) -> dict[str, float]:
    """How far each weight's 4-bit rounding alone moves the answers: KL in nats per answer token, to second order.

    KL(p || p + dp) = 1/2 E_y (g . dW)^2 with g the gradient of ln p(y) and y sampled from the model itself: the Fisher
    information, taken along the very error that 4 bits make. The gradients of different tokens are independent with
    mean zero, so one backward pass serves all weights and all tokens of its rows.
    """
    errors = {each.name: _rounding_errors(each, low[each.name]) for each in linears}
    harm = dict.fromkeys(errors, 0.0)
    sampler = torch.Generator().manual_seed(0)
    count = 0
    passes = max(1, HARM_PASSES // len(lessons))
    modules = {id(piece.module): piece.module for each in linears for piece in each.pieces}.values()
    for lesson in lessons:
        with wearing(model, lesson.adapter):
            for module in modules:
                module.weight.requires_grad_(True)
            for batch in padded_batches(lesson.rows[: passes * HARM_ROWS], HARM_ROWS):
                logs = asked_logits(model, batch, shared_prefix(model, batch)).log_softmax(-1)
                sampled = torch.multinomial(logs.detach().exp(), 1, generator=sampler)
                logs.gather(1, sampled).sum().backward()
                count += len(sampled)
                for each in linears:
                    pairs = zip(each.pieces, errors[each.name], strict=True)
                    harm[each.name] += 0.5 * sum(float(piece.gradient.flatten() @ error) for piece, error in pairs) ** 2
                model.zero_grad(set_to_none=False)
    model.zero_grad(set_to_none=True)
    model.requires_grad_(False)
    return {name: total / count for name, total in harm.items()}


def _rounding_errors(linear: Linear, quantised: Quantised) -> list[torch.Tensor]:
    """Quantised minus exact weight, one flat tensor a piece."""
    rows = [piece.weight.shape[0] for piece in linear.pieces]
    parts = torch.from_numpy(quantised.dense()).split(rows)
    return [(part - piece.weight).flatten() for part, piece in zip(parts, linear.pieces, strict=True)]


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
            plan[each.name] = grades.finest(each.weight.shape[1])
            left -= cost
    return plan
