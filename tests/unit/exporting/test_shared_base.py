"""One base, several adapters: each answers as alone, a later one leaves the weights where they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("onnxruntime_genai")
pytest.importorskip("peft")

from oleaster.config.schema import ExportConfig
from oleaster.core.artifact import Artifact
from oleaster.core.errors import ConfigError, ModelError
from oleaster.data.papers import Encoded
from oleaster.exporting.calibrate import calibrate
from oleaster.exporting.lessons import Lesson, Linear, Piece
from oleaster.exporting.quantize import Quantised
from oleaster.exporting.shared_base import Tasks, generate_adapter
from oleaster.models.load import load_plain
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


def test_a_4_bit_base_is_calibrated_with_every_task_and_wears_its_adapters_exactly(tmp_path: Path) -> None:
    base = make_tiny("llama", tmp_path / "base")
    adapters = {name: adapter(base, tmp_path / name, seed) for seed, name in enumerate(("a", "b"))}
    texts = [tuple(range(seed, seed + 40)) for seed in (5, 15, 30, 50)]  # printable
    rows = {name: Tasks([Encoded(ids, tuple(range(20, 40)), 20, 0) for ids in texts], ()) for name in adapters}
    options = ExportConfig(precision="int4", max_kl=0.05, max_drop=1.0)
    made = generate_adapter(base, adapters, tmp_path / "out", options, rows=rows)
    assert made.precision == "int4"
    figures = made.fidelity["adapters"]
    assert all(rung["fault"] is None for rungs in figures.values() for rung in rungs)
    assert [rungs[1]["rung"] for rungs in figures.values()] == ["int4", "int4"]
    merged = calibrated(base, [Lesson(rows["a"].encoded)])
    worn = calibrated(base, [Lesson(task.encoded, adapters[name]) for name, task in rows.items()])
    assert merged.keys() == worn.keys()
    assert any((merged[name].codes != worn[name].codes).any() for name in merged)  # the adapters' activations count


def calibrated(base: Path, lessons: list[Lesson]) -> dict[str, Quantised]:
    model = load_plain(base)
    modules = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    linears = [Linear(path, (Piece(module),)) for path, module in modules.items()]
    before = [each.weight.clone() for each in linears]
    ready = calibrate(model, linears, lessons, None)[1]
    assert all(torch.equal(each.weight, old) for each, old in zip(linears, before, strict=True))
    assert [path for path, module in model.named_modules() if isinstance(module, nn.Linear)] == list(modules)
    return ready


def test_a_module_trained_whole_is_refused_with_the_way_out(tmp_path: Path) -> None:
    base = make_tiny("llama", tmp_path / "base")
    whole = adapter(base, tmp_path / "a", 1, target_modules=["q_proj"], modules_to_save=["lm_head"])
    with pytest.raises(ModelError, match=r"lm_head\.weight was trained whole") as caught:
        generate_adapter(base, {"a": whole}, tmp_path / "out", FP32)
    assert "merge this adapter" in str(caught.value)
    assert not (tmp_path / "out").exists()
