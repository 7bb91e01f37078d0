"""What an output format has to know so that `export` and `verify` can make it and hold it to the tuned model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from oleaster.config.schema import ExportConfig
from oleaster.data.papers import Encoded
from oleaster.exporting.adapter_folder import LoraAdapter
from oleaster.exporting.ladder import Rung
from oleaster.exporting.rungs import Questions


@dataclass(frozen=True)
class Material:
    """What an artifact is made from."""

    merged: Path
    """The tuned model as a plain float32 folder."""
    adapter: LoraAdapter | None
    """What was merged in."""
    work: Path
    """A folder for what is not shipped; removed in the end."""
    stops: tuple[int, ...]
    """Ids that end an answer."""
    prompts: Sequence[str]
    """Rendered prompts of the task, for the prompt contract."""
    calibration: Sequence[Encoded]
    options: ExportConfig


class Layout(Protocol):
    """One kind of artifact."""

    @property
    def kind(self) -> str:
        """`Artifact.kind`"""
        ...

    @property
    def precisions(self) -> tuple[str, ...]:
        """What `auto` tries, smallest first."""
        ...

    def check(self, model_folder: Path) -> None:
        """Refuse, before any work, a model that cannot be written so. Raises: ModelError, MissingExtraError."""
        ...

    def prepare(self, material: Material) -> Rung | None:
        """Make what all precisions start from; the rung that must be exact, where there is one."""
        ...

    def make(self, material: Material, precision: str, folder: Path) -> None:
        """Write the whole artifact but its manifest into `folder`, which is made.

        Raises: ModelError when this precision cannot be made of this model.
        """
        ...

    def weights(self, folder: Path) -> list[Path]:
        """The files that hold graph and weights."""
        ...

    def memory_mb(self, folder: Path) -> float | None:
        """Peak memory, in MB, of a process that has it loaded and answers; None = not measured for this kind."""
        ...

    def quantised_rung(self, folder: Path, precision: str, stops: Sequence[int], adapter: str | None = None) -> Rung:
        """The artifact's weights alone, asked with the training side's ids and stop ids."""
        ...

    def runtime_rung(self, folder: Path, questions: Questions, adapter: str | None = None) -> Rung | None:
        """The artifact as it is deployed; None = what runs it is not installed."""
        ...


def size_mb(files: Sequence[Path]) -> float:
    """In MB (1,000,000 bytes)."""
    return sum(path.stat().st_size for path in files) / 1e6
