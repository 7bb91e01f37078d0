"""A model as a folder in the hub's layout: config.json, safetensors, tokenizer and chat template."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oleaster.core.errors import ModelError
from oleaster.core.files import atomic_write_json, link_or_copy, staged_folder

INDEX = "model.safetensors.index.json"
MODEL_FILES = (
    "*.json",
    "*.safetensors",
    "*.jinja",
    "*.model",
    "*.tiktoken",
    "*.txt",
    "*.py",
    "README.md",
    "LICENSE*",
)
"""What belongs to a model: weights, configuration, tokenizer, template, own code, card. Other formats do not."""
NOT_MODEL_FILES = ("adapter_*", "original/*", "onnx/*", "consolidated*")


@dataclass(frozen=True)
class ModelFolder:
    """A base model on this disk, before its weights are read."""

    source: str
    """What the user asked for: hub id, folder, file or package."""
    folder: Path
    revision: str
    """Commit of the hub model, else `sha256:` and 16 digits that change when a weight does."""

    def config(self) -> dict[str, Any]:
        """config.json. Raises: ModelError when it is missing or is no JSON object."""
        return read_json(self.folder / "config.json")


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """A JSON object; `{}` for an optional file that is not there. Raises: ModelError."""
    if optional and not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError("no such file", where=str(path), remedy="name a folder in the hub's layout") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"no JSON: {error}", where=str(path), remedy="fetch the model again") from error
    if not isinstance(value, dict):
        raise ModelError("no JSON object", where=str(path), remedy="fetch the model again")
    return value


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files the model consists of, sorted by name; some may be missing from the disk.

    With an index these are the files it names; else `model.safetensors`; else every safetensors file that is no
    adapter.
    """
    index = folder / INDEX
    if index.exists():
        return sorted({folder / name for name in read_json(index).get("weight_map", {}).values()})
    single = folder / "model.safetensors"
    if single.exists():
        return [single]
    return sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("adapter"))


def present_weights(folder: Path) -> list[Path]:
    """`weight_files`, all of them on the disk. Raises: ModelError when there are none, or one is missing."""
    files = weight_files(folder)
    missing = [file.name for file in files if not file.exists()]
    if missing or not files:
        raise ModelError(
            f"weights are missing: {', '.join(missing)}" if missing else "there are no .safetensors weights",
            where=str(folder),
            remedy="fetch the model again; weights in other formats are not read (save with safe_serialization)",
        )
    return files


def write_model_folder(base: ModelFolder, target: Path) -> None:
    """Make `target` (a run's `model/`) a folder that plain transformers loads as the base.

    The weights get a second name, not a second copy, where the file system can do that; all else is copied, so that it
    may be edited. An existing `target` is replaced.

    Raises: StorageError when the disk is full.
    """
    weights = weight_files(base.folder)
    with staged_folder(target, replace=True) as staged:
        for path in weights:
            link_or_copy(path, staged / path.relative_to(base.folder))
        _copy_small_files(base.folder, staged)


def write_companions(base: ModelFolder, target: Path, changes: Mapping[str, Any]) -> None:
    """Put the base's config, tokenizer and template beside weights that were trained whole.

    Args:
        target: folder that holds the new weights.
        changes: fields of config.json that differ from the base, such as `{"dtype": "float32"}`.
    """
    target.mkdir(parents=True, exist_ok=True)
    _copy_small_files(base.folder, target)
    atomic_write_json(target / "config.json", {**base.config(), **changes})
    (target / INDEX).unlink(missing_ok=True)  # it names the base's files


def _copy_small_files(source: Path, target: Path) -> None:
    """Copy what is no weight; symbolic links (the hub cache is made of them) become files."""
    for path in sorted(source.iterdir()):
        wanted = any(path.match(pattern) for pattern in MODEL_FILES)
        unwanted = path.suffix == ".safetensors" or any(path.match(pattern) for pattern in NOT_MODEL_FILES)
        if path.is_file() and wanted and not unwanted:
            shutil.copyfile(path, target / path.name)
