"""The ladder's rungs: each form of the model, ready to be asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from oleaster.data.papers import Encoded, Example
from oleaster.exporting.ladder import Model, Rung
from oleaster.inference.contract import Tokenizer
from oleaster.inference.generation import batches
from oleaster.inference.onnx_predictor import OnnxPredictor
from oleaster.inference.predictor import Completion, Sampling
from oleaster.models.tokenizer import load_tokenizer, special_ids, stop_ids


class TorchModel:
    """A torch model in float32 as a rung.

    Args:
        stops: ids that end an answer instead of those that the folder names.
        plain: transformers' own code; else, where the family is known, the engine that training and evaluation use.
    """

    def __init__(
        self,
        folder: Path,
        adapter_folder: Path | None = None,
        stops: Sequence[int] | None = None,
        plain: bool = True,
    ) -> None:
        import torch

        from oleaster.inference.torch_predictor import TorchPredictor
        from oleaster.methods import attach_saved, saved_method
        from oleaster.models.generic import Generic
        from oleaster.models.load import load_plain, load_weights
        from oleaster.models.loaded import BaseNeeds, LoadedModel

        needs = saved_method(adapter_folder).needs if adapter_folder else BaseNeeds()
        model: Any = Generic(load_plain(folder)) if plain else load_weights(folder, torch.float32, needs=needs)[0]
        if adapter_folder is not None:
            attach_saved(model.hub_model, adapter_folder)
        tokenizer = load_tokenizer(folder)
        ends = tuple(stops or stop_ids(folder, tokenizer))
        loaded = LoadedModel(model.eval(), tokenizer, folder, str(folder), "", torch.float32, ends)
        self.stop_ids = ends
        self.predictor = TorchPredictor(loaded, "torch")
        self.tokenizer = HubTokenizer(tokenizer)

    def target_logits(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[np.ndarray]:
        """See `ladder.Model.target_logits`."""
        import torch

        backend, found = self.predictor.backend, [[] for _ in rows]
        with torch.inference_mode():
            for batch in batches([max(targets) for _, targets in rows], 0, same_length=not backend.pads):
                ids, targets = zip(*(rows[i] for i in batch), strict=True)
                for owners, _, logits in backend.target_logits(ids, targets):
                    for owner, row in zip(owners.tolist(), logits.numpy(), strict=True):
                        found[batch[owner]].append(row)
        return [np.stack(each) for each in found]

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling = Sampling()) -> list[Completion]:
        """See `Predictor.generate`."""
        return self.predictor.generate(prompts, sampling)


class HubTokenizer:
    """A transformers tokenizer asked as the prompt contract and the runtime rungs ask one."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, special tokens in it recognised, none added."""
        return self._tokenizer.encode(text, add_special_tokens=False)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of `token_ids` without special tokens."""
        return self._tokenizer.decode(token_ids, skip_special_tokens=True)

    def render(self, messages: list[dict[str, str]]) -> str:
        """The chat template applied to `messages`, with the opening of the answer."""
        return self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


@dataclass(frozen=True)
class Questions:
    """The rows of a ladder as a deployment would be asked them: in words."""

    rows: Sequence[Encoded]
    examples: Sequence[Example]
    """What the rows point to; empty where rows are bare texts."""
    tokenizer: Any
    """Training's (transformers), which spells the prompts that no template made."""
    system_prompt: str | None = None
    """What training put in front of chats that had none."""

    def encode(self, own: Tokenizer, index: int) -> Sequence[int]:
        """Prompt ids of row `index` by a runtime's own tokenizer and template."""
        row = self.rows[index]
        messages = _asked(self.examples[row.example], self.system_prompt) if self.examples else None
        if messages and any(token in self._special for token in row.prompt_ids[1:]):
            return own.encode(own.render(messages))
        return own.encode(self.tokenizer.decode(row.prompt_ids, clean_up_tokenization_spaces=False))

    @cached_property
    def _special(self) -> frozenset[int]:
        return special_ids(self.tokenizer)


class Deployed(Model, Protocol):
    """A model that brings its own tokenizer and template."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The one it is deployed with."""
        ...


def torch_rung(folder: Path, adapter_folder: Path | None) -> Rung:
    """The model that was trained, its adapter beside the base, in the engine that trained it."""
    return Rung("torch", "torch", partial(TorchModel, folder, adapter_folder, plain=False))


def merged_rung(folder: Path) -> Rung:
    """The merged folder, in plain transformers."""
    return Rung("merged", "merged", partial(TorchModel, folder))


def graph_rung(folder: Path, stops: Sequence[int]) -> Rung:
    """The float32 graph."""
    return Rung("onnx-fp32", "onnx-fp32", partial(OnnxPredictor, folder, stop_ids=stops))


def quantised_rung(folder: Path, stops: Sequence[int], precision: str, adapter: str | None = None) -> Rung:
    """The quantised graph, asked with the training side's ids and stop ids, so that only its numbers count."""
    load = partial(OnnxPredictor, folder, adapter, stop_ids=stops)
    return Rung(precision, "quantised", load, weights=f"{folder}:{adapter}")


def genai_rung(folder: Path, questions: Questions, adapter: str | None = None) -> Rung:
    """The finished artifact as ONNX Runtime GenAI loads it; its prompt contract is checked."""
    return runtime_rung("genai", partial(OnnxPredictor, folder, adapter), questions, f"{folder}:{adapter}")


def runtime_rung(name: str, load: Callable[[], Deployed], questions: Questions, weights: str) -> Rung:
    """The finished artifact as a deployment would load it: own tokenizer, template and stop ids.

    `weights`: see `Rung.weights`.
    """

    def encode(model: Model, index: int) -> Sequence[int]:
        own: Deployed = model  # pyright: ignore[reportAssignmentType]  (what `load` gave)
        return questions.encode(own.tokenizer, index)

    return Rung(name, "runtime", load, encode, weights)


def _asked(example: Example, system_prompt: str | None) -> list[dict[str, str]] | None:
    """The messages before the last answer, where all of them are plain text; None otherwise."""
    before = [dict(message) for message in example.messages[:-1]]
    if not before or example.tools or any(set(message) != {"role", "content"} for message in before):
        return None
    if system_prompt is not None and before[0]["role"] not in ("system", "developer"):
        before.insert(0, {"role": "system", "content": system_prompt})
    return before
