"""Reads a LoRA adapter in PEFT's layout as plain tensors: no model is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from oleaster.core.errors import ModelError
from oleaster.methods.adapter_files import read_adapter, read_config
from oleaster.methods.lora import LOW_RANK_NAME, Lora, is_plain_lora


@dataclass(frozen=True)
class Delta:
    """One low-rank update: W + scale * B A."""

    A: torch.Tensor
    """[r, in]"""
    B: torch.Tensor
    """[out, r]"""
    scale: float

    def full(self) -> torch.Tensor:
        """[out, in] in float32."""
        return self.scale * (self.B.float() @ self.A.float())


@dataclass(frozen=True)
class LoraAdapter:
    """What an adapter folder holds."""

    folder: Path
    deltas: dict[str, Delta]
    """By module path (`model.layers.0.self_attn.q_proj`)."""
    replaced: dict[str, torch.Tensor]
    """Tensors that were trained whole (`modules_to_save`), by their name in the base."""
    fan_in_fan_out: bool
    """The base keeps these weights as [in, out] (GPT-2's Conv1D)."""


def is_lora(folder: Path) -> bool:
    """Is it W + scale * B A? Raises: ModelError when it is no adapter at all, or damaged."""
    return is_plain_lora(read_config(folder))


def read_lora(folder: Path) -> LoraAdapter:
    """Read a PEFT adapter folder.

    Raises: ModelError when it is not a LoRA adapter, is damaged, or holds what W + scale * B A cannot express.
    """
    method = Lora.from_folder(folder)
    files = read_adapter(folder)
    halves: dict[str, dict[str, torch.Tensor]] = {}
    replaced: dict[str, torch.Tensor] = {}
    for name, tensor in files.tensors.items():
        if match := LOW_RANK_NAME.fullmatch(name):
            halves.setdefault(match["path"], {})[match["side"]] = tensor
        else:
            replaced[name] = tensor
    deltas = {path: Delta(half["A"], half["B"], method.scaling_of(path)) for path, half in halves.items()}
    if not deltas and not replaced:
        raise ModelError("the adapter is empty", where=str(folder))
    return LoraAdapter(folder, deltas, replaced, bool(files.config.get("fan_in_fan_out", False)))
