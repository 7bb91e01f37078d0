"""How far the rounding of each weight moves the answers, without ever making the gradient of a weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from oleaster.exporting.lessons import Lesson, Linear, Piece, padded_batches, wearing
from oleaster.exporting.quantize import Quantised

EMBEDDING = "model.embed_tokens"
ROWS = 32
BATCH = 8
"""Rows of one backward pass."""


def measure_harm(
    model: nn.Module, linears: Sequence[Linear], low: Mapping[str, Quantised], lessons: Sequence[Lesson]
) -> dict[str, float]:
    """KL in nats per answer token that each weight's rounding to `low` alone makes, to second order.

    KL(p || p + dp) = 1/2 dz^T F dz with dz the change of the logits and F = diag(p) - p p^T: the Fisher information,
    along the very error that 4 bits make. With v drawn so that E v v^T = F it is 1/2 E (v . dz)^2, and v . dz = g . dW
    with g the gradient of v . z: one backward pass for all weights. (Sampling a token y and taking the gradient of
    ln p(y) has the same mean, but a tuned model is so sure of itself that rare samples decide everything.) The v of
    different tokens are independent, so a pass serves all tokens of a row; and g . dW is the sum over positions of
    (dL/dy) . (dW x), so rows that are computed together stay apart.
    """
    harm, count = dict.fromkeys((each.name for each in linears), 0.0), 0
    sampler = torch.Generator().manual_seed(0)
    with watched(model, linears, low) as moved:
        for lesson in lessons:
            rows = lesson.rows[: max(1, ROWS // len(lessons))]
            with wearing(model, lesson.adapter):
                for batch in padded_batches(rows, BATCH, share=False):
                    columns = batch.columns()
                    logits = model(batch.ids, use_cache=False, logits_to_keep=columns).logits
                    asked = logits[batch.asked[:, columns]]
                    asked.backward(fisher_sample(asked.detach(), sampler))
                    count += len(asked)
                    for name, found in moved.items():
                        harm[name] += 0.5 * float(found.square().sum())
                    moved.clear()
    return {name: total / count for name, total in harm.items()}


def fisher_sample(logits: torch.Tensor, sampler: torch.Generator) -> torch.Tensor:
    """v [N, V] with E v = 0 and E v v^T = diag(p) - p p^T for each of `logits` [N, V]."""
    p = logits.softmax(-1)
    drawn = p.sqrt() * torch.randn(p.shape, generator=sampler)
    return drawn - p * drawn.sum(-1, keepdim=True)


@contextmanager
def watched(
    model: nn.Module, linears: Sequence[Linear], low: Mapping[str, Quantised]
) -> Iterator[dict[str, torch.Tensor]]:
    """A dictionary that a backward pass fills: name -> g . dW of each row of the batch, [B]."""
    moved: dict[str, torch.Tensor] = {}

    def add(name: str, products: torch.Tensor) -> None:
        moved[name] = moved.get(name, torch.zeros(())) + products.flatten(1).sum(1)

    def beside(name: str, piece: Piece, error: torch.Tensor) -> Any:
        def watch(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            x = inputs[0].detach()
            output.register_hook(lambda g: add(name, functional.linear(x, error) * g[..., piece.start : piece.stop]))

        return watch

    def begin(table: torch.Tensor | None, name: str) -> Any:
        def watch(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            output.requires_grad_(True)  # no weight wants a gradient, so the first one is made here
            if table is not None:
                error = functional.embedding(inputs[0], table) * getattr(module, "embed_scale", 1.0)
                output.register_hook(lambda g: add(name, g * error))

        return watch

    handles, tied = [], (None, "")
    embedding: Any = model.get_submodule(EMBEDDING)
    for each in linears:
        for piece, error in zip(each.pieces, _errors(each, low[each.name]), strict=True):
            handles.append(piece.module.register_forward_hook(beside(each.name, piece, error)))
            if piece.module.weight is embedding.weight:
                tied = (error, each.name)
    handles.append(embedding.register_forward_hook(begin(*tied)))
    try:
        yield moved
    finally:
        for handle in handles:
            handle.remove()


def _errors(linear: Linear, quantised: Quantised) -> list[torch.Tensor]:
    """Quantised minus exact weight, [rows, K] a piece."""
    rows = [piece.weight.shape[0] for piece in linear.pieces]
    parts = torch.from_numpy(quantised.dense()).split(rows)
    return [part - piece.weight for part, piece in zip(parts, linear.pieces, strict=True)]
