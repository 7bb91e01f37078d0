"""Full fine-tuning trains everything and its file is the hub's."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from oleaster.core.errors import ConfigError, ModelError
from oleaster.methods import count, get_method, trainable_parameters
from oleaster.methods.full import Full
from oleaster.models.folder import ModelFolder, write_companions
from oleaster.models.load import load_weights
from oleaster.models.sanity import read_shapes
from oleaster.models.tiny import make_tiny


class Section:
    type = "full"


@pytest.mark.parametrize("family", ["llama", "phi3", "gemma2", "gpt2"])
def test_a_trained_model_loads_with_plain_transformers(family, tmp_path):
    folder = make_tiny(family, tmp_path / "base")
    model = load_weights(folder, torch.bfloat16)[0].hub_model
    method = get_method(Section())
    method.attach(model, seed=0)
    trained = trainable_parameters(model)
    assert count(model) == (method.trained_numbers(read_shapes(folder)[0]),) * 2
    assert {p.dtype for p in trained.values()} == {torch.float32}
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(0.01)
    method.save(model, tmp_path / "out", str(folder), "")
    write_companions(ModelFolder("x", folder, ""), tmp_path / "out", {"dtype": "float32"})
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name, parameter in trained.items():
        assert torch.equal(theirs[name], parameter), name
    assert [p.name for p in (tmp_path / "out").iterdir() if p.name.startswith(".")] == []


def test_saved_weights_load_back_bit_for_bit_and_foreign_ones_are_named(tmp_path):
    folder = make_tiny("llama", tmp_path / "base")
    method, model = Full(), load_weights(folder, torch.float32)[0]
    method.attach(model, seed=0)
    with torch.no_grad():
        model.model.norm.weight.add_(1.0)
    method.save(model, tmp_path / "out", "", "")
    again = load_weights(folder, torch.float32)[0]
    method.load(again, tmp_path / "out")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    other = load_weights(make_tiny("llama", tmp_path / "other", intermediate_size=80), torch.float32)[0]
    with pytest.raises(ModelError, match=r"6 problems(?s:.*)\[?\(64, 96\)"):
        method.load(other, tmp_path / "out")
    with pytest.raises(ModelError, match="no model"):
        method.load(again, tmp_path / "nowhere")


def test_an_unknown_method_is_answered_with_the_known_ones():
    class Wrong:
        type = "lorra"

    with pytest.raises(ConfigError, match="did you mean 'lora'"):
        get_method(Wrong())
