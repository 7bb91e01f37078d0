"""QLoRA: NF4 as bitsandbytes rounds, a plain LoRA as the result."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from oleaster.config.load import load_config
from oleaster.core.errors import ModelError
from oleaster.data.batch import pack
from oleaster.data.papers import Encoded
from oleaster.methods import attach_saved, count, get_method, trainable_parameters
from oleaster.methods.lora import Lora, attached
from oleaster.methods.targets import linear_modules
from oleaster.models.kernels.reference import NF4_LEVELS
from oleaster.models.load import load_weights
from oleaster.models.nf4 import BLOCK, Nf4Linear, pack_nf4, round_to_nf4
from oleaster.models.tiny import make_tiny

ROWS = [Encoded((1, 60, 70, 80, 2), (3, 4), 3, 0), Encoded((1, 60, 70, 80, 90, 91, 2), (5, 6), 5, 1)]


def test_every_number_goes_to_the_nearest_level_of_its_block():
    weight = torch.randn(6, 96)
    scale = weight.flatten().view(-1, BLOCK).abs().amax(1, keepdim=True)
    choices = scale[..., None] * torch.tensor(NF4_LEVELS)
    nearest = (weight.flatten().view(-1, BLOCK, 1) - choices).abs().argmin(-1, keepdim=True)
    expected = choices.expand(-1, BLOCK, -1).gather(-1, nearest).view(6, 96)
    torch.testing.assert_close(round_to_nf4(weight), expected, atol=1e-7, rtol=0)
    assert torch.equal(round_to_nf4(torch.zeros(3, 7)), torch.zeros(3, 7))


def test_it_is_what_bitsandbytes_rounds_to():
    functional = pytest.importorskip("bitsandbytes").functional
    weight = torch.randn(64, 128)
    packed, state = functional.quantize_4bit(weight, quant_type="nf4", blocksize=BLOCK, compress_statistics=False)
    torch.testing.assert_close(round_to_nf4(weight), functional.dequantize_4bit(packed, state), atol=1e-6, rtol=0)
    codes, scales = pack_nf4(weight)
    assert torch.equal(codes, packed.flatten())
    torch.testing.assert_close(scales, state.absmax)


def held_in_4_bits(model):
    return {path: module for path, module in model.named_modules() if isinstance(module, Nf4Linear)}


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2"])
def test_every_frozen_linear_layer_is_held_in_4_bits(family, tmp_path):
    folder = make_tiny(family, tmp_path / "base")
    method = get_method(load_config(None, {"method": "qlora", "target_modules": LAST[family]}).method)
    model, _ = load_weights(folder, torch.float32, needs=method.needs)
    hub = model.hub_model
    method.attach(hub, seed=0)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    linears = {path: module for path, module in linear_modules(plain).items() if path != "lm_head"}
    packed = {path.removesuffix(".base"): module for path, module in held_in_4_bits(hub).items()}
    assert packed.keys() == linears.keys()
    for path, layer in packed.items():
        rounded = round_to_nf4(linears[path].weight)
        assert torch.equal(layer.numbers(torch.float32), rounded.T if family == "gpt2" else rounded)
        assert layer.codes.numel() <= rounded.numel() / 2 + BLOCK
    assert count(hub)[1] == count(plain)[1] + count(hub)[0]


LAST = {"llama": "down_proj", "phi3": "o_proj", "gpt2": "c_fc"}


@pytest.mark.parametrize("family", ["llama", "phi3", "qwen2", "gpt2"])
def test_it_computes_what_a_rounded_base_computes(family, tmp_path):
    """Loss and gradients over codes, in the fast engine and in transformers' code, against plain rounded weights."""
    folder = make_tiny(family, tmp_path / "base")
    method = get_method(load_config(None, {"method": "qlora", "lora_r": 2}).method)
    packed, _ = load_weights(folder, torch.float32, needs=method.needs)
    plain, _ = load_weights(folder, torch.float32)
    method.attach(packed.hub_model, seed=0)
    Lora(r=2, alpha=4).attach(plain.hub_model, seed=0)
    for layer in attached(plain.hub_model).values():
        layer.base.weight = torch.nn.Parameter(round_to_nf4(layer.base.weight), requires_grad=False)
    for model in (packed, plain):
        generator = torch.Generator().manual_seed(1)
        for layer in attached(model.hub_model).values():
            layer.lora_B.data.normal_(generator=generator)
        model.train().target_hidden(pack(ROWS)).square().mean().backward()
    expected = trainable_parameters(plain.hub_model)
    for name, parameter in trainable_parameters(packed.hub_model).items():
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-6, rtol=1e-4)


def test_what_is_held_in_4_bits_is_not_merged_into(tmp_path):
    model, _ = load_weights(make_tiny("llama", tmp_path / "base"), torch.float32)
    method = get_method(load_config(None, {"method": "qlora"}).method)
    method.attach(model.hub_model, seed=0)
    with pytest.raises(ModelError, match=r"held as 4 bits(?s:.*)load the base in float32"):
        method.merge(model.hub_model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 5), (64, 128), (7, 96)])
def test_numbers_come_back_in_either_type(shape, dtype):
    weight = torch.randn(shape)
    layer = Nf4Linear(weight, None)
    torch.testing.assert_close(layer.numbers(dtype), round_to_nf4(weight).to(dtype), atol=1e-7, rtol=2**-8)
    assert layer.numbers(dtype).dtype == dtype


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_base_is_rounded_and_the_adapter_is_a_plain_lora(family, tmp_path):
    folder = make_tiny(family, tmp_path / "base")
    whole = load_weights(folder, torch.float32)[0].hub_model
    model = load_weights(folder, torch.float32)[0].hub_model
    shared = {name: p.detach().clone() for name, p in model.named_parameters()}
    first = dict(model.named_parameters())
    method = get_method(load_config(None, {"method": "qlora", "lora_r": 2}).method)
    method.attach(model, seed=0)
    Lora(r=2, alpha=4).attach(whole, seed=0)
    assert all(torch.equal(first[name], tensor) for name, tensor in shared.items())
    for path, layer in attached(model).items():
        rounded = round_to_nf4(attached(whole)[path].base.weight)
        assert torch.equal(layer.base.numbers(torch.float32), rounded if family == "llama" else rounded.T)
        torch.nn.init.normal_(layer.lora_B)
    assert {name.rpartition(".")[2] for name in trainable_parameters(model)} == {"lora_A", "lora_B"}
    method.save(model, tmp_path / "adapter", str(folder), "")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    attach_saved(plain, tmp_path / "adapter").merge(plain)
    path, layer = next(iter(attached(model).items()))
    base = attached(whole)[path].base.weight
    delta = layer.delta() if family == "llama" else layer.delta().T
    torch.testing.assert_close(plain.get_submodule(path).weight, base + delta)
