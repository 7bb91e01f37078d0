"""A run's folder: one place with known names for everything a training makes.

oleaster.yaml   the resolved recipe
log.jsonl       one JSON line per event
ledger.json     what became of every row and token
checkpoints/    for going on after a stop
adapter/        what was trained, in PEFT's layout
model/          the tuned model, in the hub's layout
predictions/    answers of evaluations
README.md       the model card
DONE            a JSON summary; written last, so a folder that has it is complete
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from oleaster.core.artifact import Artifact
from oleaster.core.errors import ConfigError, DataError, UserError
from oleaster.core.files import atomic_write_json, atomic_write_text, remove_folder, storage_errors, sweep

_LOCK = ".lock"
_PATIENCE = 0.2
"""Seconds to wait for a lock: one that only looks whether it is held (`Run.is_under_way`) is gone at once."""
_LEVELS, _MOST_LOOKED_AT, _MOST_NAMED = 3, 100, 3
"""How deep and how many runs are looked for below a folder that is none, and how many of them are named."""


@dataclass(frozen=True)
class Run:
    """The folder of one training. All paths below are its known names, whether or not they exist yet."""

    folder: Path

    @property
    def recipe(self) -> Path:
        return self.folder / "oleaster.yaml"

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.json"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def predictions(self) -> Path:
        return self.folder / "predictions"

    @property
    def card(self) -> Path:
        return self.folder / "README.md"

    @property
    def done(self) -> Path:
        return self.folder / "DONE"

    @property
    def is_done(self) -> bool:
        return self.done.is_file()

    @property
    def is_under_way(self) -> bool:
        """Does a process train in it now? Where that cannot be told (a folder of somebody else), it is taken to."""
        if self.is_done or not (self.folder / _LOCK).exists():
            return False
        try:
            with locked(self.folder, note=False):
                return False
        except (ConfigError, OSError):
            return True

    @property
    def id(self) -> str:
        """Twelve hex digits that stand for the recipe; an artifact names its run by them."""
        return hashlib.sha256(self.recipe.read_bytes()).hexdigest()[:12]

    @property
    def summary(self) -> dict[str, Any]:
        """What `finish` wrote. Raises: FileNotFoundError when the run is not done."""
        return json.loads(self.done.read_text("utf-8"))

    @classmethod
    def is_run(cls, folder: Path) -> bool:
        """Does `folder` look like a run's folder? An artifact, which carries its run's recipe, does not."""
        return (folder / "oleaster.yaml").is_file() and not Artifact.is_artifact(folder)

    @classmethod
    def open(cls, folder: Path) -> Run:
        """An existing run, for reading. Raises: ConfigError when there is none."""
        if cls.is_run(folder):
            return cls(folder)
        if not folder.is_dir():
            found, remedy = "does not exist", f"oleaster finetune --output_path {folder} ... makes one"
        elif Artifact.is_artifact(folder):
            found, remedy = "holds an artifact, not a run", "name the run that it was exported from"
        elif within := sorted(islice(_runs_below(folder), _MOST_LOOKED_AT), key=_depth_and_age):
            more = f" ({len(within)} in all)" if len(within) > _MOST_NAMED else ""
            found = f"is not a run's folder, but holds {'one' if len(within) == 1 else 'some'}"
            remedy = f"name {'it' if len(within) == 1 else 'one'}: {', '.join(map(str, within[:_MOST_NAMED]))}{more}"
        else:
            found = "is not a run's folder (no oleaster.yaml in it)"
            remedy = f"oleaster finetune --output_path {folder} ... makes one"
        raise ConfigError(f"the folder {found}", where=str(folder), remedy=remedy)

    @classmethod
    @contextmanager
    def claim(cls, folder: Path, recipe: str, *, resume: bool = False) -> Iterator[Run]:
        """Take `folder` for a training; no other process can take it inside the block.

        What happens to a folder that exists:

        | it holds                          | resume=False                   | resume=True                     |
        |-----------------------------------|--------------------------------|---------------------------------|
        | nothing, or a start without work  | begins                         | begins                          |
        | unfinished work                   | refused                        | goes on; the recipe stays       |
        | a finished run, same recipe       | refused                        | `is_done`: nothing is left to do|
        | a finished run, another recipe    | refused                        | refused, with the differences   |
        | files of something else           | refused                        | refused                         |

        So the same command with `--resume` may be given again at any time, and nothing is ever overwritten that took
        work to make. A folder that was made here and holds no work goes away again with a UserError.

        Args:
            recipe: the resolved recipe as YAML; written when the run begins.

        Raises: ConfigError in the refused cases and when another process works in the folder.
        """
        run = cls(folder)
        _refuse_foreign(run)  # before the lock, which would leave its file there
        new = not folder.exists()
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            sweep(folder)
            if run.is_done:
                _refuse_finished(run, recipe, resume)
            elif work := run._work():
                _refuse_unfinished(run, work, resume)
            else:
                run._begin(recipe)
            try:
                yield run
            except UserError:
                # Input that only the model could show to be wrong: nothing is left of the start.
                if new and not run._work() and os.name != "nt":  # Windows deletes no locked file
                    remove_folder(folder)
                raise

    def write_recipe(self, recipe: str) -> None:
        """Replace the recipe: for a resumed run whose new settings the checkpoint accepted."""
        atomic_write_text(self.recipe, recipe)

    def finish(self, summary: dict[str, Any]) -> None:
        """Write DONE: everything else must be on the disk."""
        atomic_write_json(self.done, summary)

    def read_log(self) -> list[dict[str, Any]]:
        """All events in the order written; a last line torn by a kill is left out.

        Raises: DataError for any other line that is not JSON.
        """
        if not self.log.exists():
            return []
        *lines, _torn = self.log.read_text("utf-8", errors="replace").split("\n")
        events = []
        for number, line in enumerate(lines, start=1):
            try:
                events.append(json.loads(line))
            except json.JSONDecodeError as error:
                where = f"{self.log}:{number}"
                raise DataError(f"not a JSON line: {error.msg}", where=where, remedy="delete the line") from error
        return events

    def _work(self) -> list[str]:
        """Names of what took work to make."""
        folders = (self.checkpoints, self.adapter, self.model, self.predictions)
        return [f.name for f in folders if f.is_dir() and any(not p.name.startswith(".") for p in f.iterdir())]

    def _begin(self, recipe: str) -> None:
        if self.recipe.exists() and self.recipe.read_text("utf-8") != recipe:
            # Perhaps written by hand, with comments: the resolved recipe must not be the end of it.
            self.recipe.replace(self.folder / "oleaster.yaml.before")
        for stale in (self.log, self.ledger):
            stale.unlink(missing_ok=True)
        if self.checkpoints.is_dir():
            remove_folder(self.checkpoints)
        self.write_recipe(recipe)


@contextmanager
def locked(folder: Path, *, note: bool = True) -> Iterator[None]:
    """Hold the folder's lock. The system frees it when the process ends, however it ends.

    Args:
        note: write into the lock who holds it.
    """
    from filelock import FileLock, Timeout

    path = folder / _LOCK
    lock = FileLock(path, timeout=_PATIENCE)
    try:
        lock.acquire()
    except Timeout as error:
        holder = ""
        with suppress(OSError):  # Windows does not let others read a locked file
            holder = path.read_text("utf-8").strip()
        message = f"another process works in this folder{f' ({holder})' if holder else ''}"
        raise ConfigError(message, where=str(folder), remedy="wait for it, or choose another --output_path") from error
    try:
        if note and os.name != "nt":
            path.write_text(f"process {os.getpid()}, since {datetime.now():%Y-%m-%d %H:%M:%S}\n", "utf-8")
        yield
    finally:
        lock.release()


def _runs_below(folder: Path, levels: int = _LEVELS) -> Iterator[Path]:
    """Folders of runs in `folder`, in the folders in it, and so on."""
    with suppress(OSError):  # what may not be read is not what was meant
        for place in sorted(folder.iterdir()):
            if place.name.startswith(".") or place.is_symlink() or not place.is_dir():
                continue
            if Run.is_run(place):
                yield place
            elif levels > 1:
                yield from _runs_below(place, levels - 1)


def _depth_and_age(folder: Path) -> tuple[int, float]:
    """Sorts what lies higher first (a search's best run before its trials), then the newest."""
    return len(folder.parts), -Run(folder).recipe.stat().st_mtime


def _refuse_finished(run: Run, recipe: str, resume: bool) -> None:
    where, remedy = str(run.folder), "choose another --output_path, or delete this folder to train anew"
    if not resume:
        raise ConfigError("the folder holds a finished run", where=where, remedy=remedy)
    differences = _differences(run.recipe.read_text("utf-8"), recipe)
    if differences:
        message = "the folder holds a finished run with other settings\n" + "\n".join(f"- {d}" for d in differences)
        raise ConfigError(message, where=where, remedy=remedy)


def _refuse_unfinished(run: Run, work: list[str], resume: bool) -> None:
    if not resume:
        message = f"the folder holds an unfinished run ({', '.join(work)})"
        remedy = "--resume goes on with it; or choose another --output_path, or delete the folder"
        raise ConfigError(message, where=str(run.folder), remedy=remedy)


def _refuse_foreign(run: Run) -> None:
    if Run.is_run(run.folder) or not run.folder.exists():
        return
    where, remedy = str(run.folder), f"choose another --output_path, for instance {run.folder / 'run1'}"
    if not run.folder.is_dir():
        raise ConfigError("a file is in the place of the folder", where=where, remedy="choose another --output_path")
    names = sorted(p.name for p in run.folder.iterdir() if not p.name.startswith(".") and p.name != "logs")
    if names:
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise ConfigError(f"the folder holds files that are not of a run: {some}", where=where, remedy=remedy)


_NO_MATTER = {"output_path", "log_level", "passes", "training.resume"}
"""Settings that do not change what a finished run would have made."""


def _differences(before: str, now: str) -> list[str]:
    import yaml

    old, new = (flat(yaml.safe_load(text) or {}) for text in (before, now))
    return [
        f"{name}: {old.get(name)!r} in the folder, {new.get(name)!r} now"
        for name in sorted(old.keys() | new.keys())
        if name not in _NO_MATTER and not name.startswith(("export.", "search_")) and old.get(name) != new.get(name)
    ]


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves
