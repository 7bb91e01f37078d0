"""`oleaster plan`: what a training would take, from a few of its steps; nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import Program


def test_figures_of_a_training_that_has_not_begun(program: Program, needed: tuple[str, ...], tmp_path: Path) -> None:
    done = program("plan", *needed[1:], "--json", cwd=tmp_path)
    figures = json.loads(done.stdout)
    assert 0 < figures["load_mb"] <= figures["step_mb"] <= figures["validation_mb"] < figures["available_mb"]
    assert figures["total_seconds"] > figures["step_seconds"] * figures["total_steps"] > 0
    ways = {choice["name"]: choice for choice in figures["choices"]}
    assert ways["full"]["trained"] > ways["lora"]["trained"]
    assert ways["lora"]["memory_mb"] == figures["validation_mb"]
    assert ways["lora + gradient_checkpointing"]["memory_mb"] < ways["lora"]["memory_mb"]
    assert list(tmp_path.iterdir()) == []


def test_a_person_reads_a_table(program: Program, needed: tuple[str, ...], tmp_path: Path) -> None:
    done = program("plan", *needed[1:], cwd=tmp_path)
    assert "one epoch" in done.stdout
    assert "lora fits, with" in done.stdout
    assert done.stderr == ""


def test_without_rows_it_says_what_is_missing(program: Program, tiny: Path, tmp_path: Path) -> None:
    done = program("plan", "-m", tiny, cwd=tmp_path, code=2)
    assert "the rows" in done.stderr
    assert "output folder" not in done.stderr
