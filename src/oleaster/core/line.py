"""The folder of a whole recipe's work: a folder for each step, and what each was made from.

recipe.yaml     the recipe as it was resolved
line.json       what the last start did: steps, seconds, folders; written after each step
NAME/           what the step NAME made; .step.json in it says from what
earlier/        what steps made with other settings or rows; it comes back when they do

A step's folder and the note in it are renamed as one, so no kill can part them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from oleaster.core.errors import ConfigError
from oleaster.core.files import atomic_write_json, atomic_write_text, remove_folder, storage_errors, sweep
from oleaster.core.hashing import hash_value
from oleaster.core.run import Run, locked

_NOTE = ".step.json"
KEPT_NAMES = ("earlier", "line", "recipe")
"""What no step may be called."""


@dataclass(frozen=True)
class StepNote:
    """What a step was made from, and what came of it."""

    facts: Mapping[str, Any]
    """Everything that decides what the step makes: settings, digits of rows, models and code."""
    done: bool = False
    model: str = ""
    """The model as this step left it: a path inside the line's folder begins with `./`."""
    contents: str = ""
    """Digits of what the step made."""
    seconds: float = 0.0

    @property
    def key(self) -> str:
        """Digits that stand for the facts."""
        return hash_value(self.facts)


@dataclass(frozen=True)
class Line:
    """The folder of a recipe's work."""

    folder: Path

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def record(self) -> Path:
        return self.folder / "line.json"

    @classmethod
    def is_line(cls, folder: Path) -> bool:
        """Does `folder` look like the folder of a recipe's work?"""
        return (folder / "line.json").is_file()

    @classmethod
    @contextmanager
    def claim(cls, folder: Path, recipe: str) -> Iterator[Line]:
        """Take `folder` for the work of a recipe; no other process can take it inside the block.

        Raises: ConfigError when it holds something else, or another process works in it.
        """
        line = cls(folder)
        line._refuse_foreign()
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            sweep(folder)
            atomic_write_text(line.recipe, recipe)
            if not line.record.exists():
                line.write_record([])
            yield line

    def write_record(self, steps: list[dict[str, Any]]) -> None:
        """Say what this start has done so far."""
        atomic_write_json(self.record, {"steps": steps})

    def read_record(self) -> list[dict[str, Any]]:
        """What the last start did, a dict per step."""
        return json.loads(self.record.read_text("utf-8"))["steps"]

    def newest_training(self) -> Run | None:
        """The training that was begun last; it may still be under way. None before the first."""
        found = [Run(step) for step in self.folder.iterdir() if Run.is_run(step)]
        return max(found, key=lambda run: run.recipe.stat().st_mtime, default=None)

    def step(self, name: str) -> Path:
        """The folder of a step."""
        return self.folder / name

    def note(self, name: str) -> StepNote | None:
        """What a step's folder was made from; None when there is none, or it does not say."""
        try:
            return StepNote(**json.loads((self.step(name) / _NOTE).read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write_note(self, name: str, note: StepNote) -> None:
        """Write it into the step's folder, which is made when it is not there."""
        atomic_write_json(self.step(name) / _NOTE, asdict(note))

    def make_way(self, name: str) -> None:
        """Put a step's folder aside, finished or not; one that does not say what it was made from is deleted."""
        folder, note = self.step(name), self.note(name)
        if not folder.exists():
            return
        if note is None:
            remove_folder(folder)
            return
        aside = self._aside(name, note.key)
        aside.parent.mkdir(exist_ok=True)
        if aside.exists():
            remove_folder(aside)
        folder.rename(aside)

    def bring_back(self, name: str, key: str) -> bool:
        """Put a step's folder in its place that was made from the same things before. Is there one?"""
        aside = self._aside(name, key)
        if not aside.is_dir():
            return False
        self.make_way(name)
        aside.rename(self.step(name))
        return True

    def _aside(self, name: str, key: str) -> Path:
        return self.folder / "earlier" / f"{name}-{key}"

    def _refuse_foreign(self) -> None:
        where = str(self.folder)
        if Line.is_line(self.folder) or not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise ConfigError("a file is in the place of the folder", where=where, remedy="choose another output_path")
        if names := sorted(path.name for path in self.folder.iterdir() if not path.name.startswith(".")):
            some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            message = f"the folder holds files that are not of a recipe's work: {some}"
            raise ConfigError(message, where=where, remedy=f"choose another output_path, e.g. {self.folder / 'line1'}")


def run_of(path: Path | str) -> Run | None:
    """The run that `path` is the folder of, or the `model` or `adapter` in; of a recipe's work, its newest training."""
    folder = Path(path)
    if Line.is_line(folder):
        return Line(folder).newest_training()
    if folder.name in ("model", "adapter") and not Run.is_run(folder):
        folder = folder.parent
    return Run(folder) if Run.is_run(folder) else None


def open_run(folder: Path) -> Run:
    """`run_of`, for reading. Raises: ConfigError when there is no run."""
    return run_of(folder) or Run.open(folder)
