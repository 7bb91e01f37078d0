"""What is to be searched and what for, checked; the study opened. The beginning of every process of a search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from oleaster.config.load import replace
from oleaster.config.rules import TO_FINETUNE, check
from oleaster.config.schema import Config
from oleaster.core.errors import ConfigError, MissingExtraError
from oleaster.core.machine import usable_cores
from oleaster.pipeline.ray_cluster import need_ray

if TYPE_CHECKING:
    from oleaster.config.search import Dimension
    from oleaster.pipeline.shelf import Shelf
    from oleaster.search.papers import Objective
    from oleaster.search.study import Study

_EXAMPLE = "search_space: {learning_rate: {type: float, low: 1e-5, high: 1e-3, log: true}, lora_r: [8, 16, 32]}"


def plan_search(config: Config) -> tuple[list[Dimension], tuple[Objective, ...]]:
    """(what is searched, what for), everything checked that can be without model and rows.

    Raises: UserError, all problems of a kind together.
    """
    from oleaster.search.points import check_points

    check(config, TO_FINETUNE)
    _need_optuna(config)
    found, objectives = read_plan(config)
    check_points(config, found)
    return found, objectives


def read_plan(config: Config) -> tuple[list[Dimension], tuple[Objective, ...]]:
    """The same of a search that was begun; its rows and base may be gone."""
    from oleaster.config.space import dimensions
    from oleaster.core.plugins import load_plugins
    from oleaster.evaluation.metrics import full_name, metrics
    from oleaster.search.objectives import read_objectives

    found = dimensions(config)
    if not found:
        raise ConfigError("nothing is searched", where="search_space", remedy=_EXAMPLE)
    load_plugins(config.plugins)
    return found, read_objectives(config, metrics, full_name)


def open_study(folder: Path, config: Config, dimensions: list[Dimension], objectives: tuple[Objective, ...]) -> Study:
    """The study in a claimed folder; its trials share the machine."""
    from oleaster.search.study import Study

    shared = replace(config, num_threads=threads_of(config))
    return Study(folder, shared, dimensions, objectives)


def shelf_of(config: Config) -> Shelf:
    """What the trials of a process have in common."""
    from oleaster.pipeline.shelf import Shelf

    return Shelf(together=config.search_strategy.trials_together > 1)


def threads_of(config: Config) -> int:
    """CPU threads of each worker: as the recipe says, else an equal share."""
    return config.training.num_threads or max(1, usable_cores() // config.search_strategy.workers)


def _need_optuna(config: Config) -> None:
    import importlib.util

    for package in ("optuna", *(["cmaes"] if config.search_strategy.type == "cma" else [])):
        if importlib.util.find_spec(package) is None:
            remedy = 'pip install "oleaster[search]"'
            raise MissingExtraError(f"the package {package} is not installed", where="search", remedy=remedy)
    if config.search_strategy.engine == "ray":
        need_ray("search_engine ray")
