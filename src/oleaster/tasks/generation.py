"""Free text: whatever the rows answer."""

from __future__ import annotations

from oleaster.config.schema import Config
from oleaster.core.errors import DataError
from oleaster.data.prepare import Prepared
from oleaster.tasks.task import Task


def settle(config: Config, prepared: Prepared) -> Config:
    """Nothing is left open."""
    refuse_pairs(config, prepared)
    return config


def refuse_pairs(config: Config, prepared: Prepared) -> None:
    """Raises: DataError when the rows are pairs of texts, which no language model answers."""
    if prepared.config.data_format == "pairs":
        columns = f"{prepared.config.prompt_field} and {prepared.config.completion_field}"
        message = f"the rows are pairs of texts ({columns})"
        raise DataError(message, where=f"--task {config.task.type}", remedy="--task embedding learns from pairs")


TASK = Task("generation", settle)
