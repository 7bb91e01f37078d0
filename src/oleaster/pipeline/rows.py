"""Which rows a finished model is held to: those its run held out, or others that are named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oleaster.config.schema import Config, DataConfig

if TYPE_CHECKING:
    from oleaster.data.papers import Example

_NAMES = ("eval_data_files", "data_files", "data_name", "eval_split")
"""Settings that say which rows, the one that decides first."""


def names_rows(data: DataConfig) -> bool:
    """Does anything say which rows?"""
    return bool(data.data_name or data.data_files or data.eval_data_files)


def rows_to_ask(config: Config, recipe: Config | None) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """(rows to ask, rows the model was trained on as far as they are known)

    Args:
        config: its `data` is the recipe's with what the user typed laid over it.
        recipe: that of the run or artifact; when `config` names the same rows, those that the run held out are asked
            (none where it held none out), else those that `config` names instead.

    Raises: ConfigError, DataError when rows cannot be read.
    """
    from oleaster.data.prepare import prepare, read_test_rows

    typed = _typed(config.data, recipe.data if recipe else DataConfig())
    if recipe is not None and not typed:
        prepared = prepare(recipe.data, recipe.seed)
        return prepared.validation, prepared.train
    # What is not typed goes on naming the recipe's rows, of which another split may be asked.
    names = {**{name: getattr(config.data, name) for name in _NAMES}, **typed} if not _places(typed) else typed
    places = _places(names)
    return tuple(e for name in places for e in read_test_rows(config.data, name, typed.get("eval_split"))), ()


def _typed(data: DataConfig, recipe: DataConfig) -> dict[str, Any]:
    return {name: value for name in _NAMES if (value := getattr(data, name)) != getattr(recipe, name)}


def _places(names: dict[str, Any]) -> list[str]:
    """Files, folders or data sets."""
    files = names.get("eval_data_files") or names.get("data_files")
    return list(files or ([names["data_name"]] if names.get("data_name") else []))
