"""Checkpoints that survive a kill at any moment, inside a save too.

    checkpoints/step-00000042/
        trainable.safetensors   the trained tensors by parameter name; any tool reads them
        optimizer.pt            states of the optimiser, the schedule and the random generators (torch, weights only)
        state.json              step, data position, best so far, counters, settings: everything small, readable
        manifest.json           size and sha256 of the others; written last

A checkpoint is written under a temporary name, brought to the disk and renamed; older ones are deleted only after.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from oleaster.core.errors import CheckpointError, ConfigError
from oleaster.core.files import atomic_write_json, hash_file, remove_folder, require_space, staged_folder, sweep
from oleaster.core.run import flat
from oleaster.training.reports import Notice

_MANIFEST = "manifest.json"
_TENSORS, _OPTIMIZER, _STATE = "trainable.safetensors", "optimizer.pt", "state.json"
_FOLDER = re.compile(r"^step-(\d{8})$")


@dataclass(frozen=True)
class Best:
    """The lowest validation loss so far."""

    loss: float
    step: int


@dataclass(frozen=True)
class TrainState:
    """Everything that the next optimiser step depends on, and what the log and the watchers carry on."""

    step: int
    """Optimiser steps done."""
    tensors: Mapping[str, Tensor]
    """The trained parameters by name."""
    optimizer: Mapping[str, Any]
    """`optimizer.state_dict()`"""
    scheduler: Mapping[str, Any]
    """`schedule.state_dict()`"""
    rng: Mapping[str, Any]
    """`capture_rng()`"""
    best: Best | None = None
    counters: Mapping[str, int | float] = field(default_factory=dict)
    """Running sums of the loop: tokens seen, sums since the last log line."""
    watchers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """State of early stopping and the other watchers, by name."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What a resumed run must have in common with this one: see `settings_that_matter`."""


def seed_rng(seed: int) -> None:
    """Seed torch's generators, the CPU's and each GPU's. (`torch.manual_seed` takes 80 times as long, each step.)"""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)


