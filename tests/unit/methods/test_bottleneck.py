"""Bottleneck adapters: the fast engine and transformers' code compute the same, and PEFT knows what it loads."""

import peft
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from oleaster.config.load import load_config
from oleaster.core.errors import ConfigError
from oleaster.data.batch import pack
from oleaster.data.papers import Encoded
from oleaster.methods import get_method, trainable_parameters
from oleaster.models.load import load_weights
from oleaster.models.loaded import BaseNeeds
from oleaster.models.tiny import make_tiny

ROWS = [Encoded((1, 60, 70, 80, 2), (3, 4), 3, 0), Encoded((1, 60, 70, 80, 90, 91, 2), (5, 6), 5, 1)]
FAMILIES = ("llama", "phi3", "gemma3_text")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {family: make_tiny(family, root / family) for family in (*FAMILIES, "gpt2")}


def method_of(**settings):
    return get_method(load_config(None, {"method": "adapter", "reduction_factor": 8, **settings}).method)


def attached(folder, method, needs=None):
    model, _ = load_weights(folder, torch.float32, needs=needs or method.needs)
    method.attach(model.hub_model, seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in trainable_parameters(model).values():  # as after some training
        parameter.data.normal_(0, 0.3, generator=generator)
    return model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_the_fast_engine_computes_what_transformers_computes(family, activation, folders):
    method = method_of(non_linearity=activation)
    fast = attached(folders[family], method)
    plain = attached(folders[family], method, BaseNeeds(generic="to compare"))
    found, expected = fast.target_hidden(pack(ROWS)), plain.target_hidden(pack(ROWS))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    found.square().mean().backward()
    expected.square().mean().backward()
    of_plain = trainable_parameters(plain.hub_model)
    for name, parameter in trainable_parameters(fast).items():
        torch.testing.assert_close(parameter.grad, of_plain[name].grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("family", "placement", "where"),
    [
        ("llama", "both", {"self_attn.o_proj", "mlp.down_proj"}),
        ("llama", "attention", {"self_attn.o_proj"}),
        ("llama", "mlp", {"mlp.down_proj"}),
        ("gpt2", "both", {"attn.c_proj", "mlp.c_proj"}),
        ("gpt2", "mlp", {"mlp.c_proj"}),
    ],
)
def test_it_stands_where_it_is_placed(family, placement, where, folders):
    model, _ = load_weights(folders[family], torch.float32)
    method_of(adapter_placement=placement).attach(model.hub_model, seed=0)
    names = {".".join(name.split(".bottleneck_")[0].split(".")[-2:]) for name in trainable_parameters(model)}
    assert names == where


def test_a_model_with_other_names_is_refused(folders):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    with pytest.raises(ConfigError, match=r"not known by name(?s:.*)--method lora"):
        method_of().attach(model, seed=0)


def test_peft_switches_between_what_we_trained(folders, tmp_path):
    """PEFT holds two of our adapters on one model, switches, and takes them off."""
    ids = torch.tensor([[1, 60, 70, 80]])
    answers = {}
    for name, placement in (("one", "both"), ("other", "mlp")):
        method = method_of(adapter_placement=placement)
        model = attached(folders["llama"], method, BaseNeeds(generic="to compare"))
        answers[name] = model.hub_model(ids).logits
        method.save(model.hub_model, tmp_path / name, "base", "")
    plain = AutoModelForCausalLM.from_pretrained(folders["llama"], dtype=torch.float32)
    alone = plain(ids).logits
    both = PeftModel.from_pretrained(plain, tmp_path / "one", adapter_name="one")
    both.load_adapter(tmp_path / "other", "other")
    for name, expected in answers.items():
        both.set_adapter(name)
        torch.testing.assert_close(both(ids).logits, expected, atol=1e-5, rtol=1e-5)
    with both.disable_adapter():
        torch.testing.assert_close(both(ids).logits, alone)
    with pytest.raises(ValueError, match="cannot be merged"):
        both.merge_and_unload()
    assert peft.get_peft_model_state_dict(both, adapter_name="one").keys()
