"""Several adapters on one frozen base, computed as one line of tokens.

The rows of every adapter lie one batch behind the other. All tokens go through the base's products together; norms and
gates do not care whose token it is; a low-rank branch acts on the tokens of its own seat; attention stays within a
batch, which keeps its own common beginning. So each adapter gets the result it would get alone, up to the last bits of
float32 sums (the products are larger, and sum in another order).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TypeVar

import torch
from torch import Tensor, nn

from oleaster.data.batch import Batch
from oleaster.models.decoder import Decoder, Shared, rotary
from oleaster.models.fused import Seats, attend

M = TypeVar("M", bound=nn.Module)


def share_base(model: M) -> M:
    """A second model of the same structure over the same tensors: room for another adapter, no weight copied."""
    return copy.deepcopy(model, {id(p): p for p in [*model.parameters(), *model.buffers()]})


class Joint:
    """Decoders made by `share_base`, each with an adapter of its own, run as one."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        """
        Args:
            models: `Decoder`s over the same base tensors.

        Raises:
            ValueError: something besides low-rank branches differs between them.
        """
        if reason := why_not_together(models):
            raise ValueError(reason)
        self._models = [model for model in models if isinstance(model, Decoder)]
        self._line = share_base(self._models[0])
        adapted = {path for model in models for path, module in model.named_modules() if hasattr(module, "lora_A")}
        for path in sorted(adapted):
            self._line.set_submodule(path, Shared([model.get_submodule(path) for model in models]))

    def target_hidden(self, batches: Sequence[Batch]) -> list[Tensor]:
        """For each model's batch, the normed hidden states [M, C] that predict its targets."""
        line, last = self._line, len(self._line.architecture.layers) - 1
        lengths = [len(batch.ids) for batch in batches]
        seats = _behind_each_other(lengths)
        hidden = torch.cat([model.embed(batch) for model, batch in zip(self._models, batches, strict=True)])
        delta = None
        positions = torch.cat([batch.positions for batch in batches])
        angles = {kind.rope: rotary(kind.rope, positions) for kind in set(line.architecture.layers)}
        uses = [batch.target_sources.unique(return_inverse=True) for batch in batches]
        for i, (layer, kind) in enumerate(line.layers()):
            x, hidden = line.normed(layer.input_layernorm, hidden, delta)
            again = line.again(layer.input_layernorm, hidden)
            q, k, v = line.queries_keys_values(layer.self_attn, x, again, seats)
            # `split`, not slices: each slice would give back a gradient of the whole line, most of it zeros
            pieces = zip(*(part.split(lengths) for part in (q, k, v, *angles[kind.rope])), strict=True)
            parts = [
                attend(q, k, v, (cos, sin), batch.buckets, line.attending(kind))
                for (q, k, v, cos, sin), batch in zip(pieces, batches, strict=True)
            ]
            if i == last:
                needed = [needed for needed, _ in uses]
                hidden = torch.cat([part[n] for part, n in zip(hidden.split(lengths), needed, strict=True)])
                parts = [part[n] for part, n in zip(parts, needed, strict=True)]
                lengths = [len(n) for n in needed]
                seats = _behind_each_other(lengths)
            hidden, delta = line.after_attention(layer, torch.cat(parts), hidden, seats)
        normed, _ = line.normed(line.model.norm, hidden, delta)
        return [part[which] for part, (_, which) in zip(normed.split(lengths), uses, strict=True)]


def why_not_together(models: Sequence[nn.Module]) -> str | None:
    """What keeps these models from being computed as one line; None when nothing does."""
    if not all(isinstance(model, Decoder) for model in models):
        return "this family of models runs on transformers' code"
    if any(model.gradient_checkpointing for model in models):
        return "gradient_checkpointing is on"
    trained = [name for name, p in _whole(models) if p.requires_grad]
    if trained:
        return f"{trained[0]} is trained whole"
    if any({id(p) for _, p in _whole([model])} != {id(p) for _, p in _whole(models[:1])} for model in models):
        return "they do not stand on the same base"
    return None


def _whole(models: Sequence[nn.Module]) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that belong to no low-rank branch."""
    for model in models:
        yield from ((n, p) for n, p in model.named_parameters() if not n.endswith((".lora_A", ".lora_B")))


def _behind_each_other(lengths: Sequence[int]) -> Seats:
    ends = list(accumulate(lengths))
    return [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
