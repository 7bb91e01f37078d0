"""`evaluate_model` as the tutorial calls it, and `compare`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import PHRASES, Program

from oleaster import evaluate_model
from oleaster.core.errors import ConfigError, DataError

ROWS = [{"phrase": phrase, "tone": tone} for phrase, tone in PHRASES]
QUICK = {"max_new_tokens": 4, "num_threads": 1, "dtype": "float32"}


def test_rows_in_memory_are_scored_in_the_shape_of_the_run_and_nothing_is_written(
    trained: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    before = sorted(run.rglob("*"))
    results = evaluate_model(model_path=str(run), test_dataset=ROWS, metric_type="accuracy", **QUICK)
    right = sum((row.prediction or "").strip() == row.reference for row in results.rows)
    assert results["accuracy"].value == right / len(ROWS)
    assert results["accuracy"].count == len(ROWS)
    assert results["accuracy"].low is not None
    assert results.rows[3].source == "rows[3]"
    assert f"accuracy          {results['accuracy']}\n" in str(results)
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize("kind", ["perplexity", "BLEU", "ROUGE", "F1"])
def test_the_metrics_of_the_tutorial_are_understood_by_their_names(kind: str, tiny: Path, rows: Path) -> None:
    from datasets import load_dataset

    dataset = load_dataset("json", data_files=str(rows), split="train[:6]")
    columns = {"prompt_field": "phrase", "completion_field": "tone"}
    results = evaluate_model(tiny, dataset, kind, **columns, **QUICK)
    name = {"F1": "macro_f1", "ROUGE": "rouge_l"}.get(kind, kind.lower())
    assert results[name].count == 6
    assert results[name].low <= results[name].value <= results[name].high  # type: ignore[operator]


def test_a_file_is_read_and_several_metrics_are_asked_for(tiny: Path, rows: Path) -> None:
    columns = {"prompt_field": "phrase", "completion_field": "tone", "eval_max_samples": 5}
    results = evaluate_model(tiny, rows, ["chrf"], metrics="rouge_1", **columns, **QUICK)
    assert {"chrf", "rouge_1"} <= results.metrics.keys()
    assert results.rows[0].source.startswith(f"{rows}:")


def test_wrong_calls_are_told_before_a_model_is_read(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'accuracy'"):
        evaluate_model(tiny / "nowhere", ROWS, "acuracy")
    with pytest.raises(DataError, match=r"rows\[1\]: is a str, not a mapping"):
        evaluate_model(tiny, [ROWS[0], "text"], prompt_field="phrase", completion_field="tone")  # type: ignore[list-item]
    with pytest.raises(DataError, match="there are no rows"):
        evaluate_model(tiny, [])


def test_compare_pairs_the_rows_of_two_models_and_says_what_is_needed(
    program: Program, trained: Path, rows: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    flags = ("--prompt_field=phrase", "--completion_field=tone", "--max_new_tokens=4")
    done = program("compare", run / "model", run, "-d", rows, *flags, "--metrics=chrf", cwd=tmp_path)
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert f"first: {run / 'model'}" in lines
    loss = next(line for line in lines if line.startswith("loss, nats/token "))
    assert loss.endswith("better")  # six steps at a high rate
    assert any(line.startswith("chrf ") for line in lines)
    exact = next(line for line in lines if line.startswith("exact match"))
    assert exact.endswith("not distinguishable with 6 rows")  # the same rows as the recipe's: those held out
    # What was saved says the same without a model, and a run's two reports can be named by their folders.
    again = program("compare", run / "predictions" / "base", run, cwd=tmp_path)
    assert " ".join(again.stdout.split()).endswith(" ".join(done.stdout.split("second: ")[1].split()[1:]))


def test_compare_without_an_evaluation_says_how_to_make_one(program: Program, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("predictions"))
    done = program("compare", run, tmp_path, cwd=tmp_path, code=2)
    assert "there is no report of an evaluation" in done.stderr
    assert "-d test.jsonl" in done.stderr
    assert "not given: the second model" in program("compare", run, cwd=tmp_path, code=2).stderr


def test_an_artifact_or_a_model_keeps_its_report_in_the_folder_it_is_called_from(
    program: Program, tiny: Path, rows: Path, tmp_path: Path
) -> None:
    flags = ("--prompt_field=phrase", "--completion_field=tone", "--max_new_tokens=4", "--eval_max_samples=3")
    program("evaluate", tiny, "-d", rows, *flags, cwd=tmp_path)
    report = json.loads((tmp_path / "evaluations" / tiny.name / "base" / "report.json").read_text("utf-8"))
    assert report["rows"] == 3
    assert "first:" in program("compare", tiny, tiny, cwd=tmp_path).stdout
