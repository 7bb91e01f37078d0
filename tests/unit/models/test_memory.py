"""The arithmetic against what the decoder really keeps for its backward pass."""

import pytest
import torch

from oleaster.config.methods import LoraConfig
from oleaster.data.batch import pack
from oleaster.data.papers import Encoded
from oleaster.methods import count, get_method
from oleaster.models.folder import ModelFolder
from oleaster.models.load import load_weights
from oleaster.models.loaded import BaseNeeds
from oleaster.models.memory import estimate, kept_per_token
from oleaster.models.sanity import read_shapes
from oleaster.models.tiny import make_tiny

ROWS, LENGTH = 16, 60


def kept_bytes(model) -> tuple[int, int]:
    """(bytes of all tensors saved by one forward pass that are not weights, tokens of the batch)"""
    rows = [
        Encoded(tuple((7 * i + j * j) % 200 + 5 for j in range(LENGTH)), (LENGTH - 1,), LENGTH - 1, i)
        for i in range(ROWS)
    ]
    batch = pack(rows)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved = {}

    def keep(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train().target_hidden(batch)
    return sum(t.untyped_storage().nbytes() for p, t in saved.items() if p not in own), batch.ids.numel()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3"])
def test_activations_are_what_the_decoder_keeps(family, checkpointing, tmp_path):
    shape = {"num_hidden_layers": 6, "hidden_size": 128, "intermediate_size": 384, "head_dim": 32}
    folder = make_tiny(family, tmp_path, **shape)
    model = load_weights(folder, torch.float32)[0]
    method = get_method(LoraConfig(lora_r=4))
    method.attach(model.hub_model, seed=0)
    model.gradient_checkpointing = checkpointing
    measured, tokens = kept_bytes(model)
    shapes, config = read_shapes(folder)[0], ModelFolder("", folder, "").config()
    trained = method.trained_numbers(shapes)
    memory = estimate(
        config, shapes, trained=trained, tokens=tokens, longest=LENGTH, rank=4, gradient_checkpointing=checkpointing
    )
    assert trained == count(model.hub_model)[0]
    assert memory.weights == 4 * sum(p.numel() for p in model.parameters() if not p.requires_grad)
    recomputed = 4 * tokens * kept_per_token(config, LENGTH, 4) if checkpointing else 0  # one layer at a time, later
    assert memory.activations - recomputed == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize(
    ("settings", "family"), [({"modules_to_save": ["norm"]}, "llama"), ({"target_modules": ["c_attn"]}, "gpt2")]
)
def test_trained_numbers_are_those_of_the_attached_model(settings, family, tmp_path):
    folder = make_tiny(family, tmp_path)
    model = load_weights(folder, torch.float32)[0].hub_model
    method = get_method(LoraConfig(lora_r=3, **settings))
    method.attach(model, seed=0)
    assert method.trained_numbers(read_shapes(folder)[0]) == count(model)[0]


def test_training_all_of_it_counts_the_weights_once():
    shapes = {"a": (100, 10), "b": (10,)}
    config = {
        "hidden_size": 10,
        "num_attention_heads": 2,
        "intermediate_size": 20,
        "num_hidden_layers": 1,
        "vocab_size": 100,
    }
    memory = estimate(config, shapes, trained=1010, tokens=1, longest=1, weight_bytes=2)
    assert (memory.weights, memory.trained) == (0, 16 * 1010)
    assert memory.total == memory.trained + memory.activations + memory.logits + memory.runtime


@pytest.mark.parametrize("family", ["llama", "phi3", "qwen3"])
def test_a_base_in_4_bits_weighs_what_the_arithmetic_says(family, tmp_path):
    folder = make_tiny(family, tmp_path)
    model = load_weights(folder, torch.bfloat16, needs=BaseNeeds(nf4=True))[0]
    held = {t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}
    config, shapes = ModelFolder("", folder, "").config(), read_shapes(folder)[0]
    memory = estimate(config, shapes, trained=0, tokens=1, longest=1, weight_bytes=2, nf4=True)
    assert memory.weights == pytest.approx(sum(held.values()), rel=0.01)
