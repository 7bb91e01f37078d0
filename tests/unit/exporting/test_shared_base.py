"""One base, several adapters: each answers as alone, a later one leaves the weights where they are."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnxruntime_genai")
pytest.importorskip("peft")

from oleaster.config.schema import ExportConfig
from oleaster.core.artifact import Artifact
from oleaster.core.errors import ConfigError, ModelError
from oleaster.exporting.shared_base import generate_adapter
from oleaster.models.tiny import make_tiny

FP32 = ExportConfig(precision="fp32", max_kl=1e-4)


def adapter(base: Path, folder: Path, seed: int, **settings: object) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    chosen = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False} | settings
    model = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **chosen)).save_pretrained(folder)
    return folder


def test_adapters_climb_their_ladders_and_a_later_one_keeps_the_base(tmp_path: Path) -> None:
    base = make_tiny("llama", tmp_path / "base")
    first = {"a": adapter(base, tmp_path / "a", 1, target_modules=["q_proj", "v_proj"])}
    made = generate_adapter(base, first, tmp_path / "out", FP32)
    weights = (made.folder / "model.onnx.data").stat().st_ino
    both = generate_adapter(base, {"b": adapter(base, tmp_path / "b", 2, r=8)}, tmp_path / "out", FP32)
    assert (both.folder / "model.onnx.data").stat().st_ino == weights
    assert set(both.fidelity["adapters"]) == {"a", "b"}
    assert all(rung["fault"] is None for rungs in both.fidelity["adapters"].values() for rung in rungs)
    assert Artifact.open(both.folder, verify=True) == both
    with pytest.raises(ConfigError, match="there is an adapter 'a' already"):
        generate_adapter(base, first, tmp_path / "out", FP32)
    assert Artifact.open(both.folder, verify=True) == both


def test_a_module_trained_whole_is_refused_with_the_way_out(tmp_path: Path) -> None:
    base = make_tiny("llama", tmp_path / "base")
    whole = adapter(base, tmp_path / "a", 1, target_modules=["q_proj"], modules_to_save=["lm_head"])
    with pytest.raises(ModelError, match=r"lm_head\.weight was trained whole") as caught:
        generate_adapter(base, {"a": whole}, tmp_path / "out", FP32)
    assert "merge this adapter" in str(caught.value)
    assert not (tmp_path / "out").exists()
