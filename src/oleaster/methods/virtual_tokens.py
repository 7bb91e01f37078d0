"""Learned tokens in front of every row, computed by the inner model's own code.

PEFT's wrapper does this for its own `forward` and `generate`. Here the inner model (`model.model`, `model.transformer`)
does it for whoever calls it, with a cache or without: a first call meets the learned tokens, a later one goes on from a
cache that holds them. To the caller the rows look as they did: mask, positions and results are those of its tokens.

Shape legend: B rows, L tokens of a row, v learned tokens, C hidden size.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from oleaster.core.errors import ModelError


def prepend_virtual_tokens(model: nn.Module, adapted: Any) -> None:
    """Make `model` put the tokens that `adapted` (a peft.PeftModel over it) learns in front of what it is given.

    Raises: ModelError for models in which a row's distance to its beginning depends on the padding.
    """
    inner: Any = model.base_model
    layers = DynamicCache(config=inner.config).layers
    if any(type(layer) is not DynamicLayer for layer in layers):
        message = "tokens in front of a row are not exact in a model with sliding windows or states"
        raise ModelError(message, where=f"a model of type '{inner.config.model_type}'", remedy="--method lora")
    model.add_module("prompt_encoder", adapted.prompt_encoder)
    learned = _VirtualTokens(adapted, inner)
    inner.register_forward_pre_hook(learned.before, with_kwargs=True)
    inner.register_forward_hook(learned.after, with_kwargs=True)


class _VirtualTokens:
    """The two hooks."""

    def __init__(self, adapted: Any, inner: nn.Module) -> None:
        config = adapted.peft_config["default"]
        self.adapted, self.count = adapted, config.num_virtual_tokens
        self.keys_and_values = config.peft_type == "PREFIX_TUNING"
        self.signature = inspect.signature(inner.forward)
        self.taken = 0
        """Places at the beginning of the result that are learned tokens'."""

    def before(self, inner: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        """What the inner model is given."""
        bound = self.signature.bind_partial(*args, **kwargs).arguments
        given = {name: value for name, value in bound.items() if name != "kwargs" and value is not None}
        given |= bound.get("kwargs", {})
        ids = given.get("input_ids")
        embeds = inner.get_input_embeddings()(ids) if ids is not None else given["inputs_embeds"]
        rows, width = embeds.shape[:2]
        cache: Any = given.get("past_key_values")
        filled = 0 if cache is None else cache.get_seq_length()
        first = filled == 0
        if (mask := given.get("attention_mask")) is not None:
            given["attention_mask"] = torch.cat([mask.new_ones(rows, self.count), mask], dim=1)
        start = 0 if first else filled - self.count
        own = given.get("position_ids", torch.arange(start, start + width, device=embeds.device).expand(rows, -1))
        given["position_ids"] = own + self.count
        self.taken = 0
        if first and self.keys_and_values:
            given["past_key_values"] = self._filled(cache, rows)
        elif first:
            self.taken = self.count
            front = torch.arange(self.count, device=own.device).expand(rows, -1)
            given["position_ids"] = torch.cat([front, given["position_ids"]], dim=1)
            given.pop("input_ids", None)
            prompt = self.adapted.get_prompt(rows).to(embeds.dtype)
            given["inputs_embeds"] = torch.cat([prompt, embeds], dim=1)
        return (), given

    def after(self, inner: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """Takes the learned tokens' places out of the result."""
        if self.taken:
            output.last_hidden_state = output.last_hidden_state[:, self.taken :]
        return output

    def _filled(self, cache: Any, rows: int) -> Any:
        """The caller's empty cache (or a new one) with the learned keys and values in it."""
        learned = self.adapted.get_prompt(rows)
        if cache is None:
            return learned
        for index, layer in enumerate(learned.layers):
            cache.update(layer.keys, layer.values, index)
        return cache
