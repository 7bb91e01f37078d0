"""A study without trainings: what it decides is seen from what it hands out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oleaster.config.load import replace
from oleaster.config.schema import Config
from oleaster.config.space import dimensions
from oleaster.search.objectives import read_objectives
from oleaster.search.study import Study

SPACE: dict[str, Any] = {
    "learning_rate": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
    "lora_r": {"type": "int", "low": 2, "high": 64},
    "lr_scheduler_type": ["cosine", "linear"],
}


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., Study]:
    """Opens the study in a folder, as a process of its own would; settings of the search as keywords."""

    def opened(folder: str = "search", **settings: Any) -> Study:
        config = replace(Config(), **{"search_space": SPACE, "num_trials": 6, **settings})
        (tmp_path / folder).mkdir(exist_ok=True)
        return Study(tmp_path / folder, config, dimensions(config), read_objectives(config, ()))

    return opened


def loss_of(point: dict[str, str]) -> float:
    """A valley: low near learning_rate 1e-3 and rank 16."""
    import math

    return abs(math.log10(float(point.get("learning_rate", "1e-3"))) + 3) + abs(int(point["lora_r"]) - 16) / 5000
