"""The exported graph of a head = transformers' states under it, per family, texts of different lengths together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from oleaster.data.papers import Head
from oleaster.exporting.graph import build_graph
from oleaster.exporting.head_graph import put_head_on
from oleaster.inference.onnx_heads import OnnxHeads
from oleaster.models.tiny import make_tiny

TEXTS = [tuple(range(5, 18)), (40, 41), (5, 6, 7, 99, 100, 101, 102), (9,)]
"""One is longer than the sliding windows, one a single token."""
WEIGHT = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
BIAS = np.array([1.0, -2.0, 0.5], np.float32)
LABELS = ("a", "b", "c")


@pytest.fixture(scope="module", params=["llama", "mistral", "qwen3", "phi3", "gemma2", "gemma3_text"])
def exported(request, tmp_path_factory):
    """(graph without language head, transformers' last states of each text)"""
    folder = make_tiny(request.param, tmp_path_factory.mktemp("tiny") / request.param)
    graph = tmp_path_factory.mktemp("graph") / request.param
    build_graph(folder, graph, language_head=False)
    plain = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        states = [plain(input_ids=torch.tensor([t]), use_cache=False).last_hidden_state[0].numpy() for t in TEXTS]
    return graph / "model.onnx", states


def read(graph: Path, folder: Path, head: Head) -> list[np.ndarray]:
    bias = BIAS if head.kind == "token" else None
    put_head_on(graph, folder / "model.onnx", head, WEIGHT if head.labels else None, bias)
    everywhere = [range(len(text)) for text in TEXTS]
    return OnnxHeads(folder / "model.onnx", head, threads=1).read(TEXTS, everywhere)


def test_heads_of_labels(exported, tmp_path) -> None:
    graph, states = exported
    for found, state in zip(read(graph, tmp_path, Head("sequence", LABELS)), states, strict=True):
        np.testing.assert_allclose(found, state[-1:] @ WEIGHT.T, atol=5e-5)
    for found, state in zip(read(graph, tmp_path, Head("token", LABELS)), states, strict=True):
        np.testing.assert_allclose(found, state @ WEIGHT.T + BIAS, atol=5e-5)


def test_embeddings(exported, tmp_path) -> None:
    graph, states = exported
    for found, state in zip(read(graph, tmp_path, Head("embedding")), states, strict=True):
        mean = state.mean(0, keepdims=True)
        np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-5)
    last = Head("embedding", pooling="last", normalize=False)
    for found, state in zip(read(graph, tmp_path, last), states, strict=True):
        np.testing.assert_allclose(found, state[-1:], atol=5e-5)
