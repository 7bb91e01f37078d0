"""`oleaster ...` as a process, and the rows that the tests give it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PHRASES = (
    ("where is my parcel", "neutral"),
    ("it never came, again!", "angry"),
    ("could you kindly look", "friendly"),
    ("send the bill please", "neutral"),
    ("this is a scandal", "angry"),
    ("thank you, dear team", "friendly"),
    ("how wide is the desk", "neutral"),
    ("give me my money", "angry"),
    ("have a lovely day", "friendly"),
    ("change the street", "neutral"),
)


@dataclass(frozen=True)
class Program:
    """`oleaster ...` as a process."""

    environment: dict[str, str]

    def __call__(
        self, *words: str | Path, cwd: Path, code: int = 0, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end and compare the exit code."""
        done = subprocess.run(
            self.command(*words),
            cwd=cwd,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *words: str | Path, cwd: Path) -> subprocess.Popen[str]:
        """Run beside the test."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            self.command(*words), cwd=cwd, env=self.environment, stdout=pipe, stderr=pipe, text=True
        )

    def command(self, *words: str | Path) -> list[str]:
        return [sys.executable, "-m", "oleaster", *map(str, words)]
