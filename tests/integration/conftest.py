"""The command line as a person uses it: a process of its own, files in a folder, no network, a tiny random model.

Every command runs with connections refused (`no_network/sitecustomize.py`) and without HF_HUB_OFFLINE: what passes
here needs no network by itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from oleaster.models.tiny import make_tiny

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
TRAINING = (
    "--max_steps=6",
    "--per_device_train_batch_size=4",
    "--learning_rate=1e-2",
    "--eval_steps=3",
    "--logging_steps=1",
    "--max_new_tokens=8",
    "--num_threads=1",
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


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """A cache of its own, so that nothing that lies on this machine helps."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment["OLEASTER_CACHE"] = environment["HF_HOME"] = str(tmp_path_factory.mktemp("cache"))
    environment["PYTHONPATH"] = str(Path(__file__).parent / "no_network")
    environment["COLUMNS"] = "160"
    return Program(environment)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("llama", tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty rows of phrase and tone, no two alike."""
    path = tmp_path_factory.mktemp("rows") / "phrases.jsonl"
    lines = [{"phrase": f"{phrase} {n}", "tone": tone} for n in range(6) for phrase, tone in PHRASES]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def needed(tiny: Path, rows: Path) -> tuple[str, ...]:
    """What a finetune cannot do without, but for the output folder; and few small steps."""
    columns = ("--prompt_field", "phrase", "--completion_field", "tone")
    return ("finetune", "-m", str(tiny), "-d", str(rows), *columns, *TRAINING)


@pytest.fixture(scope="session")
def trained(program: Program, needed: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run. Tests read it; none may change it."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    program(*needed, "-o", folder, "--save_steps=2", "--report_to=tensorboard", cwd=folder.parent)
    return folder
