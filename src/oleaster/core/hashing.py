"""Contents as a few digits: of files, which are read once per state of theirs, of folders, and of this program."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from oleaster.core.cache import cache_folder
from oleaster.core.errors import StorageError
from oleaster.core.files import atomic_write_json, hash_file

SHOWN = 16
"""Hex digits of a SHA-256 that stand for it."""

_ROOMS = (
    *("data", "models", "methods", "training", "tasks"),
    *("inference", "evaluation", "exporting", "search", "pipeline"),
)
"""Rooms whose code decides what is made; the others only ask for it and show it."""


def known_hash(path: Path) -> str:
    """SHA-256 of a file, read once per state of it; a hard link, as in a run's `model/`, is the same file."""
    state = path.stat()
    key = f"{state.st_dev}|{state.st_ino}|{state.st_size}|{state.st_mtime_ns}"
    memory = cache_folder() / "hashes" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
        if known["file"] == key:
            return known["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # never seen, or the note was damaged: hash again
    digest = hash_file(path)
    with suppress(OSError, StorageError):  # no place for the note costs time, not truth
        atomic_write_json(memory, {"file": key, "sha256": digest})
    return digest


def hash_folder(folder: Path, leave_out: Iterable[str] = ()) -> str:
    """Digits for the names and contents of all files of a folder, hidden ones and those in `leave_out` aside.

    Args:
        leave_out: names of files and folders directly in `folder`.
    """
    left_out = set(leave_out)
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and parts[0] not in left_out and not any(part.startswith(".") for part in parts):
            digest.update(f"{'/'.join(parts)}\n{known_hash(path)}\n".encode())
    return digest.hexdigest()[:SHOWN]


def hash_value(value: object) -> str:
    """Digits for a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:SHOWN]


@lru_cache(maxsize=1)
def hash_code() -> str:
    """Digits for the code of this program as far as it decides what is made."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for room in _ROOMS:
        for path in sorted((root / room).rglob("*")):
            if path.suffix in (".py", ".c", ".jinja"):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:SHOWN]
