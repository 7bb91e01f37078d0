"""The rules of the house that a linter does not know (docs/architecture.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "oleaster"
FILES = sorted(SOURCE.rglob("*.py"))
RECIPES = sorted((SOURCE.parents[1] / "examples").rglob("*.yaml"))
MOST_LINES, MOST_FUNCTION_LINES = 400, 60
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "base"}
HEAVY = {"torch", "transformers", "datasets", "pyarrow", "peft", "onnxruntime", "numpy"}
LONGER = {
    "loop.py: training": "the training: start or resume, step, report, validate, save",
    "tuning.py: tuning": "the story of a run from recipe to DONE",
    "export.py: export": "the story of an export, rung by rung",
}
"""`file.py: function` -> why it may be longer: each is one line of events that reads top to bottom."""


def names(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", FILES, ids=names)
def test_a_file_is_short_enough_to_be_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", FILES, ids=names)
def test_a_function_is_short_enough_to_be_held_in_the_head(path: Path) -> None:
    lengths = {f"{path.name}: {f.name}": (f.end_lineno or f.lineno) - f.lineno + 1 for f in functions(path)}
    assert {name: n for name, n in lengths.items() if n > MOST_FUNCTION_LINES and name not in LONGER} == {}


def test_names_explain_themselves() -> None:
    rooms = [path for path in SOURCE.rglob("*") if path.is_dir()]
    assert [path for path in (*FILES, *rooms) if path.stem in FORBIDDEN_NAMES] == []


@pytest.mark.parametrize("path", FILES, ids=names)
def test_a_file_says_what_it_is_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not text.strip() or ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize(
    "module",
    [
        "oleaster",
        *(f"oleaster.{names(p)[:-3].replace('/', '.')}" for p in FILES if p.parent.name in ("config", "core")),
    ],
)
def test_the_light_rooms_stay_light(module: str) -> None:
    code = f"import sys, {module.removesuffix('.__init__')}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert HEAVY.isdisjoint(done.stdout.split())


def test_the_exceptions_are_needed() -> None:
    """A function that has become short leaves the list."""
    long = {
        f"{path.name}: {f.name}"
        for path in FILES
        for f in functions(path)
        if (f.end_lineno or f.lineno) - f.lineno + 1 > MOST_FUNCTION_LINES
    }
    assert LONGER.keys() <= long


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_every_shipped_recipe_loads(recipe: Path) -> None:
    from oleaster.config.load import load_config

    assert load_config(recipe).output_path
