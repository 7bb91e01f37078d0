"""The ONNX graph computes what PyTorch computes: every family, bare and with an adapter, scored and generated."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime_genai")
pytest.importorskip("peft")

from oleaster.config.schema import ExportConfig
from oleaster.data.papers import Encoded
from oleaster.exporting.adapter_folder import read_lora
from oleaster.exporting.adapters import add_branches, place, read_sites, write_adapter_file
from oleaster.exporting.genai_files import finish_folder
from oleaster.exporting.graph import build_graph
from oleaster.exporting.ladder import Model
from oleaster.exporting.layouts.genai import quantise
from oleaster.exporting.lessons import Lesson
from oleaster.exporting.merge import merge
from oleaster.exporting.rungs import TorchModel
from oleaster.inference.onnx_predictor import OnnxPredictor
from oleaster.inference.predictor import Sampling
from oleaster.models.tiny import make_tiny

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3_text")
TOLERANCE = 1e-4
"""Largest difference of a logit; the logits themselves reach about 5."""
IDS = tuple(int(i) for i in np.random.default_rng(0).integers(4, 260, 40))
"""Five times the tiny models' attention window."""
TARGETS = tuple(range(1, 40))
PROMPTS = (IDS[:20], IDS[5:25], IDS[:13])


def logits_of(model: Model, targets: tuple[int, ...] = TARGETS) -> np.ndarray:
    (found,) = model.target_logits([(IDS, targets)])
    return found


def random_adapter(base: Path, folder: Path, seed: int = 1) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_graph_and_adapter_equal_torch(family: str, tmp_path: Path) -> None:
    base = make_tiny(family, tmp_path / "base")
    adapter = random_adapter(base, tmp_path / "adapter")
    folder = tmp_path / "onnx"
    build_graph(base, folder)
    finish_folder(base, folder, [])
    bare = OnnxPredictor(folder)
    before = logits_of(bare)
    expected = TorchModel(base)
    assert np.abs(before - logits_of(expected)).max() < TOLERANCE
    sampling = Sampling(max_new_tokens=20)
    told = [answer.token_ids for answer in expected.generate(PROMPTS, sampling)]
    assert [answer.token_ids for answer in bare.generate(PROMPTS, sampling)] == told

    sites = read_sites(folder)
    lora = read_lora(adapter)
    write_adapter_file(lora, sites, folder / "adapters" / "task.onnx_adapter")
    add_branches(folder, list(place(lora, sites)))
    tuned = TorchModel(base, adapter)
    truth = logits_of(tuned)
    assert np.abs(truth - before).max() > 1  # the adapter matters
    assert np.array_equal(logits_of(OnnxPredictor(folder)), before)  # idle: the very same bits
    switched = OnnxPredictor(folder, "task")
    assert np.abs(logits_of(switched) - truth).max() < TOLERANCE
    told = [answer.token_ids for answer in tuned.generate(PROMPTS, sampling)]
    assert [answer.token_ids for answer in switched.generate(PROMPTS, sampling)] == told

    merge(base, adapter, tmp_path / "merged")
    merged = logits_of(TorchModel(tmp_path / "merged"))
    assert np.abs(merged - truth).max() < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("precision", "allowed"), [("int8", 0.001), ("int4", 0.03)])
def test_every_family_is_quantised_and_carries_adapters(
    family: str, precision: str, allowed: float, tmp_path: Path
) -> None:
    base = make_tiny(family, tmp_path / "base")
    adapter = random_adapter(base, tmp_path / "adapter")
    build_graph(base, tmp_path / "graph")
    finish_folder(base, tmp_path / "graph", [])
    folder = tmp_path / precision
    shutil.copytree(tmp_path / "graph", folder, ignore=shutil.ignore_patterns("model.onnx*"))
    quantise(base, tmp_path / "graph", folder, precision, [Lesson([Encoded(IDS, TARGETS, 1, 0)])], ExportConfig())
    bare = divergence(logits_of(TorchModel(base)), OnnxPredictor(folder))
    lora, sites = read_lora(adapter), read_sites(folder)
    write_adapter_file(lora, sites, folder / "adapters" / "task.onnx_adapter")
    add_branches(folder, list(place(lora, sites)))
    tuned = logits_of(TorchModel(base, adapter))
    active, idle = divergence(tuned, OnnxPredictor(folder, "task")), divergence(tuned, OnnxPredictor(folder))
    assert max(bare, active) < allowed
    assert idle > 0.3  # the adapter matters


def divergence(truth: np.ndarray, model: OnnxPredictor) -> float:
    """KL in nats per token."""
    p, q = (torch.from_numpy(each).double().log_softmax(-1) for each in (truth, logits_of(model)))
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_two_adapters_of_other_rank_and_modules_take_turns(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = make_tiny("llama", tmp_path / "base")
    adapters = {"all": random_adapter(base, tmp_path / "all")}
    torch.manual_seed(2)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path / "some")
    adapters["some"] = tmp_path / "some"
    folder = tmp_path / "onnx"
    build_graph(base, folder)
    finish_folder(base, folder, [])
    sites = read_sites(folder)
    for name, path in adapters.items():
        lora = read_lora(path)
        write_adapter_file(lora, sites, folder / "adapters" / f"{name}.onnx_adapter")
        add_branches(folder, list(place(lora, sites)))
    asked = {name: OnnxPredictor(folder, name) for name in adapters}
    for name in ("some", "all", "some"):
        truth = logits_of(TorchModel(base, adapters[name]))
        assert np.abs(logits_of(asked[name]) - truth).max() < TOLERANCE


def test_score_is_the_log_softmax_of_the_logits(tmp_path: Path) -> None:
    base = make_tiny("llama", tmp_path / "base")
    build_graph(base, tmp_path / "onnx")
    finish_folder(base, tmp_path / "onnx", [])
    predictor = OnnxPredictor(tmp_path / "onnx")
    (score, nothing) = predictor.score([(IDS, (3, 9, 39)), (IDS, ())])
    logits = torch.from_numpy(logits_of(TorchModel(base), (3, 9, 39)))
    wanted = torch.tensor([IDS[3], IDS[9], IDS[39]])
    assert score.total == pytest.approx(
        -torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").item(), abs=1e-4
    )
    assert score.correct == int((logits.argmax(-1) == wanted).sum())
    assert (score.count, nothing.count, nothing.total) == (3, 0, 0.0)


def test_sampling_repeats_with_its_seed_and_streams_what_it_returns(tmp_path: Path) -> None:
    base = make_tiny("llama", tmp_path / "base")
    build_graph(base, tmp_path / "onnx")
    finish_folder(base, tmp_path / "onnx", [])
    predictor = OnnxPredictor(tmp_path / "onnx")
    streamed: dict[int, list[int]] = {}
    hot = Sampling(max_new_tokens=12, temperature=1.0, seed=5)
    first = predictor.generate(PROMPTS, hot, lambda row, token: streamed.setdefault(row, []).append(token))
    assert [tuple(streamed.get(i, [])) for i in range(len(PROMPTS))] == [answer.token_ids for answer in first]
    assert predictor.generate(PROMPTS, hot) == first
    other = Sampling(max_new_tokens=12, temperature=1.0, seed=6)
    assert predictor.generate(PROMPTS, other) != first