def capture_rng() -> dict[str, Any]:
    """State of all random generators of the process: torch, Python, NumPy's global one, each GPU."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    state = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_rng(state: Mapping[str, Any]) -> None:
    """Put back what `capture_rng` took. GPU states are left out where there is no GPU now."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: `run.checkpoints`
        save_total_limit: how many are kept, the newest; the one of `state.best.step` is kept besides.
        at: called with the name of each moment of a save (`tensors`, `optimizer`, `state`, `manifest`, `renamed`,
            `rotated`); the tests kill the process there.
    """

    def __init__(
        self, folder: Path, save_total_limit: int = 2, at: Callable[[str], None] = lambda moment: None
    ) -> None:
        self.folder, self.save_total_limit, self._at = folder, save_total_limit, at

    def save(self, state: TrainState) -> Path:
        """Write a checkpoint; when this returns it is on the disk. One of the same step is replaced.

        `best()` finds a state only if it was saved right after its validation, that is with `best.step == step`.

        Raises: StorageError when the disk is full; the checkpoints before are untouched.
        """
        tensors = {name: tensor.detach().contiguous() for name, tensor in state.tensors.items()}
        optimizer = {"optimizer": dict(state.optimizer), "scheduler": dict(state.scheduler), "rng": dict(state.rng)}
        require_space(self.folder, _bytes(tensors) + _bytes(optimizer))
        target = self.folder / f"step-{state.step:08d}"
        with staged_folder(target, replace=True) as folder:
            with _system_errors(folder / _TENSORS):
                save_file(tensors, folder / _TENSORS)
            self._at("tensors")
            with _system_errors(folder / _OPTIMIZER), (folder / _OPTIMIZER).open("wb") as file:
                torch.save(optimizer, file)  # given a path it would lose the number of a system error
            self._at("optimizer")
            atomic_write_json(folder / _STATE, _small(state))
            self._at("state")
            files = {name: _fingerprint(folder / name) for name in (_TENSORS, _OPTIMIZER, _STATE)}
            atomic_write_json(folder / _MANIFEST, {"step": state.step, "files": files})
            self._at("manifest")
        self._at("renamed")
        self._rotate(state)
        self._at("rotated")
        return target

    def latest(self, settings: Mapping[str, Any] | None = None) -> tuple[TrainState | None, tuple[Notice, ...]]:
        """The newest good checkpoint, with a notice for each damaged one that was passed over.

        None (and a notice) when there never was one: the run begins at the first step.

        Args:
            settings: those of now; compared with the checkpoint's.

        Raises:
            CheckpointError: there are checkpoints, all damaged.
            ConfigError: the settings have changed since; all differences are named.
        """
        state, notices = self._newest(self.steps())
        if state is None and notices:
            damages = "\n".join(f"- {n.text}" for n in notices)
            raise CheckpointError(
                f"no checkpoint in {self.folder} can be used\n{damages}\n  -> delete this folder to begin again"
            )
        if state is None:
            notices = (Notice(0, "no_checkpoint", "There is no checkpoint yet: training begins at the first step."),)
        elif settings is not None:
            _check_settings(state, settings, self.folder)
        return state, notices

    def last_settings(self) -> Mapping[str, Any]:
        """The settings of the newest good checkpoint; empty where there is none."""
        for step in reversed(self.steps()):
            folder = self.folder / f"step-{step:08d}"
            if _damage(folder) is None:
                return json.loads((folder / _STATE).read_text("utf-8"))["settings"]
        return {}

    def best(self) -> tuple[TrainState | None, tuple[Notice, ...]]:
        """The checkpoint with the lowest validation loss, or, where it is damaged, the best one before it.

        Its tensors are those of the files, mapped: copy what is wanted, and let it go before another save.
        """
        # A state is its own best only if it beat all before it, so the newest of these is the lowest.
        return self._newest([step for step in self.steps() if self._is_own_best(step)], mapped=True)

    def steps(self) -> list[int]:
        """Steps that there are checkpoints of, good or damaged, the oldest first."""
        sweep(self.folder)
        if not self.folder.is_dir():
            return []
        return sorted(int(match[1]) for path in self.folder.iterdir() if (match := _FOLDER.match(path.name)))

    def _newest(self, steps: Sequence[int], mapped: bool = False) -> tuple[TrainState | None, tuple[Notice, ...]]:
        notices = []
        for step in reversed(steps):
            folder = self.folder / f"step-{step:08d}"
            damage = _damage(folder)
            if damage is None:
                return _read(folder, mapped), tuple(notices)
            notices.append(Notice(step, "checkpoint_damaged", f"The checkpoint {folder} is damaged ({damage})."))
        return None, tuple(notices)

    def _is_own_best(self, step: int) -> bool:
        try:
            best = json.loads((self.folder / f"step-{step:08d}" / _STATE).read_text("utf-8"))["best"]
        except (OSError, ValueError, KeyError):
            return True  # unreadable: `_newest` will say so
        return best is not None and best["step"] == step

    def _rotate(self, state: TrainState) -> None:
        # Later steps are what a resumed run passed over as damaged; it has now gone another way.
        past = [step for step in self.steps() if step <= state.step]
        keep = set(past[-self.save_total_limit :]) | ({state.best.step} if state.best else set())
        for step in set(self.steps()) - keep:
            remove_folder(self.folder / f"step-{step:08d}")


def settings_that_matter(config: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    """The settings that decide a run's numbers, one flat level: `{"training.learning_rate": 0.0003, ...}`.

    Args:
        config: `Config.model_dump(mode="json")`
        facts: what the config does not hold: hash of the rows, base revision, dtype chosen, total steps.
    """
    kept = {name: value for name, value in flat(config).items() if not _NO_MATTER.match(name)}
    return json.loads(json.dumps({**kept, **facts}))  # as a checkpoint will give it back: tuples are lists


_NO_MATTER = re.compile(
    r"(output_path|task_name|log_level|search_.*|watch\..*|evaluation\..*|export\..*"
    r"|training\.(resume|num_threads|dataloader_num_workers|per_device_eval_batch_size))$"
)
"""Settings that a resumed run may change: what is watched, kept and shown, and where."""


def _check_settings(state: TrainState, now: Mapping[str, Any], folder: Path) -> None:
    names = sorted(state.settings.keys() | now.keys())
    changed = [name for name in names if state.settings.get(name) != now.get(name)]
    if changed:
        lines = "\n".join(f"- {name}: {state.settings.get(name)!r} then, {now.get(name)!r} now" for name in changed)
        raise ConfigError(
            f"the settings have changed since the checkpoint of step {state.step}\n{lines}",
            where=str(folder),
            remedy="give the old settings to go on with this run, or choose another --output_path for a new one",
        )


def _small(state: TrainState) -> dict[str, Any]:
    return {
        "step": state.step,
        "best": asdict(state.best) if state.best else None,
        "counters": dict(state.counters),
        "watchers": {name: dict(value) for name, value in state.watchers.items()},
        "settings": dict(state.settings),
    }


def _read(folder: Path, mapped: bool) -> TrainState:
    large = torch.load(folder / _OPTIMIZER, map_location="cpu", weights_only=True, mmap=mapped)
    tensors = load_file(folder / _TENSORS)
    small = json.loads((folder / _STATE).read_text("utf-8"))
    return TrainState(
        step=small["step"],
        # Copies: the tensors of `load_file` live in the mapped file, which rotation deletes.
        tensors=tensors if mapped else {name: tensor.clone() for name, tensor in tensors.items()},
        optimizer=large["optimizer"],
        scheduler=large["scheduler"],
        rng=large["rng"],
        best=Best(**small["best"]) if small["best"] else None,
        counters=small["counters"],
        watchers=small["watchers"],
        settings=small["settings"],
    )


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, None when it is whole."""
    try:
        files = json.loads((folder / _MANIFEST).read_text("utf-8"))["files"]
        for name in (_TENSORS, _OPTIMIZER, _STATE):
            if not (folder / name).is_file():
                return f"{name} is missing"
            if _fingerprint(folder / name) != files[name]:
                return f"{name} is not what was written"
    except FileNotFoundError:
        return f"{_MANIFEST} is missing"
    except (ValueError, KeyError, TypeError):
        return f"{_MANIFEST} is unreadable"
    except OSError as error:
        return f"a file cannot be read: {error.strerror}"
    return None


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": hash_file(path)}


@contextmanager
def _system_errors(path: Path) -> Iterator[None]:
    """Bring out the system's error (disk full) that torch and safetensors hide in one of their own."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        in_text = re.search(r"os error (\d+)", str(error))
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        if in_text:
            raise OSError(int(in_text[1]), str(error), str(path)) from error
        raise


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(_bytes(v) for v in value.values())
    return sum(_bytes(v) for v in value) if isinstance(value, (list, tuple)) else 0
