"""Any other causal language model, on transformers' own code and padded rows.

Slower, and exact for every architecture: each row is computed as transformers computes it. The logits still are only
made where there is a target, if the model's head is a plain matrix; `Generic` finds that out by comparing once.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oleaster.data.batch import Batch


class Generic(nn.Module):
    """A transformers causal language model behind the interface of `decoder.Decoder`.

    Args:
        headed: it is one with a head of labels; `target_hidden` gives the states that the head reads.
    """

    def __init__(self, causal_lm: Any, headed: bool = False) -> None:
        super().__init__()
        self.causal_lm = causal_lm
        self.neftune_noise_alpha: float | None = None
        self.plain_head = headed or self._head_is_plain()

    @property
    def hub_model(self) -> nn.Module:
        """The module whose parameters carry transformers' names."""
        return self.causal_lm

    @property
    def gradient_checkpointing(self) -> bool:
        return self.causal_lm.is_gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, on: bool) -> None:
        if on:
            self.causal_lm.gradient_checkpointing_enable({"use_reentrant": False})

    def head(self) -> tuple[Tensor | None, float | None]:
        """(weight [V, C] or None when `target_hidden` already gives logits, no soft cap)"""
        return (self.causal_lm.get_output_embeddings().weight, None) if self.plain_head else (None, None)

    def target_hidden(self, batch: Batch) -> Tensor:
        """[M, C] hidden states that predict the targets, or [M, V] logits where the head is not a plain matrix."""
        ids, mask = pad_rows(list(batch.unpacked()))
        inputs = {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0), "use_cache": False}
        if self.training and self.neftune_noise_alpha:
            embeds = self.causal_lm.get_input_embeddings()(ids)
            size = self.neftune_noise_alpha / (mask.sum(-1, keepdim=True) * embeds.shape[-1]).sqrt()
            noise = torch.empty_like(embeds).uniform_(-1.0, 1.0) * size[..., None] * mask[..., None]
            inputs["inputs_embeds"] = embeds + noise.to(embeds.dtype)
        else:
            inputs["input_ids"] = ids
        if self.plain_head:
            states = self.causal_lm.base_model(**inputs).last_hidden_state
        else:
            states = self.causal_lm(**inputs).logits
        return states[batch.target_rows, self._columns(batch)]

    @staticmethod
    def _columns(batch: Batch) -> Tensor:
        """[M] place of each target's predecessor in its own row."""
        return batch.positions[batch.target_sources]

    @torch.no_grad()
    def _head_is_plain(self) -> bool:
        head = self.causal_lm.get_output_embeddings()
        if head is None or getattr(head, "bias", None) is not None:
            return False
        ids = torch.tensor([[0, 1]], device=self.causal_lm.device)
        states = self.causal_lm.base_model(input_ids=ids, use_cache=False).last_hidden_state
        logits = self.causal_lm(input_ids=ids, use_cache=False).logits
        return torch.allclose(F.linear(states, head.weight).float(), logits.float(), rtol=1e-3, atol=1e-3)


def pad_rows(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(ids [B, L] padded on the right with 0, mask [B, L] int64)"""
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows], device=ids.device)
    return ids, (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()
