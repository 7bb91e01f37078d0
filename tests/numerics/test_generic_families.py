"""Families that our decoder does not know run on transformers' code and are exact too: odd heads, positions, scales."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from plain_reference import add_lora, both, largest_difference, our_backward, plain_loss, random_rows
from transformers import AutoConfig, AutoModelForCausalLM

from oleaster.models.generic import Generic

COMMON = {"vocab_size": 260, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
MODELS: dict[str, dict[str, Any]] = {
    "opt": {"ffn_dim": 64, "max_position_embeddings": 128, "word_embed_proj_dim": 32, "dropout": 0.0},
    "gpt_neox": {"intermediate_size": 64, "rotary_pct": 0.5},
    "stablelm": {"intermediate_size": 64, "num_key_value_heads": 2, "partial_rotary_factor": 0.5},
    "bloom": {"n_head": 4, "n_layer": 2},  # positions by a bias on the scores: takes no position_ids
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},  # the head has a bias
    "granite": {"intermediate_size": 64, "num_key_value_heads": 2, "logits_scaling": 4.0},  # logits are divided
    "cohere": {"intermediate_size": 64, "num_key_value_heads": 2, "logit_scale": 0.25},  # logits are multiplied
}


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("shared", [0, 9])
def test_loss_and_every_gradient(name, shared, tmp_path):
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{**COMMON, "initializer_range": 0.1, **MODELS[name]})
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().save_pretrained(tmp_path)
    model, reference = both(tmp_path)
    assert isinstance(model, Generic)
    ours, theirs = add_lora(model.hub_model), add_lora(reference.eval())
    rows = random_rows(seed=1, shared=shared)
    expected = plain_loss(reference, rows)
    expected.backward()
    assert our_backward(model, rows) == pytest.approx(expected.item(), abs=1e-5)
    worst, where = largest_difference(ours, theirs)
    assert worst < 2e-5, where
