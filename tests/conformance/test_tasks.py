"""Kinds of task, each with rows, answers and measures of its kind; a loss of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from shell import SHORT, Shell

from oleaster.core.run import Run
from tutorial import CUSTOM_LOSS

NAMES = (("Ada",), ("Bob", "Ross"), ("Cleo",))
SIDES = ("a cat sits", "a dog runs", "rain falls", "the train leaves")


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def answers(run: Path) -> list[dict[str, Any]]:
    lines = (run / "predictions" / "tuned" / "predictions.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def scored(shell: Shell, project: Path, rows: list[dict[str, Any]], flags: str) -> str:
    """What an evaluation says of a run on these rows."""
    write(project / "rows.jsonl", rows)
    shell(f"oleaster finetune -m models/base -d rows.jsonl {flags} {SHORT} -o runs/x", project)
    return shell("oleaster evaluate runs/x --eval_max_samples 8", project).stdout


@pytest.mark.row("S9")
@pytest.mark.parametrize("head", ["text", "sequence"])
def test_classification(shell: Shell, project: Path, head: str) -> None:
    rows = [
        {"text": f"{word} parcel {i}", "label": tone} for i in range(12) for word, tone in (("my", "a"), ("no", "b"))
    ]
    said = scored(
        shell, project, rows, f"--task classification --head {head} --prompt_field text --completion_field label"
    )
    assert "accuracy" in said
    assert "macro f1" in said
    assert {answer["prediction"] for answer in answers(project / "runs" / "x")} <= {"a", "b"}


@pytest.mark.row("S9")
@pytest.mark.parametrize("head", ["text", "token"])
def test_extraction(shell: Shell, project: Path, head: str) -> None:
    rows = [
        {"tokens": [f"{i}", first, *rest, "ran"], "tags": ["O", "B-person", *["I-person"] * len(rest), "O"]}
        for i in range(8)
        for first, *rest in NAMES
    ]
    assert "entity f1" in scored(shell, project, rows, f"--task extraction --head {head}")
    for answer in answers(project / "runs" / "x"):
        assert answer["prediction"].startswith("{")
        assert answer["finish"] != "stop" or json.loads(answer["prediction"]).keys() <= {"person"}


@pytest.mark.row("S9")
def test_summarisation(shell: Shell, project: Path) -> None:
    rows = [{"input": f"It rained for {i} days. " * 3, "output": f"{i} days of rain"} for i in range(24)]
    assert "rouge l" in scored(shell, project, rows, "--task summarization")


@pytest.mark.row("S9")
def test_generation(shell: Shell, project: Path) -> None:
    rows = [{"instruction": "Say the number.", "input": str(i), "output": f"It is {i}."} for i in range(24)]
    assert "perplexity" in scored(shell, project, rows, "--task generation")


@pytest.mark.row("S21", block=11)
def test_the_printed_loss(shell: Shell, project: Path) -> None:
    """Distance and margin over two outputs and a label, the file as it is printed."""
    pairs = [(a, b, i) for i in range(3) for a in SIDES for b in SIDES]
    rows = [{"sentence1": f"{a} {i}", "sentence2": f"{b} now {i}", "score": 5.0 * (a == b)} for a, b, i in pairs]
    write(project / "pairs.jsonl", rows)
    (project / "custom_loss.py").write_text(CUSTOM_LOSS)
    flags = "--loss custom_loss.py:CustomContrastiveLoss --loss_options margin=0.5 --max_steps 16 --learning_rate 1e-2"
    shell(f"oleaster finetune -m models/base -d pairs.jsonl --task embedding {flags} -o runs/x", project)
    losses = [event["loss"] for event in Run(project / "runs" / "x").read_log() if "grad_norm" in event]
    assert losses[-1] < 0.8 * losses[0]
