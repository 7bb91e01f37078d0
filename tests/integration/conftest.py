"""The command line as a person uses it: a process of its own, files in a folder, no network, a tiny random model.

Every command runs with connections refused (`no_network/sitecustomize.py`) and without HF_HUB_OFFLINE: what passes
here needs no network by itself.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from command_line import PHRASES, Program

import oleaster
from oleaster.models.tiny import make_tiny

TRAINING = (
    "--max_steps=6",
    "--per_device_train_batch_size=4",
    "--learning_rate=1e-2",
    "--eval_steps=3",
    "--logging_steps=1",
    "--max_new_tokens=8",
    "--num_threads=1",
)


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """A cache of its own, so that nothing that lies on this machine helps."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment["OLEASTER_CACHE"] = environment["HF_HOME"] = str(tmp_path_factory.mktemp("cache"))
    # The very package that is under test, even where another checkout of it is installed.
    package = Path(oleaster.__file__).parents[1]
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent / "no_network"), str(package)])
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
