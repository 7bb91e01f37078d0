"""From what was typed to a `Config`: which recipe stands behind a command line, and how loud libraries are."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from oleaster.cli.words import Given
from oleaster.config.load import RECIPE_NAME, load_config
from oleaster.config.rules import Rule
from oleaster.config.schema import Config

_LEVELS = ("debug", "info", "warning", "error", "critical")


def config_for(given: Given, recipe: Path | None, rules: Sequence[Rule]) -> Config:
    """Recipe below, typed settings above; libraries are told how loud they may be."""
    config = load_config(recipe, given.settings, rules=rules)
    set_log_level(config.log_level)
    return config


def recipe_behind_fragment(given: Given) -> Path | None:
    """The recipe of a `finetune`: `--config`, else, when the command names no model or no rows, the `oleaster.yaml`
    of the output folder (that run again, with what is typed changed) or of the current folder.

    A command that names both is complete: what an earlier run had set must not slip into it.
    """
    if given.own["config"] is not None:
        return given.own["config"]
    typed = given.settings
    if "model_name_or_path" in typed and ("data_name" in typed or "data_files" in typed):
        return None
    folders = [Path(str(typed["output_path"]))] if typed.get("output_path") else []
    return next((f / RECIPE_NAME for f in (*folders, Path()) if (f / RECIPE_NAME).is_file()), None)


def set_log_level(level: int) -> None:
    """Tell libraries before they are imported what they may print; 0 debug ... 4 critical."""
    name = _LEVELS[level]
    for library in ("TRANSFORMERS", "DATASETS", "HF_HUB"):
        os.environ[f"{library}_VERBOSITY"] = name
    if level > 1:
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    logging.basicConfig(level=name.upper(), format="%(name)s: %(message)s")
