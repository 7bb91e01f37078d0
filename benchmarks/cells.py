"""Measurements that take a process of their own each, kept in a file as they come."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Settings = dict[str, Any]
Figures = dict[str, Any]


def alone(work: Callable[[Settings], Figures], settings: Settings) -> Figures:
    """What `work`, a function of one of these files, gives in a fresh process: memory and caches are its own.

    Raises: RuntimeError with its last words.
    """
    file = Path(work.__code__.co_filename)
    program = (
        f"import json, sys; sys.path[0] = {str(file.parent)!r}; import {file.stem} as m; "
        f"print(json.dumps(m.{work.__name__}(json.loads(sys.argv[1]))))"
    )
    done = subprocess.run([sys.executable, "-c", program, json.dumps(settings)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{work.__name__} {settings} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


class Cells(Mapping[str, Figures]):
    """What has been measured, by name."""

    def __init__(self, file: Path, at_most: int | None = None) -> None:
        """
        Args:
            file: JSON lines; what stands there is not measured again.
            at_most: how many are measured now; the others are left to another time.
        """
        self._file, self._left = file, sys.maxsize if at_most is None else at_most
        lines = file.read_text("utf-8").splitlines() if file.exists() else []
        self._found = {line.pop("name"): line for line in map(json.loads, lines)}

    def measure(self, name: str, work: Callable[[], Figures]) -> None:
        """Keep what `work` gives, unless the cell is there already."""
        if name in self._found or self._left <= 0:
            return
        self._left -= 1
        self._found[name] = work()
        print(f"{name}: {self._found[name]}", flush=True)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, **self._found[name]}) + "\n")

    def __getitem__(self, name: str) -> Figures:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)
