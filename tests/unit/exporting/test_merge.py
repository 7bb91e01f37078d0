"""Merging on stored tensors equals attaching, and refuses what it cannot carry."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("peft")

from oleaster.core.errors import ModelError
from oleaster.exporting.adapter_folder import read_lora
from oleaster.exporting.merge import merge
from oleaster.models.tiny import make_tiny

IDS = torch.arange(4, 30)[None]


def peft_adapter(base: Path, folder: Path, **settings: object) -> Path:
    import peft
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    chosen = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": False} | settings
    model = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), peft.LoraConfig(task_type="CAUSAL_LM", **chosen)
    )
    model.save_pretrained(folder)
    return folder


def logits(folder: Path, adapter: Path | None = None) -> torch.Tensor:
    import peft
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if adapter:
        model = peft.PeftModel.from_pretrained(model, adapter).eval()
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {}),
        ("llama", {"use_dora": True}),
        ("llama", {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 32}}),
        ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["model.norm"]}),
        ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
        ("phi3", {}),
        ("gpt2", {}),
    ],
)
def test_merged_equals_attached(family: str, settings: dict[str, object], tmp_path: Path) -> None:
    base = make_tiny(family, tmp_path / "base")
    adapter = peft_adapter(base, tmp_path / "adapter", **settings)
    if "modules_to_save" in settings:  # PEFT starts them as copies; what was trained differs
        path = adapter / "adapter_model.safetensors"
        save_file({k: v if "lora_" in k else v + 0.1 for k, v in load_file(path).items()}, path)
    merge(base, adapter, tmp_path / "merged")
    assert torch.allclose(logits(tmp_path / "merged"), logits(base, adapter), atol=1e-4)


def test_a_bfloat16_base_is_merged_in_float32(tmp_path: Path) -> None:
    base = make_tiny("llama", tmp_path / "base")
    stored = base / "model.safetensors"
    save_file({k: v.bfloat16() for k, v in load_file(stored).items()}, stored, metadata={"format": "pt"})
    adapter = peft_adapter(base, tmp_path / "adapter")
    merge(base, adapter, tmp_path / "merged")
    name = "model.layers.0.self_attn.q_proj"
    merged = load_file(tmp_path / "merged" / "model.safetensors")[f"{name}.weight"]
    exact = load_file(stored)[f"{name}.weight"].float() + read_lora(adapter).deltas[name].full()
    assert torch.equal(merged, exact)
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "float32"


def test_tokenizer_and_template_come_along(tmp_path: Path) -> None:
    base = make_tiny("llama", tmp_path / "base")
    merge(base, peft_adapter(base, tmp_path / "adapter"), tmp_path / "merged")
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (base / name).read_bytes()


def test_dora_is_no_low_rank_branch(tmp_path: Path) -> None:
    """It is merged, as its magnitudes change the whole weight."""
    adapter = peft_adapter(make_tiny("llama", tmp_path / "base"), tmp_path / "adapter", use_dora=True)
    with pytest.raises(ModelError, match="DoRA"):
        read_lora(adapter)


def test_an_adapter_of_another_base_is_refused_with_every_module(tmp_path: Path) -> None:
    base = make_tiny("llama", tmp_path / "base")
    adapter = peft_adapter(make_tiny("gpt2", tmp_path / "other"), tmp_path / "adapter")
    with pytest.raises(ModelError, match="not in the base model") as caught:
        merge(base, adapter, tmp_path / "merged")
    assert str(caught.value).count("not in the base model") == len(read_lora(adapter).deltas)


def test_an_adapter_of_a_wider_base_is_refused(tmp_path: Path) -> None:
    base = make_tiny("llama", tmp_path / "base")
    adapter = peft_adapter(make_tiny("llama", tmp_path / "wide", hidden_size=96), tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"q_proj.weight is \[64, 96\], the base weight \[64, 64\]"):
        merge(base, adapter, tmp_path / "merged")


def test_a_quantised_base_is_refused(tmp_path: Path) -> None:
    base = make_tiny("llama", tmp_path / "base")
    adapter = peft_adapter(base, tmp_path / "adapter")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"bits": 4}}))
    with pytest.raises(ModelError, match="quantised"):
        merge(base, adapter, tmp_path / "merged")
