"""Tiny models in memory and a plain way to compute what the predictor computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from oleaster.models.load import load_weights
from oleaster.models.loaded import LoadedModel
from oleaster.models.tiny import make_tiny

torch.set_num_threads(1)


def loaded(folder: Path, own: bool) -> LoadedModel:
    if own:
        model, _ = load_weights(folder, torch.float32)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return LoadedModel(model, tokenizer, folder, str(folder), "none", torch.float32, (2,))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory):
    """`tiny(family)`: a family's tiny model on transformers' code, made once; `own`: as `load_weights` gives it."""
    folders: dict[str, Path] = {}
    made: dict[tuple[str, bool], LoadedModel] = {}

    def get(family: str, own: bool = False) -> LoadedModel:
        if family not in folders:
            folders[family] = make_tiny(family, tmp_path_factory.mktemp(family))
        if (family, own) not in made:
            made[family, own] = loaded(folders[family], own)
        return made[family, own]

    return get


@pytest.fixture
def fresh(tmp_path: Path):
    """`fresh(family, own)`: as `tiny`, but a model of the test's own that it may change."""
    return lambda family, own: loaded(make_tiny(family, tmp_path / family), own)
