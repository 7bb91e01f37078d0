"""The backend over our own decoder: prompts packed without padding, a common beginning read once.

Shape legend: B rows, N packed tokens, C hidden size, H query heads, J key/value heads, G = H / J, D head size,
S cache places, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oleaster.data.batch import Batch, pack
from oleaster.data.papers import Encoded
from oleaster.inference.choosing import Logits
from oleaster.models import kernels
from oleaster.models.architecture import LayerKind
from oleaster.models.decoder import Decoder, Layer, rotary
from oleaster.models.fused import Attending, attend


@dataclass
class Cache:
    """Rotated keys and values of a batch."""

    keys: list[Tensor]
    """Per layer [B, J, S, D]; place j holds the token at position j."""
    values: list[Tensor]
    lengths: Tensor
    """[B] int64: tokens cached of each row."""


class DecoderBackend:
    """`generation.Backend` over a `Decoder`.

    Args:
        logit_elements: most logits that `target_logits` computes at once; the default is 64 MiB in float32.
    """

    pads = True
    context: int | None

    def __init__(self, model: Decoder, context: int | None = None, logit_elements: int = 2**24) -> None:
        self.model, self.context, self.logit_elements = model, context, logit_elements

    def prefill(self, prompts: Sequence[Sequence[int]], room: int) -> tuple[Logits, Cache]:
        """See `Backend.prefill`."""
        rows = [Encoded((*prompt, 0), (len(prompt),), len(prompt), i) for i, prompt in enumerate(prompts)]
        batch = pack(rows).to(self._device)
        places = batch.prefix + batch.lengths[0] + room
        model, a = self.model, self.model.architecture
        shape = (len(batch), a.num_kv_heads, places, a.head_dim)
        hidden, delta = model.embed(batch), None
        cache = Cache([], [], torch.tensor(batch.lengths, device=self._device) + batch.prefix)
        for layer, kind in model.layers():
            keys, values = hidden.new_zeros(shape), hidden.new_zeros(shape)
            hidden, delta = self._read(layer, kind, batch, hidden, delta, keys, values)
            cache.keys.append(keys)
            cache.values.append(values)
        ends = batch.target_sources
        logits = self._logits(hidden[ends], None if delta is None else delta[ends])
        back = np.argsort(np.array(batch.rows))
        self.keep(back.tolist(), cache)
        return logits[back], cache

    def _read(self, layer: Layer, kind: LayerKind, batch: Batch, hidden: Tensor, delta: Tensor | None,
              keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:  # fmt: skip
        """One layer over the packed prompts, its keys and values put into the cache."""
        model = self.model
        x, hidden = model.normed(layer.input_layernorm, hidden, delta)
        q, k, v = model.queries_keys_values(layer.self_attn, x)
        angles, first = rotary(kind.rope, batch.positions), 0
        for bucket in batch.buckets[bool(batch.prefix) :]:
            rows, width = slice(first, first + len(bucket.lengths)), bucket.prefix + bucket.longest
            keys[rows, :, :width] = kernels.to_block(k, bucket, bucket.prefix, angles)
            values[rows, :, :width] = kernels.to_block(v, bucket, bucket.prefix, None)
            first = rows.stop
        mixed = attend(q, k, v, angles, batch.buckets, model.attending(kind))
        return model.after_attention(layer, mixed, hidden)

    def step(self, ids: NDArray[np.int64], state: Cache) -> Logits:
        """See `Backend.step`."""
        model = self.model
        place, rows = state.lengths, torch.arange(len(ids), device=self._device)
        hidden, delta = model.embed_ids(torch.from_numpy(ids).to(self._device)), None
        places = int(place.max()) + 1
        for i, (layer, kind) in enumerate(model.layers()):
            x, hidden = model.normed(layer.input_layernorm, hidden, delta)
            q, k, v = model.queries_keys_values(layer.self_attn, x)
            angles = rotary(kind.rope, place)
            state.keys[i][rows, :, place] = kernels.rotate(k, angles)
            state.values[i][rows, :, place] = v
            age = place[:, None] - torch.arange(places, device=self._device)
            seen = (age >= 0) if kind.window is None else (age >= 0) & (age < kind.window)
            keys, values = state.keys[i][:, :, :places], state.values[i][:, :, :places]
            mixed = _look_back(kernels.rotate(q, angles), keys, values, seen, model.attending(kind))
            hidden, delta = model.after_attention(layer, mixed, hidden)
        state.lengths = place + 1
        return self._logits(hidden, delta)

    def keep(self, rows: Sequence[int], state: Cache) -> None:
        """See `Backend.keep`."""
        index = torch.tensor(rows, device=self._device)
        state.keys = [keys[index] for keys in state.keys]
        state.values = [values[index] for values in state.values]
        state.lengths = state.lengths[index]

    def target_logits(
        self, rows: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """See `TransformersBackend.target_logits`."""
        marked = [Encoded(tuple(r), tuple(t), 0, i) for i, (r, t) in enumerate(zip(rows, targets, strict=True))]
        batch = pack(marked).to(self._device)
        hidden = self.model.target_hidden(batch)
        owners = torch.tensor(batch.rows, device=self._device)[batch.target_rows]
        size = max(1, self.logit_elements // self.model.architecture.vocab_size)
        for at in range(0, len(owners), size):
            part = slice(at, at + size)
            yield owners[part].cpu(), batch.target_ids[part].cpu(), self.model.logits(hidden[part]).float().cpu()

    def _logits(self, hidden: Tensor, delta: Tensor | None) -> Logits:
        """[B, V] from the residual stream's two terms behind the last layer."""
        model = self.model
        normed, _ = model.normed(model.model.norm, hidden, delta)
        return model.logits(normed).float().cpu().numpy()

    @property
    def _device(self) -> torch.device:
        return self.model.model.embed_tokens.weight.device


def _look_back(q_BHD: Tensor, keys_BJSD: Tensor, values_BJSD: Tensor, seen_BS: Tensor, how: Attending) -> Tensor:
    """One query per row over its cached places. Returns [B, H * D]."""
    B, J, _, D = keys_BJSD.shape
    grouped = q_BHD.view(B, J, how.heads // J, D)
    scores = torch.matmul(grouped, keys_BJSD.transpose(2, 3)).float().mul_(how.scale)
    if how.softcap is not None:
        scores = scores.div_(how.softcap).tanh_().mul_(how.softcap)
    scores.masked_fill_(~seen_BS[:, None, None, :], float("-inf"))
    share = torch.softmax(scores, -1).to(q_BHD.dtype)
    return torch.matmul(share, values_BJSD).view(B, how.heads * D)
