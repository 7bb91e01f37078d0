"""Reads a LoRA adapter in PEFT's layout, as plain tensors."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from oleaster.core.errors import ModelError, collect

PREFIX = "base_model.model."
NOT_CARRIED = {
    "use_dora": "DoRA scales every output row by a magnitude that depends on the base weight",
    "use_qalora": "QALoRA pools the input",
    "alora_invocation_tokens": "activated LoRA switches itself on in the middle of a text",
    "megatron_config": "Megatron layers are not in a plain folder",
    "layer_replication": "layer replication changes the number of layers",
    "trainable_token_indices": "single trained token rows are not a low-rank branch",
    "target_parameters": "LoRA on bare parameters (experts) is not implemented",
}


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
    """Tensors that were trained whole (`modules_to_save`, biases), by their name in the base."""
    fan_in_fan_out: bool
    """The base keeps these weights as [in, out] (GPT-2's Conv1D)."""


def read_adapter(folder: Path) -> LoraAdapter:
    """Read `adapter_config.json` and `adapter_model.safetensors`.

    Raises: ModelError when the folder is not a LoRA adapter, or holds something that W + scale * B A cannot express.
    """
    config = _read_config(folder)
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        raise ModelError(
            "there is no adapter_model.safetensors", where=str(folder), remedy="save the adapter with PEFT"
        )
    tensors = load_file(weights)
    halves: dict[str, dict[str, torch.Tensor]] = {}
    replaced: dict[str, torch.Tensor] = {}
    problems = []
    for key, tensor in tensors.items():
        name = key.removeprefix(PREFIX)
        if match := re.fullmatch(r"(.+)\.lora_([AB])\.weight", name):
            halves.setdefault(match[1], {})[match[2]] = tensor
        elif "lora_" in name:
            problems.append(ModelError(f"the tensor {key} has no place in W + scale * B A", where=str(weights)))
        else:
            replaced[name.replace(".modules_to_save", "").replace(".base_layer", "")] = tensor
    for path, half in halves.items():
        if set(half) != {"A", "B"} or half["A"].shape[0] != half["B"].shape[1]:
            problems.append(ModelError(f"lora_A and lora_B of {path} do not fit together", where=str(weights)))
    collect(problems)
    if not halves and not replaced:
        raise ModelError("the adapter is empty", where=str(weights))
    deltas = {
        path: Delta(half["A"], half["B"], _scale(config, path, half["A"].shape[0])) for path, half in halves.items()
    }
    return LoraAdapter(folder, deltas, replaced, bool(config.get("fan_in_fan_out", False)))


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise ModelError("there is no adapter_config.json", where=str(folder), remedy="name a PEFT adapter folder")
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA":
        raise ModelError(
            f"peft_type is {config.get('peft_type')!r}", where=str(path), remedy="only LORA can be exported"
        )
    collect(
        [ModelError(f"{key} is set: {why}", where=str(path)) for key, why in NOT_CARRIED.items() if config.get(key)]
    )
    return config


def _scale(config: dict[str, Any], path: str, rank: int) -> float:
    """alpha / r, or alpha / sqrt(r) with rsLoRA; patterns as PEFT matches them: regex against the path's end."""
    alpha = config["lora_alpha"]
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            alpha = value
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
