"""Starts of LoRA other than zero: PEFT's numbers, the base's answers, and a plain adapter as the result."""

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from oleaster.config.load import load_config
from oleaster.config.rules import check_together
from oleaster.core.errors import ConfigError
from oleaster.methods import attach_saved, get_method, trainable_parameters
from oleaster.methods.lora import attached
from oleaster.models.load import load_weights
from oleaster.models.nf4 import round_to_nf4
from oleaster.models.tiny import make_tiny

IDS = torch.tensor([[1, 60, 70, 80, 90, 100, 2, 30]])
CHANGING = ("pissa", "pissa_niter_16", "olora")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {family: make_tiny(family, root / family) for family in ("llama", "gpt2")}


def plain(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model):
    with torch.no_grad():
        return model(IDS, use_cache=False).logits


def method_of(start, method="lora", **settings):
    chosen = {"method": method, "lora_r": 4, "lora_alpha": 12, "init_lora_weights": start, **settings}
    return get_method(load_config(None, chosen).method)


def train_a_little(model):
    generator = torch.Generator().manual_seed(3)
    for parameter in trainable_parameters(model).values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("start", [*CHANGING, "gaussian"])
def test_the_model_begins_as_the_base_and_the_base_of_others_stays(start, family, folders):
    model = plain(folders[family])
    before = {name: (p, p.detach().clone()) for name, p in model.named_parameters()}
    method_of(start).attach(model, seed=0)
    torch.testing.assert_close(logits(model), logits(plain(folders[family])), atol=1e-4, rtol=1e-4)
    assert all(torch.equal(parameter, copy) for parameter, copy in before.values())
    layer = next(iter(attached(model).values()))
    assert (layer.lora_B.norm() > 0) == (start in CHANGING)


@pytest.mark.parametrize(
    ("start", "family"),
    [("pissa", "llama"), ("pissa", "gpt2"), ("olora", "llama")],  # PEFT's OLoRA fails on GPT-2's [in, out] weights
)
def test_numbers_are_pefts(start, family, folders):
    ours, theirs = plain(folders[family]), plain(folders[family])
    method_of(start).attach(ours, seed=0)
    config = peft.LoraConfig(
        r=4, lora_alpha=12, init_lora_weights=start, target_modules="all-linear", fan_in_fan_out=family == "gpt2"
    )
    wrapped = peft.get_peft_model(theirs, config)
    for path, layer in attached(ours).items():
        other = wrapped.get_submodule(f"base_model.model.{path}")
        product = other.lora_B["default"].weight @ other.lora_A["default"].weight
        torch.testing.assert_close(layer.lora_B @ layer.lora_A, product, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(layer.base.weight, other.base_layer.weight, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("start", CHANGING)
@pytest.mark.parametrize("rslora", [False, True])
def test_what_is_saved_is_a_plain_lora_of_the_hubs_weight(start, family, rslora, folders, tmp_path):
    method, model = method_of(start, use_rslora=rslora), plain(folders[family])
    method.attach(model, seed=0)
    train_a_little(model)
    expected = logits(model)
    method.save(model, tmp_path, str(folders[family]), "")
    theirs = peft.PeftModel.from_pretrained(plain(folders[family]), tmp_path)
    assert (expected - logits(plain(folders[family]))).abs().max() > 0.1
    torch.testing.assert_close(logits(theirs), expected, atol=1e-4, rtol=1e-4)
    fresh = plain(folders[family])
    attach_saved(fresh, tmp_path).merge(fresh)
    torch.testing.assert_close(logits(fresh), expected, atol=1e-4, rtol=1e-4)
    again = plain(folders[family])
    method.attach(again, seed=0)
    method.load(again, tmp_path)
    torch.testing.assert_close(logits(again), expected, atol=1e-4, rtol=1e-4)
    method.merge(model)
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_loftq_begins_nearer_to_the_full_base_than_rounding_alone(family, folders):
    whole, model = plain(folders[family]), plain(folders[family])
    method_of("loftq", "qlora").attach(model, seed=0)
    for path, layer in attached(model).items():
        weight = whole.get_submodule(path).weight
        held = layer.base.numbers(torch.float32) + layer.delta()
        held = held.T if family == "gpt2" else held
        assert (weight - held).norm() < 0.95 * (weight - round_to_nf4(weight)).norm()


def test_a_rank_above_the_layers_is_refused_before_anything_changes(folders):
    model = plain(folders["llama"])
    with pytest.raises(ConfigError, match=r"k_proj' has 32 rows(?s:.*)at most 32"):
        method_of("pissa", lora_r=40).attach(model, seed=0)
    assert not attached(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_start_survives_a_bfloat16_base(folders):
    model, _ = load_weights(folders["llama"], torch.bfloat16)
    method_of("pissa").attach(model, seed=0)
    layer = next(iter(attached(model).values()))
    assert layer.base.weight.dtype == torch.bfloat16
    assert layer.lora_A.dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"init_lora_weights": "loftq"}, "lora rounds nothing(?s:.*)--method qlora"),
        ({"init_lora_weights": "olora", "use_dora": True}, "DoRA cannot be saved as a plain adapter"),
        ({"method": "qlora", "use_dora": True}, "--use_dora: a setting of the method lora"),
        ({"init_lora_weights": "eva"}, "true, gaussian, pissa"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        load_config(None, settings)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"init_lora_weights": "pissa"}])
def test_adapters_that_change_the_base_are_not_trained_together(settings, tmp_path):
    plain_one = load_config(None, {"output_path": tmp_path / "a"})
    with pytest.raises(ConfigError, match="weights of the base would change under the others"):
        check_together([plain_one, load_config(None, {"output_path": tmp_path / "b", **settings})])


def test_true_is_a_word_however_yaml_and_peft_write_it(tmp_path):
    (tmp_path / "recipe.yaml").write_text("method: {init_lora_weights: true}\n")
    assert load_config(tmp_path / "recipe.yaml").method == load_config(None, {"init_lora_weights": "True"}).method
