"""QLoRA: NF4 as bitsandbytes rounds, a plain LoRA as the result."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from oleaster.config.load import load_config
from oleaster.methods import attach_saved, get_method, trainable_parameters
from oleaster.methods.lora import Lora, attached
from oleaster.models.load import load_weights
from oleaster.models.nf4 import BLOCK, LEVELS, round_to_nf4
from oleaster.models.tiny import make_tiny


def test_every_number_goes_to_the_nearest_level_of_its_block():
    weight = torch.randn(6, 96)
    scale = weight.flatten().view(-1, BLOCK).abs().amax(1, keepdim=True)
    choices = scale[..., None] * torch.tensor(LEVELS)
    nearest = (weight.flatten().view(-1, BLOCK, 1) - choices).abs().argmin(-1, keepdim=True)
    expected = choices.expand(-1, BLOCK, -1).gather(-1, nearest).view(6, 96)
    torch.testing.assert_close(round_to_nf4(weight), expected, atol=1e-7, rtol=0)
    assert torch.equal(round_to_nf4(torch.zeros(3, 7)), torch.zeros(3, 7))


def test_it_is_what_bitsandbytes_rounds_to():
    functional = pytest.importorskip("bitsandbytes").functional
    weight = torch.randn(64, 128)
    packed, state = functional.quantize_4bit(weight, quant_type="nf4", blocksize=BLOCK, compress_statistics=False)
    torch.testing.assert_close(round_to_nf4(weight), functional.dequantize_4bit(packed, state), atol=1e-6, rtol=0)


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
        assert torch.equal(layer.base.weight, round_to_nf4(attached(whole)[path].base.weight))
        torch.nn.init.normal_(layer.lora_B)
    assert {name.rpartition(".")[2] for name in trainable_parameters(model)} == {"lora_A", "lora_B"}
    method.save(model, tmp_path / "adapter", str(folder), "")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    attach_saved(plain, tmp_path / "adapter").merge(plain)
    path, layer = next(iter(attached(model).items()))
    base = attached(whole)[path].base.weight
    delta = layer.delta() if family == "llama" else layer.delta().T
    torch.testing.assert_close(plain.get_submodule(path).weight, base + delta)
