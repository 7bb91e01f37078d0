"""Points of a space: drawn, listed for a grid, checked, and made into the recipe of a trial."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from oleaster.config.flags import config_flags
from oleaster.config.load import leaf_values, replace
from oleaster.config.schema import Config
from oleaster.config.search import Dimension, text_of
from oleaster.core.errors import ConfigError, UserError, collect

Point = dict[str, str]
"""Setting -> value as a recipe has it."""


def draw(dimensions: Sequence[Dimension], config: Config, trial: Any) -> Point:
    """Let an Optuna trial choose every setting that is searched under what was chosen before.

    What it has chosen already stays, so the same call completes a trial that was broken off while it chose.
    """
    point: Point = {}
    for dimension in dimensions:
        if is_active(dimension, point, config):
            point[dimension.name] = text_of(_suggest(dimension, trial))
    return point


def _suggest(dimension: Dimension, trial: Any) -> Any:
    d = dimension
    if d.type == "choice":
        return trial.suggest_categorical(d.name, list(d.values))
    if d.type == "int":
        return trial.suggest_int(d.name, int(d.low), int(d.high), step=int(d.step or 1), log=d.log)
    return trial.suggest_float(d.name, d.low, d.high, step=d.step, log=d.log)


def grid(dimensions: Sequence[Dimension], config: Config) -> Iterator[dict[str, Any]]:
    """Every different point of the space, as values for Optuna's `enqueue_trial`."""
    seen = set()
    for values in itertools.product(*(_places(dimension) for dimension in dimensions)):
        chosen: dict[str, Any] = {}
        for dimension, value in zip(dimensions, values, strict=True):
            if is_active(dimension, {name: text_of(v) for name, v in chosen.items()}, config):
                chosen[dimension.name] = value
        if (key := tuple(chosen.items())) not in seen:
            seen.add(key)
            yield chosen


def _places(dimension: Dimension) -> Sequence[Any]:
    d = dimension
    if d.type == "choice":
        return d.values
    if d.type == "int":
        return range(int(d.low), int(d.high) + 1, int(d.step or 1))
    assert d.step is not None  # config.space has seen to it
    count = int((d.high - d.low) / d.step * (1 + 1e-12)) + 1
    return [float(f"{d.low + i * d.step:.12g}") for i in range(count)]


def own_point(dimensions: Sequence[Dimension], config: Config) -> dict[str, Any] | None:
    """The recipe's own values of the searched settings; None where one of them lies outside of the space."""
    leaves, point = leaf_values(config), {}
    for dimension in dimensions:
        if not is_active(dimension, {}, config):
            continue
        value = text_of(leaves.get(dimension.name))
        if dimension.type == "choice":
            found = next((v for v in dimension.values if _same(v, value)), None)
        else:
            found = _inside(dimension, value)
        if found is None:
            return None
        point[dimension.name] = found
    return point


def _inside(dimension: Dimension, text: str) -> float | int | None:
    try:
        number = float(text)
    except ValueError:
        return None
    steps = (number - dimension.low) / (dimension.step or 1.0)
    off_grid = (dimension.step or dimension.type == "int") and abs(steps - round(steps)) > 1e-9
    if not dimension.low <= number <= dimension.high or off_grid:
        return None
    return int(number) if dimension.type == "int" else number


def is_active(dimension: Dimension, point: Mapping[str, str], config: Config) -> bool:
    """Do the settings that it waits for have the values that it waits for, in `point` or else in the recipe?"""
    if not dimension.when:
        return True
    leaves = leaf_values(config)
    return all(
        any(_same(point.get(name, text_of(leaves.get(name))), value) for value in values)
        for name, values in dimension.when
    )


def _same(a: str, b: str) -> bool:
    """8 is 8.0, and 1e-3 is 0.001."""
    try:
        return float(a) == float(b)
    except ValueError:
        return a == b


def recipe_of_point(config: Config, point: Mapping[str, str], folder: Path) -> Config:
    """The recipe of the run that a trial is: without the search, in a folder of its own.

    Raises: ConfigError when a value is none for its setting.
    """
    search = {flag.name: None for flag in config_flags().values() if flag.section == "search_strategy"}
    chosen = {name: None if value == "null" else value for name, value in point.items()}
    return replace(config, **search, search_space=None, **chosen, output_path=str(folder), resume=True)


def check_points(
    config: Config, dimensions: Sequence[Dimension], fits: Callable[[Config], object] = lambda recipe: None
) -> None:
    """Try the ends of every range and each value of every choice: on the recipe, and where that refuses it, with the
    ends of each other setting, as a trial may have them together.

    Args:
        fits: called with the recipe of each; raises what else is wrong with it.

    Raises: ConfigError for the values that no other setting makes right, all of them together.
    """
    problems: list[UserError] = []

    def wrong(point: Point) -> UserError | None:
        try:
            fits(recipe_of_point(config, point, Path("trial")))
        except UserError as problem:
            return problem
        return None

    for dimension in dimensions:
        waited = {name: values[0] for name, values in dimension.when}
        for value in _ends(dimension):
            point = {**waited, dimension.name: value}
            problem = wrong(point)
            if problem is None:
                continue
            others = [(other.name, end) for other in dimensions if other.name not in point for end in _ends(other)]
            if all(wrong({**point, name: end}) for name, end in others):
                found = problem.message.removeprefix(f"--{dimension.name}: ")
                where = f"search_space.{dimension.name}: {value}"
                problems.append(ConfigError(found, where=where, remedy=problem.remedy))
    collect(problems)


def _ends(dimension: Dimension) -> Sequence[str]:
    """The values of a choice, the two ends of a range."""
    return dimension.values or [text_of(_end(dimension, end)) for end in (dimension.low, dimension.high)]


def _end(dimension: Dimension, number: float) -> float | int:
    return int(number) if dimension.type == "int" else number
