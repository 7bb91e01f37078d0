"""What the data commands share: which files, and how their rows are read."""

from __future__ import annotations

from pathlib import Path

from oleaster.cli.words import Given
from oleaster.config.flags import Flag, select
from oleaster.config.rules import ALWAYS
from oleaster.config.schema import Config
from oleaster.core.errors import ConfigError

FILES = Flag(
    "files", "Data files, folders or hub data sets; train, valid, test in a name say which part it is.", "list"
)
FILE = Flag("file", "Data file.")
RECIPE = Flag("config", "Recipe that says how rows are read. [none]", "path")
SHAPE = ("data_format", "text_template", "text_field", "prompt_field", "completion_field", "label_field")
"""Settings that say what a row is."""
OTHER = ("seed", "log_level")
TITLES = {"": "other", "data": "rows", "model": "model"}


def shape_flags(*more: str) -> tuple[Flag, ...]:
    """The settings that every data command takes, and `more`."""
    return tuple(select((), (*SHAPE, *more, *OTHER)))


def settings_of(given: Given) -> Config:
    """Recipe and flags."""
    from oleaster.cli.settings import config_for

    return config_for(given, given.own["config"], ALWAYS)


def new_file(given: Given) -> Path:
    """The file to write; never one that is there already."""
    output: Path = given.own["output"]
    if output.exists():
        raise ConfigError("the file exists already", where=str(output), remedy="name a new one; nothing is overwritten")
    return output
