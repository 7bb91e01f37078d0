"""The ladder's rungs: each form of the model, ready to be asked."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from oleaster.data.papers import Encoded, Example
from oleaster.exporting.ladder import Model, Rung
from oleaster.inference.onnx_predictor import OnnxPredictor
from oleaster.inference.predictor import Completion, Sampling
from oleaster.models.tokenizer import load_tokenizer, special_ids, stop_ids


class TorchModel:
    """Plain transformers in float32, the adapter attached and not merged: what every other rung is held against."""

    def __init__(self, folder: Path, adapter_folder: Path | None = None) -> None:
        import torch

        from oleaster.inference.torch_predictor import TorchPredictor
        from oleaster.methods.lora import attach_saved
        from oleaster.models.load import load_plain
        from oleaster.models.loaded import LoadedModel

        self.model = load_plain(folder)
        if adapter_folder is not None:
            attach_saved(self.model, adapter_folder)
        tokenizer = load_tokenizer(folder)
        stops = stop_ids(folder, tokenizer)
        loaded = LoadedModel(self.model, tokenizer, folder, str(folder), "", torch.float32, stops)
        self.predictor = TorchPredictor(loaded, "torch")

    def target_logits(self, input_ids: Sequence[int], targets: Sequence[int]) -> np.ndarray:
        """See `ladder.Model.target_logits`."""
        import torch

        with torch.inference_mode():
            logits = self.model(torch.tensor([input_ids[: max(targets)]])).logits[0]
            return logits[torch.tensor(targets) - 1].numpy()

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling = Sampling()) -> list[Completion]:
        """See `Predictor.generate`."""
        return self.predictor.generate(prompts, sampling)


def torch_rung(folder: Path, adapter_folder: Path | None) -> Rung:
    """The model that was trained."""
    return Rung("torch", "torch", partial(TorchModel, folder, adapter_folder))


def merged_rung(folder: Path) -> Rung:
    """The merged folder, in plain transformers."""
    return Rung("merged", "merged", partial(TorchModel, folder))


def graph_rung(folder: Path, stops: Sequence[int]) -> Rung:
    """The float32 graph."""
    return Rung("onnx-fp32", "onnx-fp32", partial(OnnxPredictor, folder, stop_ids=stops))


def quantised_rung(folder: Path, stops: Sequence[int], precision: str, adapter: str | None = None) -> Rung:
    """The quantised graph, asked with the training side's ids and stop ids, so that only its numbers count."""
    return Rung(precision, "quantised", partial(OnnxPredictor, folder, adapter, stop_ids=stops))


def genai_rung(
    folder: Path,
    examples: Sequence[Example],
    rows: Sequence[Encoded],
    tokenizer: Any,
    system_prompt: str | None = None,
    adapter: str | None = None,
) -> Rung:
    """The finished artifact as a deployment would load it: own tokenizer, template, stop ids and prompt contract.

    Args:
        tokenizer: training's (transformers), which spells the prompts that no template made.
        system_prompt: what training put in front of chats that had none.
    """
    special = special_ids(tokenizer)

    def encode(model: Model, index: int) -> Sequence[int]:
        assert isinstance(model, OnnxPredictor)
        row = rows[index]
        messages = _asked(examples[row.example], system_prompt) if examples else None
        if messages and any(token in special for token in row.prompt_ids[1:]):
            return model.tokenizer.encode(model.tokenizer.render(messages))
        return model.tokenizer.encode(tokenizer.decode(row.prompt_ids, clean_up_tokenization_spaces=False))

    return Rung("genai", "genai", partial(OnnxPredictor, folder, adapter), encode)


def _asked(example: Example, system_prompt: str | None) -> list[dict[str, str]] | None:
    """The messages before the last answer, where all of them are plain text; None otherwise."""
    before = [dict(message) for message in example.messages[:-1]]
    if not before or example.tools or any(set(message) != {"role", "content"} for message in before):
        return None
    if system_prompt is not None and before[0]["role"] not in ("system", "developer"):
        before.insert(0, {"role": "system", "content": system_prompt})
    return before
