"""Any causal language model of transformers behind the loop of `generation.py`.

Shape legend: B rows, S slots of the cache, W columns given to one forward pass, V vocabulary, N targets.
Rows are padded on the left, so that all end in the same slot: two tokens of a row are as far apart in slots as in the
row, which sliding windows need. With a shared prefix the padding lies between the prefix and the rest.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from oleaster.core.errors import ModelError
from oleaster.data.prefix import SHARING_PAYS, common_prefix
from oleaster.inference.choosing import Logits


@dataclass
class CachedBatch:
    """Keys and values of a batch, and which of their slots are real."""

    cache: Any
    """transformers.Cache"""
    mask: Tensor
    """[B, S] int64, 0 at padding; may reach further than what is cached"""
    filled: int = 0
    """Slots that are cached."""


class TransformersBackend:
    """`Backend` over `model(input_ids, attention_mask, position_ids, past_key_values, logits_to_keep)`.

    Args:
        model: a causal language model of transformers; LoRA and other wrapped modules are called as they are.
        logit_elements: most logits that `target_logits` computes at once; the default is 64 MiB in float32.

    Raises:
        ModelError: the model cannot go on from where it was (it takes no `past_key_values`).
    """

    def __init__(self, model: nn.Module, logit_elements: int = 2**24) -> None:
        self.model: Any = model
        self.logit_elements = logit_elements
        self.config = self.model.config.get_text_config(decoder=True)
        self.context: int | None = getattr(self.config, "max_position_embeddings", None)
        accepted = inspect.signature(self.model.forward).parameters
        if "past_key_values" not in accepted:
            family = self.model.config.model_type
            raise ModelError(f"a model of type '{family}' has no key-value cache", remedy="choose another base model")
        self._takes_positions = "position_ids" in accepted
        self._keeps_logits = "logits_to_keep" in accepted
        layers = DynamicCache(config=self.config).layers
        # Recurrent states, attention in chunks and positions counted from the mask are not known to be blind to
        # padding: such models are given rows of one length, in one piece.
        plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
        chunked = getattr(self.config, "attention_chunk_size", None) is not None
        self.pads = plain and not chunked and self._takes_positions
        windows = (layer.sliding_window for layer in layers if isinstance(layer, DynamicSlidingWindowLayer))
        self._window: int | None = min(windows, default=None)

    def prefill(self, prompts: Sequence[Sequence[int]], room: int) -> tuple[Logits, CachedBatch]:
        """See `Backend.prefill`."""
        ids, state = self._start(prompts, min(map(len, prompts)) - 1, room)
        return self._last(ids, state), state

    def step(self, ids: NDArray[np.int64], state: CachedBatch) -> Logits:
        """See `Backend.step`."""
        state.mask = torch.cat([state.mask, state.mask.new_ones(len(ids), 1)], dim=1)
        return self._last(torch.from_numpy(ids)[:, None], state)

    def keep(self, rows: Sequence[int], state: CachedBatch) -> None:
        """See `Backend.keep`."""
        index = torch.tensor(rows)
        state.cache.batch_select_indices(index)
        state.mask = state.mask[index]

    def target_logits(
        self, rows: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """See `TorchBackend.target_logits`."""
        # Nothing is predicted from a row's last target, nor from what follows it.
        used = [row[: marked[-1]] for row, marked in zip(rows, targets, strict=True)]
        ids, state = self._start(used, min(marked[0] for marked in targets) - 1, 0)
        width = ids.shape[1]
        flat = [(r, width - len(used[r]) + t - 1, rows[r][t]) for r, marked in enumerate(targets) for t in marked]
        owner, column, token = torch.tensor(flat).unbind(1)
        wanted = column.unique() if self._keeps_logits else torch.arange(width)
        size = max(1, self.logit_elements // (len(rows) * self.config.vocab_size)) if self.pads else width
        start = 0
        for piece in wanted.split(size):
            end = int(piece[-1]) + 1
            logits = self._forward(ids[:, start:end], state, piece - start)
            inside = (column >= piece[0]) & (column < end)
            place = torch.searchsorted(piece, column[inside])
            yield owner[inside], token[inside], logits[owner[inside], place].float()
            start = end

    def _start(self, rows: Sequence[Sequence[int]], limit: int, room: int) -> tuple[Tensor, CachedBatch]:
        """What remains to be computed (ids [B, W], padded on the left) and a state that holds the common prefix of at
        most `limit` tokens, where sharing it is exact and pays."""
        count, longest = len(rows), max(map(len, rows))
        prefix = common_prefix(rows, limit)
        # The padding behind a shared prefix counts as distance: no sliding window may be shorter than the whole.
        exact = self.pads and (self._window is None or longest + room <= self._window)
        if not exact or prefix * (count - 1) < SHARING_PAYS:
            prefix = 0
        state = CachedBatch(DynamicCache(config=self.config), torch.ones(1, prefix, dtype=torch.int64))
        if prefix:
            self._last(torch.tensor([rows[0][:prefix]]), state)
            state.cache.batch_repeat_interleave(count)
        ids = torch.zeros(count, longest - prefix, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, longest - len(row) :] = torch.tensor(row[prefix:])
            mask[place, longest - len(row) :] = 1
        state.mask = torch.cat([state.mask.expand(count, prefix), mask], dim=1)
        return ids, state

    def _last(self, ids: Tensor, state: CachedBatch) -> Logits:
        """Logits [B, V] behind the last column."""
        return self._forward(ids, state, torch.tensor([ids.shape[1] - 1]))[:, 0].float().numpy()

    def _forward(self, ids: Tensor, state: CachedBatch, columns: Tensor) -> Tensor:
        """Append ids [B, W] to the state. Returns the logits [B, len(columns), V] behind these columns."""
        end = state.filled + ids.shape[1]
        mask = state.mask[:, :end]
        given: dict[str, Any] = {"attention_mask": mask, "past_key_values": state.cache, "use_cache": True}
        if self._takes_positions:
            given["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)[:, state.filled :]
        if self._keeps_logits:
            given["logits_to_keep"] = columns
        logits = self.model(input_ids=ids, **given).logits
        state.filled = end
        return logits if self._keeps_logits else logits[:, columns]
