"""What LoRA promises by itself: identity at the start, exact paths, and an answer for every wrong name."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForCausalLM

from oleaster.config.methods import LoraConfig
from oleaster.core.errors import ConfigError, ModelError
from oleaster.methods import attach_saved, count, get_method, trainable_parameters
from oleaster.methods.lora import Lora, LoraLinear, attached
from oleaster.models.load import load_weights
from oleaster.models.tiny import FAMILIES, make_tiny

IDS = torch.tensor([[1, 60, 70, 80, 90, 100, 2, 30]])


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_tiny("llama", tmp_path_factory.mktemp("llama"))


def plain(folder, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_an_attached_model_starts_as_the_base_and_trains_only_the_adapters(family, tmp_path):
    model = plain(make_tiny(family, tmp_path))
    before = model(IDS, use_cache=False).logits
    Lora(r=2, alpha=4).attach(model, seed=0)
    torch.testing.assert_close(model(IDS, use_cache=False).logits, before, atol=0, rtol=0)
    names = trainable_parameters(model)
    assert {name.rpartition(".")[2] for name in names} == {"lora_A", "lora_B"}
    assert count(model)[0] == sum(p.numel() for p in names.values()) > 0


def test_the_layer_stands_at_the_old_path_and_equals_its_formula(llama):
    model = plain(llama)
    base = model.model.layers[0].self_attn.q_proj
    Lora(r=3, alpha=6).attach(model, seed=0)
    layer = model.model.layers[0].self_attn.q_proj
    assert isinstance(layer, LoraLinear)
    assert layer.base is base
    nn.init.normal_(layer.lora_B)
    x = torch.randn(5, 64)
    torch.testing.assert_close(layer(x), x @ (base.weight + 2.0 * layer.lora_B @ layer.lora_A).T, atol=1e-4, rtol=1e-4)


@given(st.integers(1, 64), st.floats(0.1, 100), st.booleans())
def test_the_scale_is_alpha_over_the_rank_or_its_root(rank, alpha, rslora):
    scale = Lora(r=rank, alpha=alpha, use_rslora=rslora).scaling_of("any.path")
    assert scale * (rank**0.5 if rslora else rank) == pytest.approx(alpha)


def test_a_seed_fixes_the_start(llama):
    starts = []
    for seed in (1, 1, 2):
        model = plain(llama)
        Lora(r=2, alpha=4).attach(model, seed)
        starts.append(torch.cat([layer.lora_A.flatten() for layer in attached(model).values()]))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_dropout_acts_while_training_only(llama):
    model = plain(llama)
    Lora(r=2, alpha=4, dropout=0.5).attach(model, seed=0)
    layer = attached(model)["model.layers.0.mlp.up_proj"]
    nn.init.normal_(layer.lora_B)
    x = torch.randn(4, 64)
    assert torch.equal(layer(x), layer(x))
    layer.train()
    assert not torch.equal(layer(x), layer(x))


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["q_proj", "v_proj"], {"self_attn.q_proj", "self_attn.v_proj"}),
        (["self_attn.q_proj"], {"self_attn.q_proj"}),
        (r".*mlp\.(up|gate)_proj", {"mlp.up_proj", "mlp.gate_proj"}),
        ("down_proj", {"mlp.down_proj"}),
    ],
)
def test_targets_by_name_and_by_expression(targets, expected, llama):
    model = plain(llama)
    Lora(r=2, alpha=4, target_modules=targets).attach(model, seed=0)
    assert set(attached(model)) == {f"model.layers.{i}.{name}" for i in (0, 1) for name in expected}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": ["q_porj", "v_proj", "nonsense"]}, r"no linear layer 'q_porj'[^-]*-> use one of: q_proj"),
        ({"target_modules": ["q_porj", "nonsense"]}, "(?s)2 problems.*q_porj.*nonsense"),
        ({"target_modules": "query"}, "no linear layer 'query'"),
        ({"target_modules": "*proj"}, "no regular expression"),
        ({"target_modules": ["lm_head"]}, "shares its weight with the embedding"),
        ({"modules_to_save": ["embed_token"]}, "no module 'embed_token'[^-]*-> use one of: embed_tokens"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["self_attn"]}, "trained whole already"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_ones_and_changes_nothing(settings, message, llama):
    model = plain(llama)
    with pytest.raises(ConfigError, match=message):
        Lora(r=2, alpha=4, **settings).attach(model, seed=0)
    assert not attached(model)
    assert all(p.requires_grad for p in model.parameters())


def test_all_linear_leaves_out_what_is_trained_whole(llama):
    model = plain(llama)
    Lora(r=2, alpha=4, modules_to_save=["mlp"]).attach(model, seed=0)
    assert not any("mlp" in path for path in attached(model))
    assert model.model.layers[1].mlp.up_proj.weight.requires_grad


def test_whole_modules_need_a_float32_base(llama):
    method = Lora(r=2, alpha=4, modules_to_save=["norm"])
    assert method.needs.trained
    with pytest.raises(ConfigError, match="must be float32"):
        method.attach(plain(llama, torch.bfloat16), seed=0)


def test_adapters_stay_float32_on_a_bfloat16_base_and_merge_is_rounded_once(llama):
    model = plain(llama, torch.bfloat16)
    Lora(r=2, alpha=4).attach(model, seed=0)
    layers = attached(model)
    for layer in layers.values():
        nn.init.normal_(layer.lora_B)
    assert {p.dtype for p in trainable_parameters(model).values()} == {torch.float32}
    assert model(IDS, use_cache=False).logits.dtype == torch.bfloat16
    layer = layers["model.layers.1.self_attn.o_proj"]
    expected = (layer.base.weight.float() + layer.delta()).bfloat16()
    Lora(r=2, alpha=4).merge(model)
    assert torch.equal(model.model.layers[1].self_attn.o_proj.weight, expected)
    assert not attached(model)


def test_merging_into_another_type_is_refused_and_changes_nothing(llama):
    model = plain(llama)
    Lora(r=2, alpha=4).attach(model, seed=0)
    model.half()
    with pytest.raises(ModelError, match=r"torch.float16; merging into it would lose"):
        Lora(r=2, alpha=4).merge(model)
    assert attached(model)


def test_a_damaged_or_foreign_adapter_is_named(llama, tmp_path):
    method = Lora(r=2, alpha=4)
    model = plain(llama)
    method.attach(model, seed=0)
    method.save(model, tmp_path, "base", "rev")
    with pytest.raises(ModelError, match=r"no adapter_config\.json here"):
        Lora.from_folder(tmp_path / "nowhere")
    smaller = plain(make_tiny("llama", tmp_path / "one", num_hidden_layers=1))
    with pytest.raises(ModelError, match="does not fit this model"):
        attach_saved(smaller, tmp_path)
    other = plain(llama)
    Lora(r=3, alpha=6).attach(other, seed=0)
    with pytest.raises(ModelError, match=r"has shape \[2, 64\], the model \[3, 64\]"):
        method.load(other, tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="damaged"):
        method.load(model, tmp_path)


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2"])
def test_it_works_on_the_engines_own_model(family, tmp_path):
    folder = make_tiny(family, tmp_path / "base")
    model, _ = load_weights(folder, torch.float32)
    method = get_method(LoraConfig(lora_r=2))
    method.attach(model.hub_model, seed=0)
    for layer in attached(model.hub_model).values():
        nn.init.normal_(layer.lora_B)
    method.save(model.hub_model, tmp_path / "adapter", str(folder), "rev")
    hub = plain(folder)
    attach_saved(hub, tmp_path / "adapter")
    assert set(attached(hub)) == set(attached(model.hub_model))
    method.merge(hub)
    method.merge(model.hub_model)
    for name, tensor in model.hub_model.state_dict().items():
        assert torch.equal(tensor, hub.state_dict()[name]), name
