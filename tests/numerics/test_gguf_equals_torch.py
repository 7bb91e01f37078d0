"""A .gguf file holds the model it was written from: read back by transformers, and by llama.cpp where that is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from oleaster import load
from oleaster.config.schema import ExportConfig
from oleaster.data.papers import Encoded
from oleaster.exporting.export import export
from oleaster.exporting.genai_files import HARD_TEXTS
from oleaster.exporting.gguf_file import write_gguf
from oleaster.exporting.ladder import Model
from oleaster.exporting.layouts.gguf import unpacked
from oleaster.exporting.rungs import TorchModel
from oleaster.inference.llama_cpp_predictor import FILE, LlamaCppPredictor, llama_cpp_is_there
from oleaster.inference.predictor import Sampling
from oleaster.models.tiny import make_tiny
from sentence_pieces import SIZE, pieces

IDS = tuple(int(i) for i in np.random.default_rng(0).integers(4, 260, 40))
TARGETS = tuple(range(1, 40))
PROMPTS = (IDS[:20], IDS[5:25], IDS[:13])
CHAT = [{"role": "user", "content": "how wide is a desk?"}]
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
GEMMA3: dict[str, Any] = {  # the layers that llama.cpp takes for granted
    "num_hidden_layers": 6,
    "layer_types": [*["sliding_attention"] * 5, "full_attention"],
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, head of its own": ("llama", {"tie_word_embeddings": False}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 128}),  # transformers reads no other size from GGUF
}
ONLY_LLAMA_CPP: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, long rope": ("llama", {"rope_parameters": LLAMA3}),
    "llama, biases": ("llama", {"attention_bias": True}),
    "phi3": ("phi3", {}),
    "gemma": ("gemma", {"hidden_activation": "gelu_pytorch_tanh"}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 32}),
    "gemma3": ("gemma3_text", GEMMA3),
}
"""What transformers does not read from GGUF."""
needs_llama_cpp = pytest.mark.skipif(not llama_cpp_is_there(), reason="llama-cpp-python is not installed")


def logits_of(model: Model) -> np.ndarray:
    (found,) = model.target_logits([(IDS, TARGETS)])
    return found


def with_words(folder: Path) -> Path:
    """llama.cpp wants a tokenizer that merges something and splits words in a way it knows."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    tokenizer["pre_tokenizer"]["use_regex"] = True
    tokenizer["model"]["vocab"]["Ġa"] = 260
    tokenizer["model"]["merges"] = [["Ġ", "a"]]
    path.write_text(json.dumps(tokenizer), "utf-8")
    return folder


def tiny(family: str, folder: Path, **overrides: Any) -> Path:
    return with_words(make_tiny(family, folder, vocab_size=261, **overrides))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 0.0), ("fp16", 0.01), ("int8", 0.2)])
def test_transformers_reads_the_same_model(family: str, precision: str, tolerance: float, tmp_path: Path) -> None:
    name, overrides = FAMILIES[family]
    base = tiny(name, tmp_path / "base", **overrides)
    write_gguf(base, tmp_path / "model.gguf", precision)
    truth, read = TorchModel(base), unpacked(tmp_path)
    difference = np.abs(logits_of(read) - logits_of(truth)).max()
    assert difference <= tolerance
    assert read.tokenizer.render(CHAT) == truth.tokenizer.render(CHAT)
    assert read.tokenizer.encode(truth.tokenizer.render(CHAT)) == truth.tokenizer.encode(truth.tokenizer.render(CHAT))


def test_an_export_is_calibrated_climbs_its_ladder_and_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLEASTER_CACHE", str(tmp_path / "cache"))
    base = tiny("llama", tmp_path / "base")
    options = ExportConfig(output_format="gguf", precision="int4", max_kl=1.0, max_drop=1.0, target_mb=0.07)
    texts = np.random.default_rng(1).integers(4, 90, (4, 30)).tolist()  # printable
    rows = [Encoded(tuple(ids), tuple(range(10, 30)), 10, i) for i, ids in enumerate(texts)]
    made = export(base, None, tmp_path / "art", encoded=rows, options=options, max_new_tokens=4)
    assert (made.kind, made.precision) == ("gguf", "int4")
    rungs = made.fidelity["ladder"]
    assert [rung["rung"] for rung in rungs][:2] == ["torch", "int4"]
    assert 0 < rungs[1]["kl"] < 0.1
    kinds = {tensor.tensor_type.name for tensor in GGUFReader(made.folder / FILE).tensors}
    assert kinds == {"F32", "Q4_1", "Q8_0"}
    assert (made.folder / FILE).stat().st_size < 0.07e6
    assert load(made.folder).answer("how wide is a desk?", Sampling(max_new_tokens=4)).token_ids


@needs_llama_cpp
@pytest.mark.parametrize("family", [*FAMILIES, *ONLY_LLAMA_CPP])
def test_llama_cpp_computes_the_same(family: str, tmp_path: Path) -> None:
    name, overrides = (FAMILIES | ONLY_LLAMA_CPP)[family]
    base = tiny(name, tmp_path / "base", **overrides)
    write_gguf(base, tmp_path / "model.gguf", "fp32")
    truth, file = TorchModel(base), LlamaCppPredictor(tmp_path, threads=1)
    expected = logits_of(truth)
    found = logits_of(file)
    assert np.abs(found - expected).max() < 0.02  # its cache is float16
    (score,) = file.score([(IDS, TARGETS)])
    (wanted,) = truth.predictor.score([(IDS, TARGETS)])
    assert score.total == pytest.approx(wanted.total, rel=1e-3)
    sampling = Sampling(max_new_tokens=12)
    told = [answer.token_ids for answer in truth.generate(PROMPTS, sampling)]
    assert [answer.token_ids for answer in file.generate(PROMPTS, sampling)] == told
    text = truth.tokenizer.render(CHAT)
    assert file.tokenizer.render(CHAT) == text
    assert file.tokenizer.encode(text) == truth.tokenizer.encode(text)
    assert file.tokenizer.decode(file.tokenizer.encode("a café for a cat")) == "a café for a cat"
    assert 2 in file.stop_ids


@needs_llama_cpp
@pytest.mark.parametrize("spaces", ["prepend", "never", "first"])
def test_llama_cpp_makes_the_same_sentence_pieces(spaces: Any, tmp_path: Path) -> None:
    base = make_tiny("llama", tmp_path / "base", vocab_size=SIZE)
    pieces(spaces).save_pretrained(base)
    write_gguf(base, tmp_path / "model.gguf", "fp32")
    ours, theirs = TorchModel(base).tokenizer, LlamaCppPredictor(tmp_path, threads=1).tokenizer
    prompts = [ours.render([{"role": "user", "content": text}]) for text in HARD_TEXTS]
    bare = () if spaces == "first" else tuple(text for text in HARD_TEXTS if text)
    assert [theirs.render([{"role": "user", "content": text}]) for text in HARD_TEXTS] == prompts
    for text in (*prompts, *bare):
        assert theirs.encode(text) == ours.encode(text), text
