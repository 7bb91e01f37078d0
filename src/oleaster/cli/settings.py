"""From what was typed to a `Config`: which recipe stands behind a command line, and how loud libraries are."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from oleaster.cli.words import Given
from oleaster.config.load import RECIPE_NAME, load_config
from oleaster.config.recipe import read_recipe
from oleaster.config.rules import Rule, near_file
from oleaster.config.schema import Config
from oleaster.core.errors import ConfigError

_LEVELS = ("debug", "info", "warning", "error", "critical")


def config_for(given: Given, recipe: Path | Sequence[Path] | None, rules: Sequence[Rule]) -> Config:
    """Recipe (or several, the last on top) below, typed settings above; libraries are told how loud they may be."""
    config = load_config(recipe, given.settings, rules=rules)
    set_log_level(config.log_level)
    return config


def recipes_behind(given: Given) -> list[Path]:
    """The recipes that a command with `--config` rests on, the lowest first.

    When neither they nor the command line name a model and rows, the lowest is the `oleaster.yaml` of the output
    folder (that run again, with what is given changed) or of the current folder; the user is told. What names both is
    complete: nothing that an earlier run had set must slip into it.
    """
    named = [Path(path) for path in given.own["config"] or ()]
    settings = dict(given.settings)
    for path in named:
        recipe = read_recipe(path)
        settings |= recipe.values
        for note in recipe.notes:
            print(note, file=sys.stderr)
    if "model_name_or_path" in settings and ("data_name" in settings or "data_files" in settings):
        return named
    folders = [Path(str(given.settings["output_path"]))] if given.settings.get("output_path") else []
    below = next((f / RECIPE_NAME for f in (*folders, Path()) if (f / RECIPE_NAME).is_file()), None)
    if below is None and folders and given.settings.get("resume") and not named:
        raise ConfigError("no run lies here to go on with", where=str(folders[0]), remedy=near_file(folders[0]))
    if below is None or below in named:
        return named
    print(f"settings that are not given here come from {below}", file=sys.stderr)
    return [below, *named]


def set_log_level(level: int) -> None:
    """Tell libraries before they are imported what they may print; 0 debug ... 4 critical."""
    name = _LEVELS[level]
    for library in ("TRANSFORMERS", "DATASETS", "HF_HUB"):
        os.environ[f"{library}_VERBOSITY"] = name
    if level > 1:
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    logging.basicConfig(level=name.upper(), format="%(name)s: %(message)s")
