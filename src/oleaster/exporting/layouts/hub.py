"""A plain folder in the hub's layout, the adapter merged in: transformers loads it as any other model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from oleaster.core.errors import ModelError
from oleaster.core.files import link_or_copy
from oleaster.exporting.genai_files import make_contract
from oleaster.exporting.ladder import Rung
from oleaster.exporting.layouts.layout import Material
from oleaster.exporting.merge import copy_small_files
from oleaster.exporting.rungs import Questions, TorchModel, runtime_rung
from oleaster.models.folder import INDEX
from oleaster.models.tokenizer import load_tokenizer

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class Hub:
    """See `Layout`."""

    kind = "hf"
    precisions = ("bf16", "fp32")
    """float16 can be asked for; `auto` leaves it out, as it is no smaller and its range may not hold activations."""

    def check(self, model_folder: Path) -> None:
        """Refuse what would be half a model: weights that are codes already, code that lies elsewhere."""
        config = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
        for key, what in (("quantization_config", "its weights are quantised"), ("auto_map", "it brings its own code")):
            if key in config:
                remedy = "name the full-precision model in the hub's layout"
                raise ModelError(f"cannot be merged and stored: {what}", where=str(model_folder), remedy=remedy)

    def prepare(self, material: Material) -> None:
        """Nothing: the merged folder has climbed its rung."""

    def make(self, material: Material, precision: str, folder: Path) -> None:
        """Weights in the number type, shard by shard; the ids that end an answer where `generate` looks for them."""
        merged, dtype = material.merged, DTYPES[precision]
        folder.mkdir()
        copy_small_files(merged, merged, folder)
        if (merged / INDEX).is_file():
            shutil.copyfile(merged / INDEX, folder / INDEX)
        for path in merged.glob("*.safetensors"):
            _store_as(path, folder / path.name, dtype)
        config = json.loads((merged / "config.json").read_text(encoding="utf-8"))
        config.pop("torch_dtype", None)
        text = json.dumps(config | {"dtype": str(dtype).removeprefix("torch.")}, indent=2)
        (folder / "config.json").write_text(text, encoding="utf-8")
        path = folder / "generation_config.json"
        generation = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        path.write_text(json.dumps(generation | {"eos_token_id": list(material.stops)}, indent=2), encoding="utf-8")
        make_contract(folder, load_tokenizer(folder), material.stops, material.prompts).write(folder)

    def weights(self, folder: Path) -> list[Path]:
        """The safetensors."""
        return list(folder.glob("*.safetensors"))

    def memory_mb(self, folder: Path) -> None:
        """Not measured: it depends on what the folder is loaded with."""

    def quantised_rung(self, folder: Path, precision: str, stops: Sequence[int], adapter: str | None = None) -> Rung:
        """The stored numbers, computed with in float32."""
        return Rung(precision, "quantised", partial(TorchModel, folder, stops=stops), weights=str(folder))

    def runtime_rung(self, folder: Path, questions: Questions, adapter: str | None = None) -> Rung:
        """Loaded by transformers."""
        return runtime_rung("transformers", partial(TorchModel, folder), questions, str(folder))


def _store_as(source: Path, target: Path, dtype: torch.dtype) -> None:
    """One shard with its weights as `dtype`; under a second name where they are that already."""
    with safe_open(source, framework="pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  (not a dict)
    wrong = {name for name, value in tensors.items() if value.is_floating_point() and value.dtype != dtype}
    if not wrong:
        link_or_copy(source, target)
        return
    tensors = {name: value.to(dtype) if name in wrong else value for name, value in tensors.items()}
    save_file(tensors, target, metadata={"format": "pt"})
