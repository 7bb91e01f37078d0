"""Our LoRA against PEFT, tensor for tensor and file for file."""

import json

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from oleaster.core.errors import ModelError
from oleaster.methods import attach_saved
from oleaster.methods.lora import Lora, attached
from oleaster.models.tiny import make_tiny

FAMILIES = ("llama", "gpt2", "phi3")
IDS = torch.tensor([[1, 60, 70, 80, 90, 100, 2, 30], [1, 33, 44, 55, 66, 77, 88, 99]])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    return {family: make_tiny(family, root / family) for family in FAMILIES}


def plain(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def logits(model):
    with torch.no_grad():
        return model(IDS, use_cache=False).logits


def shake(model):
    """Give every trained tensor a value of its own, as training would."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def tuned(folder, method):
    model = plain(folder)
    method.attach(model, seed=1)
    shake(model)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_reads_what_we_write_and_gives_the_same_logits(family, folders, tmp_path):
    method = Lora(r=4, alpha=10, use_rslora=True)
    model = tuned(folders[family], method)
    method.save(model, tmp_path, base=str(folders[family]), revision="abc")
    theirs = peft.PeftModel.from_pretrained(plain(folders[family]), tmp_path)
    assert (logits(model) - logits(plain(folders[family]))).abs().max() > 0.1
    torch.testing.assert_close(logits(theirs), logits(model), atol=1e-5, rtol=1e-5)
    assert theirs.peft_config["default"].revision == "abc"


@pytest.mark.parametrize("family", FAMILIES)
def test_we_read_what_peft_writes(family, folders, tmp_path):
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        lora_dropout=0.3,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        rank_pattern={r".*\.0\..*": 2, "c_fc": 3},
        alpha_pattern={"o_proj": 20, "c_proj": 20},
    )
    theirs = peft.get_peft_model(plain(folders[family]), config)
    shake(theirs)
    theirs.eval().save_pretrained(tmp_path)
    ours = plain(folders[family])
    attach_saved(ours, tmp_path)
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=1e-5)
    assert len({layer.lora_A.shape[0] for layer in attached(ours).values()}) > 1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_modules_and_the_same_files_as_peft(family, folders, tmp_path):
    theirs = peft.get_peft_model(
        plain(folders[family]), peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    theirs.save_pretrained(tmp_path / "theirs")
    method = Lora(r=4, alpha=8)
    method.save(tuned(folders[family], method), tmp_path / "ours", str(folders[family]), "abc")
    ours, theirs = (load_file(tmp_path / who / "adapter_model.safetensors") for who in ("ours", "theirs"))
    assert {k: (v.shape, v.dtype) for k, v in ours.items()} == {k: (v.shape, v.dtype) for k, v in theirs.items()}
    ours, theirs = (json.loads((tmp_path / who / "adapter_config.json").read_text()) for who in ("ours", "theirs"))
    differing = {key for key in ours if ours[key] != theirs[key]}
    assert differing == {"target_modules", "revision"}  # we write the short names, and the base's commit
    assert (tmp_path / "ours" / "adapter_model.safetensors").stat().st_mode & 0o044  # PEFT's is private to its owner


@pytest.mark.parametrize("family", FAMILIES)
def test_merging_keeps_the_logits_and_equals_peft(family, folders, tmp_path):
    method = Lora(r=4, alpha=8)
    model = tuned(folders[family], method)
    method.save(model, tmp_path, str(folders[family]), "")
    before = logits(model)
    method.merge(model)
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)
    merged = peft.PeftModel.from_pretrained(plain(folders[family]), tmp_path).merge_and_unload().state_dict()
    assert model.state_dict().keys() == merged.keys()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, merged[name], atol=1e-6, rtol=1e-6, msg=name)


@pytest.mark.parametrize("modules", [("embed_tokens",), ("lm_head",), ("norm", "input_layernorm")])
def test_whole_modules_are_trained_and_carried_even_when_tied(modules, folders, tmp_path):
    method = Lora(r=2, alpha=4, target_modules=["q_proj"], modules_to_save=modules)
    model = tuned(folders["llama"], method)
    method.save(model, tmp_path, str(folders["llama"]), "")
    theirs = peft.PeftModel.from_pretrained(plain(folders["llama"]), tmp_path)
    torch.testing.assert_close(logits(theirs), logits(model), atol=1e-5, rtol=1e-5)
    again = plain(folders["llama"])
    attach_saved(again, tmp_path)
    torch.testing.assert_close(logits(again), logits(model), atol=0, rtol=0)


def test_a_module_trained_by_peft_alone_while_the_base_ties_it_is_refused(folders, tmp_path):
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"], task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(plain(folders["llama"]), config)
    theirs.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"ties it to 'model.embed_tokens.weight'"):
        attach_saved(plain(folders["llama"]), tmp_path)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"init_lora_weights": "pissa"}, "changed base weight"),
        ({"lora_bias": True}, "lora_B.bias"),
        ({"bias": "all", "target_modules": ["c_attn"]}, "bias"),
        ({"trainable_token_indices": [5]}, "trainable_token"),
    ],
)
def test_adapters_that_are_more_than_low_rank_are_refused(settings, reason, folders, tmp_path):
    family = "gpt2" if "bias" in settings else "llama"
    config = peft.LoraConfig(**{"r": 2, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings})
    peft.get_peft_model(plain(folders[family]), config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=reason):
        Lora.from_folder(tmp_path)


def test_another_kind_of_adapter_is_named(folders, tmp_path):
    peft.get_peft_model(plain(folders["llama"]), peft.IA3Config(task_type="CAUSAL_LM")).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="type IA3, not LORA"):
        Lora.from_folder(tmp_path)
