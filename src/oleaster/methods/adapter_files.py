"""`adapter_config.json` and `adapter_model.safetensors`: PEFT's layout on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from oleaster.core.errors import ModelError
from oleaster.core.files import atomic_write_bytes, atomic_write_text

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT puts in front of every path of the base model."""


@dataclass(frozen=True)
class AdapterFiles:
    """What an adapter folder holds, unchecked."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    """By parameter name of the base model, without PEFT's prefix."""


def read_config(folder: Path) -> dict[str, Any]:
    """`adapter_config.json`. Raises: ModelError when it is missing or damaged."""
    with _named_errors(folder):
        return json.loads((folder / CONFIG).read_text(encoding="utf-8"))


def read_adapter(folder: Path) -> AdapterFiles:
    """Read an adapter folder. Raises: ModelError when a file is missing or damaged."""
    config = read_config(folder)
    with _named_errors(folder):
        tensors = load_file(folder / WEIGHTS)
    return AdapterFiles(folder, config, {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()})


@contextmanager
def _named_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        found = ", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "no such folder"
        raise ModelError(
            f"no {Path(error.filename or WEIGHTS).name} here ({found or 'empty folder'})",
            where=str(folder),
            remedy=f"name a folder with {CONFIG} and {WEIGHTS}, such as a run's adapter/",
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise ModelError(f"the adapter is damaged: {error}", where=str(folder), remedy="save it again") from error


def write_adapter(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], prefix: str = PREFIX
) -> None:
    """Write both files, each whole or not at all; the config last, since it is what makes the folder an adapter.

    Raises: StorageError when the disk is full.
    """
    # a tied weight comes under each of its names, and safetensors refuses shared memory: hence the copies
    named = {f"{prefix}{name}": tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    atomic_write_bytes(folder / WEIGHTS, save(named, metadata={"format": "pt"}))
    atomic_write_text(folder / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
