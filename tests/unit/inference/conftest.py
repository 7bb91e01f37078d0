"""Tiny models in memory and a plain way to compute what the predictor computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from oleaster.models.loaded import LoadedModel
from oleaster.models.tiny import make_tiny

torch.set_num_threads(1)


def loaded(folder: Path, stop_ids: tuple[int, ...] = (2,)) -> LoadedModel:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return LoadedModel(model, tokenizer, folder, str(folder), "none", torch.float32, stop_ids)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory):
    """`tiny(family)`: the loaded tiny model of a family, made once."""
    made: dict[str, LoadedModel] = {}

    def get(family: str) -> LoadedModel:
        if family not in made:
            made[family] = loaded(make_tiny(family, tmp_path_factory.mktemp(family)))
        return made[family]

    return get
