"""A .gguf file (llama.cpp's format, mostly quantised) unpacked into a plain folder of float32 weights."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

from oleaster.core.errors import ModelError
from oleaster.core.files import atomic_write_json, link_or_copy, staged_folder, work_folder
from oleaster.models.folder import read_json

NOT_IN_A_PLAIN_CONFIG = ("quantization_config", "_name_or_path", "_model_name_or_path")
SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
"""llama.cpp's name for one part of several."""
UNREADABLE = (ValueError, KeyError, IndexError, TypeError, NotImplementedError, OSError, struct.error)
"""What transformers raises for a damaged file or an architecture it does not know."""


def unpack(path: Path, target: Path) -> None:
    """Dequantise `path` into `target`: config.json, model.safetensors (float32), tokenizer and chat template.

    `target` appears when it is complete and is then used again; a former one is replaced.

    Raises:
        ModelError: the file is damaged, split, or of an architecture that transformers cannot read.
        StorageError: the disk is full.
    """
    _check_file(path)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with work_folder(target) as alone, staged_folder(target, replace=True) as staged:
        # transformers would mix in a tokenizer_config.json that lies beside the file.
        link_or_copy(path, alone / path.name)
        where: dict[str, Any] = {"pretrained_model_name_or_path": alone, "gguf_file": path.name}
        try:
            model = AutoModelForCausalLM.from_pretrained(
                **where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
            )
            tokenizer = AutoTokenizer.from_pretrained(**where)
        except UNREADABLE as error:
            raise ModelError(
                f"transformers cannot unpack this file: {error}",
                where=str(path),
                remedy="fetch it again if it may be cut off; else use the model's folder from the hub",
            ) from error
        model.save_pretrained(staged)
        tokenizer.save_pretrained(staged)
        for file in staged.iterdir():
            file.chmod(0o644)  # safetensors makes its files readable by the owner only
        config = read_json(staged / "config.json")
        kept = {key: value for key, value in config.items() if key not in NOT_IN_A_PLAIN_CONFIG}
        atomic_write_json(staged / "config.json", kept)


def _check_file(path: Path) -> None:
    """Refuse what cannot work from name and first bytes: reading the whole header takes seconds."""
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError("no GGUF file, in spite of its name", where=str(path), remedy="fetch the file again")
    if split := SPLIT.search(path.name):
        raise ModelError(
            f"part {int(split[1])} of {int(split[2])} of a model",
            where=str(path),
            remedy="join the parts first: llama-gguf-split --merge",
        )
