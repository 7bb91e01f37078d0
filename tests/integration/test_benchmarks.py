"""Established benchmarks: a local task file, asked of torch, of ONNX Runtime and of the harness's own model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import Program

from oleaster import pipeline
from oleaster.config.load import load_config
from oleaster.core.errors import ConfigError
from oleaster.evaluation.benchmarks import BenchmarkPlan, check_plan

pytest.importorskip("lm_eval", reason="needs the extra 'bench'")

TASKS = {
    "local_choice": """
        output_type: multiple_choice
        doc_to_text: "Question: {{q}} Answer:"
        doc_to_choice: choices
        doc_to_target: right
        metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
    """,
    "local_words": r"""
        output_type: generate_until
        doc_to_text: "{{q}} "
        doc_to_target: answer
        generation_kwargs: {until: ["e"], max_gen_toks: 8}
        metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
    """,
    "local_text": """
        output_type: loglikelihood_rolling
        doc_to_text: ""
        doc_to_target: text
        metric_list: [{metric: bits_per_byte}, {metric: word_perplexity}]
    """,
}
ROWS = [
    {
        "q": f"What is {a} plus {b}?",
        "answer": str(a + b),
        "choices": ["one fish", "two fish", "red"],
        "right": (a + b) % 3,
        "text": f"Number {a} comes before {b}. " * (40 if a == b == 0 else 2),  # one is longer than the context
    }
    for a in range(4)
    for b in range(3)
]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    for name, body in TASKS.items():
        source = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(rows)}}}
        lines = [f"{key}: {json.dumps(value)}" for key, value in {**source, "test_split": "test"}.items()]
        lines += [line.strip() for line in body.strip().splitlines()] + ["metadata: {version: 1}"]
        (folder / f"{name}.yaml").write_text("\n".join(lines), encoding="utf-8")
    return folder


def by_the_harness(model: Path, tasks: Path) -> dict[str, Any]:
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        model=HFLM(pretrained=str(model), device="cpu", dtype="float32", batch_size=4),
        tasks=list(TASKS),
        bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
    )
    assert found
    return found["results"]


def test_the_figures_are_those_of_the_harness_with_intervals(tiny: Path, tasks: Path, tmp_path: Path) -> None:
    config = load_config(None, {"dtype": "float32", "num_threads": 1})
    report, file = pipeline.benchmark(tiny, BenchmarkPlan(tuple(TASKS), tasks), config, tmp_path)
    expected = by_the_harness(tiny, tasks)
    assert report.figures.keys() == TASKS.keys()
    for task, figures in report.figures.items():
        for name, value in figures.items():
            assert value.value == pytest.approx(expected[task][f"{name},none"], rel=1e-5), (task, name)
            assert value.low is not None
            assert value.high is not None
            assert value.low <= value.value <= value.high
            assert value.count == len(ROWS)
    assert figures.keys() == {"bits_per_byte", "word_perplexity"}
    assert json.loads(file.read_text("utf-8"))["settings"]["num_fewshot"] == dict.fromkeys(TASKS, 0)


def test_an_artifact_is_asked_the_same_way(program: Program, tiny: Path, tasks: Path, tmp_path: Path) -> None:
    program("auto-opt", "-m", tiny, "-o", tmp_path / "small", "--precision=fp32", "--num_threads=1", cwd=tmp_path)
    flags = ("--tasks", *TASKS, "--include_path", tasks, "--limit=5", "--num_threads=1")
    for model, name in ((tmp_path / "small", "artifact"), (tiny, "torch")):
        dtype = ("--dtype=float32",) if name == "torch" else ()
        done = program("benchmark", model, *flags, *dtype, "-o", tmp_path / name, cwd=tmp_path)
        assert "bits_per_byte" in done.stdout
    found = [json.loads((tmp_path / name / "benchmarks.json").read_text("utf-8")) for name in ("artifact", "torch")]
    artifact, torch = (
        {task: {n: v["value"] for n, v in f.items()} for task, f in each["figures"].items()} for each in found
    )
    assert {task: pytest.approx(figures, rel=1e-3) for task, figures in torch.items()} == artifact


def test_unknown_tasks_and_folders_are_named_before_a_model_is_read(tasks: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)2 problems.*'local_choise'.*did you mean 'local_choice'.*'zzzz'"):
        check_plan(BenchmarkPlan(("local_choise", "zzzz", "local_text"), tasks))
    with pytest.raises(ConfigError, match="there is no such folder"):
        check_plan(BenchmarkPlan(("local_choice",), tasks / "nowhere"))


def test_rows_that_cannot_be_had_are_no_crash(program: Program, tiny: Path, tasks: Path, tmp_path: Path) -> None:
    gone = (tasks / "local_text.yaml").read_text("utf-8").replace("rows.jsonl", "gone.jsonl")
    (tmp_path / "gone.yaml").write_text(gone.replace("local_text", "gone"), encoding="utf-8")
    done = program("benchmark", tiny, "--tasks=gone", "--include_path", tmp_path, cwd=tmp_path, code=2)
    assert "gone: the rows of a task cannot be had" in done.stderr
    assert "not given: the benchmarks" in program("benchmark", tiny, cwd=tmp_path, code=2).stderr
