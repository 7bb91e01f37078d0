"""A study without trainings: what it decides is seen from what it hands out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from valley import SPACE

from oleaster.config.load import replace
from oleaster.config.schema import Config
from oleaster.config.space import dimensions
from oleaster.search.objectives import read_objectives
from oleaster.search.study import Study


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., Study]:
    """Opens the study in a folder, as a process of its own would; settings of the search as keywords."""

    def opened(folder: str = "search", **settings: Any) -> Study:
        config = replace(Config(), **{"search_space": SPACE, "num_trials": 6, **settings})
        (tmp_path / folder).mkdir(exist_ok=True)
        return Study(tmp_path / folder, config, dimensions(config), read_objectives(config, ()))

    return opened
