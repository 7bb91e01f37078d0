"""A model reads the rows of its tasks, so that its inside can be watched: batches, common prefixes, adapters put on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from oleaster.data.papers import Encoded
from oleaster.data.prefix import common_prefix
from oleaster.methods import attach_saved
from oleaster.methods.lora import attached


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


@dataclass(frozen=True)
class Padded:
    """Rows as one rectangle behind their common prefix; padded on the right, where causal attention needs no mask."""

    prefix: torch.Tensor
    """[1, P]; goes through the model once."""
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


def padded_batches(rows: Sequence[Encoded], size: int = 16, share: bool = True) -> list[Padded]:
    """Rows of like length together; see `Padded`. `share`: what they begin with goes apart, as the prefix."""
    seen: set[tuple[int, ...]] = set()
    batches = []
    ordered = sorted((row for row in rows if row.targets), key=lambda row: len(row.input_ids))
    for start in range(0, len(ordered), size):
        group = ordered[start : start + size]
        shared = _shared(group) if share else 0
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


def _shared(rows: Sequence[Encoded]) -> int:
    """Tokens that all rows begin with, before the first that predicts a target; at least 1."""
    return max(1, common_prefix([row.input_ids for row in rows], min(row.targets[0] for row in rows) - 1))


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
