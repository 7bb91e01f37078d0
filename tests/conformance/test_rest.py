"""Searches, measures, rows; and the rows of the table that have no test of their own yet, which count as failed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from blocks import BLOCKS, SEARCH
from shell import Shell

ROWS = "-d xxyyzzz/phrase_classification --prompt_field phrase --completion_field tone"
UNTESTED = {"S9": None, "S16": None, "S17": None, "S21": 11, "S23": None, "S30": None}
"""Row -> its block."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.row(name, block=block)) for name, block in UNTESTED.items()]
)
def test_a_row_without_a_test_of_its_own(name: str) -> None:
    pytest.fail(f"{name} has no test here yet")


@pytest.mark.row("S20", block=10)
def test_the_printed_search(shell: Shell, with_recipe: Path) -> None:
    (with_recipe / "hyperparameter-search.yaml").write_text(SEARCH)
    shell(BLOCKS[10].ours, with_recipe)
    folder = with_recipe / "runs" / "first"
    assert len(list((folder / "trials").glob("[0-9]*"))) == 20
    assert (folder / "best" / "DONE").is_file()
    assert (folder / "report.html").is_file()


@pytest.mark.row("S12")
def test_rows_are_looked_at(shell: Shell, project: Path) -> None:
    line = json.dumps({"phrase": "where is it", "tone": "neutral"}) + "\n"
    with (project / "rows.jsonl").open("w") as file:
        file.write(line * 2 + (project / "xxyyzzz/phrase_classification/train.jsonl").read_text())
    done = shell("oleaster data report rows.jsonl --prompt_field phrase --completion_field tone", project)
    assert "rows.jsonl:2" in done.stdout


@pytest.mark.row("S22")
def test_measures(shell: Shell, project: Path) -> None:
    shell(f"oleaster finetune -m models/base {ROWS} --max_steps 6 --max_new_tokens 8 -o runs/x", project)
    done = shell("oleaster evaluate runs/x --metrics accuracy,bleu,rouge_l,macro_f1 --eval_max_samples 10", project)
    assert all(word in done.stdout for word in ("accuracy", "perplexity", "bleu", "rouge l", "macro f1"))


@pytest.mark.row("S24", block=12)
def test_evaluate_model(shell: Shell, project: Path) -> None:
    shell(f"oleaster finetune -m models/base {ROWS} --max_steps 6 --max_new_tokens 8 -o runs/x", project)
    code = (
        "from oleaster import evaluate_model\n"
        "rows = [{'phrase': 'where is it', 'tone': 'neutral'}, {'phrase': 'give it back', 'tone': 'angry'}]\n"
        "print(evaluate_model('runs/x', rows, metric_type='accuracy'))\n"
    )
    (project / "evaluation_script.py").write_text(code)
    assert "accuracy" in shell("python evaluation_script.py", project).stdout
