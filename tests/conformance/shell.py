"""A text as a person would paste it into a terminal."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

MODEL = os.environ.get("OLEASTER_CONFORMANCE", "")
"""Which model the suite runs with: `tiny`, or what --model_name_or_path takes; empty when it does not run."""
SUPPORT = Path(__file__).parents[2] / "examples" / "support"
PHRASES = "-d xxyyzzz/phrase_classification --prompt_field phrase --completion_field tone"
SHORT = "--max_steps 6 --learning_rate 1e-3 --max_new_tokens 8"


@dataclass(frozen=True)
class Shell:
    """`bash` with `oleaster` on its path."""

    environment: dict[str, str]

    def __call__(self, text: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run to the end and compare the exit code; a text of several lines ends at the first that fails."""
        done = subprocess.run(
            ["bash", "-e", "-c", text],
            cwd=cwd,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
        assert done.returncode == code, f"exit code {done.returncode}\n{text}\n{done.stdout}\n{done.stderr}"
        return done
