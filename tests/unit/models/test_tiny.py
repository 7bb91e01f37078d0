"""Every tiny family loads with plain transformers, is the same each time, and its tokenizer loses nothing."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from oleaster.models.tiny import CHATML, FAMILIES, byte_tokenizer, make_tiny

TOKENIZER = byte_tokenizer()


@pytest.mark.parametrize("family", FAMILIES)
def test_loads_with_plain_transformers_and_answers_finite_logits(family, tmp_path):
    folder = make_tiny(family, tmp_path / family)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("Grüß dich, what is my balance?", return_tensors="pt").input_ids
    logits = model(ids, use_cache=False).logits
    assert model.config.model_type == family
    assert logits.shape == (1, ids.shape[1], len(tokenizer))
    assert torch.isfinite(logits).all()
    assert logits.std() > 0.05
    assert tokenizer.chat_template == CHATML


def test_the_same_seed_gives_the_same_weights_and_leaves_the_random_state_alone(tmp_path):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (
        AutoModelForCausalLM.from_pretrained(make_tiny("llama", tmp_path / name, seed=seed)).state_dict()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["model.norm.weight"], other["model.norm.weight"])


def test_overrides_reach_the_config(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(make_tiny("qwen2", tmp_path, num_hidden_layers=1, vocab_size=300))
    assert len(model.model.layers) == 1
    assert model.get_input_embeddings().weight.shape[0] == 300


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_text_survives_the_byte_tokenizer(text):
    ids = TOKENIZER(text, add_special_tokens=False).input_ids
    assert TOKENIZER.decode(ids) == text
