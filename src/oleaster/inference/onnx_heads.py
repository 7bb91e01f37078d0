"""A head in an exported graph, asked through ONNX Runtime. Needs no torch.

The graph takes input_ids and attention_mask [B, L] (int64, padded on the right) and gives logits [B, labels] of a
sequence head, logits [B, L, labels] of a token head, or embedding [B, C].
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from oleaster.core.errors import MissingExtraError
from oleaster.core.machine import usable_cores
from oleaster.data.papers import Head
from oleaster.inference.head_predictor import Floats, HeadPredictor

GRAPH, KIND = "model.onnx", "onnx-head"
"""Name of the graph's file, and of this kind of artifact."""


class OnnxHeads:
    """`head_predictor.HeadBackend` over an exported graph.

    Args:
        threads: CPU threads; default: all cores this process may use.
    """

    def __init__(self, graph: Path, head: Head, context: int | None = None, threads: int | None = None) -> None:
        self.graph, self.head, self.context, self._threads = graph, head, context, threads

    def read(self, texts: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> list[Floats]:
        """See `HeadBackend.read`; the graph itself knows which states make up a label or an embedding."""
        ids = np.zeros((len(texts), max(map(len, texts))), np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)], mask[row, : len(text)] = text, 1
        (found,) = self._session.run(None, {"input_ids": ids, "attention_mask": mask})
        if self.head.kind == "token":
            return [np.asarray(row[list(at)], np.float32) for row, at in zip(found, places, strict=True)]
        return [np.asarray(row[None], np.float32) for row in found]

    @cached_property
    def _session(self) -> Any:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise MissingExtraError("onnxruntime is not installed", remedy="pip install 'oleaster[cpu]'") from error
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads or usable_cores()
        options.log_severity_level = 3
        return ort.InferenceSession(str(self.graph), options, providers=["CPUExecutionProvider"])


def onnx_head_predictor(folder: Path, head: Head, threads: int | None = None) -> HeadPredictor:
    """The predictor over an artifact's folder."""
    import json

    from oleaster.models.tokenizer import load_tokenizer

    config = json.loads((folder / "config.json").read_text("utf-8"))
    backend = OnnxHeads(folder / GRAPH, head, config.get("max_position_embeddings"), threads)
    return HeadPredictor(backend, head, load_tokenizer(folder), folder.name)
