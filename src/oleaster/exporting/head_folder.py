"""A model with a head as one plain folder, and the same as a language model, which the graph builder knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from oleaster.core.errors import ModelError
from oleaster.core.files import link_or_copy
from oleaster.exporting.merge import copy_small_files, merge
from oleaster.methods.adapter_files import read_adapter, write_adapter
from oleaster.models.folder import INDEX
from oleaster.models.load import read_tensors

HEAD_FILE = "model-head.safetensors"
HEAD_NAMES = ("score.weight", "score.bias")
LANGUAGE_HEADS = ("lm_head.weight",)


class HeadWeights(NamedTuple):
    """The map from states to labels."""

    weight: np.ndarray
    """[labels, C] float32"""
    bias: np.ndarray | None
    """[labels] float32"""


def merge_headed(base: Path, adapter: Path | None, output: Path, work: Path) -> Path:
    """The tuned model with its head as one folder that plain transformers loads; float32 where anything was merged.

    Args:
        base: folder whose config.json names the head; it holds the head's weights where `adapter` does not.
        adapter: PEFT folder with low-rank updates and the head.
        output: made when there is something to merge.
        work: for what is needed on the way.

    Returns: `output`, or `base` when that is all there is.
    """
    if adapter is None:
        return base
    files = read_adapter(adapter)
    head = {name: files.tensors[name].float().contiguous() for name in HEAD_NAMES if name in files.tensors}
    rest = {name: tensor for name, tensor in files.tensors.items() if name not in head}
    plain = work / "adapter"
    saved = [name for name in files.config.get("modules_to_save") or () if f"{name}.weight" not in head]
    write_adapter(plain, {**files.config, "modules_to_save": saved or None}, rest)
    merge(base, plain, output)
    if head:
        _add(head, output)
    return output


def _add(head: dict[str, Tensor], folder: Path) -> None:
    """Put the head into the folder's weights; a language head, which the model has no place for, goes."""
    single = folder / "model.safetensors"
    if single.is_file():  # transformers looks at no other file then
        tensors = {name: tensor for name, tensor in load_file(single).items() if name not in LANGUAGE_HEADS}
        save_file({**tensors, **head}, single, metadata={"format": "pt"})
        return
    save_file(head, folder / HEAD_FILE, metadata={"format": "pt"})
    _write_index(folder)


def head_weights(folder: Path) -> HeadWeights:
    """The head in a folder. Raises: ModelError when there is none."""
    tensors = read_tensors(folder)
    if HEAD_NAMES[0] not in tensors:
        raise ModelError(f"there is no {HEAD_NAMES[0]}: the head was not trained", where=str(folder))
    weight, bias = (tensors.get(name) for name in HEAD_NAMES)
    assert weight is not None
    return HeadWeights(weight.float().numpy(), None if bias is None else bias.float().numpy())


def as_language_model(folder: Path, output: Path) -> Path:
    """`folder` under another name, its config.json that of a causal language model: its graph ends before any head."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    output.mkdir(parents=True)
    copy_small_files(folder, folder, output)
    for path in [*folder.glob("*.safetensors"), *folder.glob(INDEX)]:
        link_or_copy(path, output / path.name)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    family = config["model_type"]
    for key in ("id2label", "label2id"):
        config.pop(key, None)
    config["architectures"] = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(family, family)]
    (output / "config.json").write_text(json.dumps(config, indent=2), "utf-8")
    return output


def _write_index(folder: Path) -> None:
    """Name all tensors but a language head's, which the model has no place for."""
    names: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as stored:
            names |= dict.fromkeys(stored.keys(), path.name)
    kept = {name: file for name, file in sorted(names.items()) if name not in LANGUAGE_HEADS}
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    text = json.dumps({"metadata": {"total_size": size}, "weight_map": kept}, indent=2)
    (folder / INDEX).write_text(text, "utf-8")
