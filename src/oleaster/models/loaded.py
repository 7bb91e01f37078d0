"""A base model ready for work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import dtype, nn


@dataclass(frozen=True)
class BaseNeeds:
    """How a base must be read for what is to be done with it."""

    trained: bool = False
    """Weights of it are trained: float32, and shared with nobody."""
    nf4: bool = False
    """Its linear layers are read into 4 bits (the head apart), where `Decoder` computes it."""
    generic: str | None = None
    """Why transformers' own code must compute it, instead of `Decoder` where that knows the family."""


@dataclass(frozen=True)
class LoadedModel:
    """Model and tokenizer with where they come from."""

    model: nn.Module
    """`decoder.Decoder` for the families it knows, else `generic.Generic` around the transformers model."""
    tokenizer: Any
    """transformers.PreTrainedTokenizerBase"""
    folder: Path
    """Local folder in the hub's layout (config.json, safetensors, tokenizer files)."""
    source: str
    """What the user asked for: hub id, folder, file or package."""
    revision: str
    """Commit of the hub model, else a hash of the weights' file."""
    dtype: dtype
    stop_ids: tuple[int, ...]
    """Ids that end an answer: union of tokenizer, generation config and chat template."""
    context: int | None = None
    """Most tokens of one row, prompt and answer together; None = unknown."""
    why_generic: str | None = None
    """Why the model runs on transformers' code instead of `Decoder`; None when it does not."""
