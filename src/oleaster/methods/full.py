"""Full fine-tuning: every parameter is trained, the result is a whole model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from oleaster.core.errors import ModelError, StorageError, collect
from oleaster.core.files import staged_file, sweep
from oleaster.models.loaded import BaseNeeds

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Full:
    """Trains everything. The file holds float32 under the hub's names; config and tokenizer come from the base."""

    needs = BaseNeeds(trained=True)
    saves_model = True
    no_export = None

    @classmethod
    def from_config(cls, config: Any) -> Full:
        """There is nothing to set."""
        return cls()

    def trained_numbers(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """All of them."""
        return sum(math.prod(shape) for shape in shapes.values())

    def attach(self, model: nn.Module, seed: int) -> None:
        """Make every parameter float32 and trainable; nothing is drawn from `seed`."""
        model.float().requires_grad_(True)

    def merge(self, model: nn.Module) -> None:
        """The weights are plain already."""
        model.requires_grad_(False)

    def save(self, model: nn.Module, folder: Path, base: str, revision: str) -> None:
        """Write `model.safetensors`, whole or not at all. Raises: StorageError when the disk is full."""
        tensors = {name: tensor.contiguous() for name, tensor in _plain_tensors(model).items()}
        sweep(folder)  # a killed process may have left one as large here
        try:
            with staged_file(folder / WEIGHTS) as part:
                save_file(tensors, part, metadata={"format": "pt"})  # straight to disk: no second copy in memory
                part.chmod(0o644)  # safetensors makes its files readable by the owner only
        except SafetensorError as error:  # what safetensors makes of a full disk
            raise StorageError(f"{folder / WEIGHTS} could not be written: {error}") from error

    def load(self, model: nn.Module, folder: Path) -> None:
        """Read what `save` wrote, tensor by tensor. Raises: ModelError when names or shapes differ."""
        path, own = folder / WEIGHTS, _plain_tensors(model)
        if not path.is_file():
            raise ModelError(f"no {WEIGHTS} here", where=str(folder), remedy="name the model/ folder of a full run")
        try:
            with safe_open(path, "pt") as file, torch.no_grad():
                names = set(file.keys())
                problems = [f"'{name}' is missing" for name in own if name not in names]
                problems += [f"'{name}' is not in this model" for name in sorted(names - set(own))]
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names & set(own)}
                problems += [
                    f"'{name}' has shape {shape}, the model {tuple(own[name].shape)}"
                    for name, shape in shapes.items()
                    if shape != tuple(own[name].shape)
                ]
                collect([ModelError(problem, where=str(path)) for problem in problems])
                for name, tensor in own.items():
                    tensor.copy_(file.get_tensor(name))
        except SafetensorError as error:
            raise ModelError(f"the file is damaged: {error}", where=str(path)) from error


def _plain_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters (a tied one once) and those buffers that belong into a file."""
    parameters: dict[str, torch.Tensor] = {name: p.detach() for name, p in model.named_parameters()}
    kept = model.state_dict(keep_vars=True)
    return parameters | {name: buffer for name, buffer in model.named_buffers() if name in kept}
