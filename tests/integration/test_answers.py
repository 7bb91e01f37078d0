"""`evaluate`, `generate` and `chat` on a run, and other people's tools on the same folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import PHRASES, Program

QUESTIONS = [phrase for phrase, _ in PHRASES[:4]]
ANSWER_TOKENS = 8


def predictions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text("utf-8").splitlines()]


def plain_answers(model: Any, tokenizer: Any) -> list[str]:
    """Greedy answers by transformers' own `generate`."""
    answers = []
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        made = model.generate(**ids, do_sample=False, max_new_tokens=ANSWER_TOKENS)
        answers.append(tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
    return answers


@pytest.fixture(scope="module")
def ours(program: Program, trained: Path) -> list[str]:
    """The run's answers through the command line."""
    command = ("generate", trained, "--dtype=float32", f"--max_new_tokens={ANSWER_TOKENS}")
    return [program(*command, "--prompt", question, cwd=trained).stdout[:-1] for question in QUESTIONS]


def test_plain_peft_loads_the_adapter_and_answers_alike(trained: Path, ours: list[str]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(trained / "model")
    tuned = PeftModel.from_pretrained(base, trained / "adapter").eval()
    assert plain_answers(tuned, AutoTokenizer.from_pretrained(trained / "model")) == ours


def test_plain_transformers_loads_the_model_and_answers_as_the_base(
    program: Program, trained: Path, ours: list[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(trained / "model")
    plain = plain_answers(base, AutoTokenizer.from_pretrained(trained / "model"))
    flags = ("--dtype=float32", f"--max_new_tokens={ANSWER_TOKENS}")
    done = program("generate", trained / "model", QUESTIONS[0], *flags, cwd=trained)
    assert done.stdout[:-1] == plain[0]
    assert plain != ours  # six steps at a high rate have changed it


def test_evaluate_scores_the_held_out_rows_base_beside_tuned(program: Program, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    done = program("evaluate", run, cwd=tmp_path)
    for part in ("metric", "base", "tuned", "loss", "exact match", "95 % interval"):
        assert part in done.stdout
    base, tuned = (predictions(run / "predictions" / name) for name in ("base", "tuned"))
    assert [row["source"] for row in base] == [row["source"] for row in tuned]
    assert len(tuned) == 6  # a tenth of sixty
    report = json.loads((run / "predictions" / "tuned" / "report.json").read_text("utf-8"))
    assert report["metrics"]["loss"]["value"] == pytest.approx(
        sum(row["nll"] for row in tuned) / sum(row["targets"] for row in tuned)
    )
    events = [json.loads(line) for line in (trained / "log.jsonl").read_text("utf-8").splitlines()]
    best = min(event["eval_loss"] for event in events if event["event"] == "eval")
    assert report["metrics"]["loss"]["value"] == pytest.approx(best, rel=0.02)  # the number type may differ


def test_evaluate_takes_rows_of_its_own_and_a_plain_model(
    program: Program, tiny: Path, rows: Path, tmp_path: Path
) -> None:
    columns = ("--prompt_field=phrase", "--completion_field=tone")
    flags = ("--eval_max_samples=5", "--max_new_tokens=4")
    program("evaluate", tiny, "-d", rows, *columns, *flags, cwd=tmp_path)
    assert [path.name for path in (tmp_path / "evaluations" / tiny.name).iterdir()] == ["base"]
    assert len(predictions(tmp_path / "evaluations" / tiny.name / "base")) == 5


def test_metrics_are_asked_for_by_name_and_kept_beside_the_model(
    program: Program, trained: Path, rows: Path, tmp_path: Path
) -> None:
    (tmp_path / "politeness.py").write_text(
        "from oleaster.evaluation.metrics import metrics\n\n"
        "@metrics.register('politeness')\n"
        "def politeness(prompts, predictions):\n"
        "    return [1.0 if 'please' in prompt else 0.0 for prompt in prompts]\n"
    )
    flags = ("--eval_max_samples=6", "--max_new_tokens=4", "--base=false", "--plugins=politeness.py")
    done = program(
        "evaluate", trained / "adapter", "-d", rows, "--metrics=politeness,ECE,chrf", *flags, "-o", "here", cwd=tmp_path
    )
    report = json.loads((tmp_path / "here" / "tuned" / "report.json").read_text("utf-8"))
    polite = sum("please" in row["prompt"] for row in predictions(tmp_path / "here" / "tuned"))
    assert report["metrics"]["politeness"]["value"] == pytest.approx(polite / 6)
    assert 0.0 <= report["metrics"]["calibration"]["value"] <= 1.0
    assert {"chrf", "accuracy"} <= report["metrics"].keys()  # six rows, but the training rows say what labels are
    assert report["labels"] == ["angry", "friendly", "neutral"]
    assert "politeness" in done.stdout


def test_generate_reads_standard_input(program: Program, trained: Path, ours: list[str]) -> None:
    flags = ("--dtype=float32", f"--max_new_tokens={ANSWER_TOKENS}")
    assert program("generate", trained, *flags, cwd=trained, stdin=QUESTIONS[1] + "\n").stdout[:-1] == ours[1]


def test_sampling_follows_its_seed(program: Program, trained: Path) -> None:
    hot = ("generate", trained, "hello", "--temperature=2", "--max_new_tokens=12")
    first, again, other = (program(*hot, f"--seed={seed}", cwd=trained).stdout for seed in (1, 1, 2))
    assert first == again != other


def test_chat_remembers_until_new(program: Program, trained: Path, ours: list[str]) -> None:
    flags = ("--dtype=float32", f"--max_new_tokens={ANSWER_TOKENS}")
    typed = f"{QUESTIONS[0]}\n{QUESTIONS[1]}\n/new\n{QUESTIONS[1]}\n/exit\n"
    said = program("chat", trained, *flags, cwd=trained, stdin=typed).stdout.replace(" [cut: --max_new_tokens]", "")
    # Answers of random weights may hold line ends, so the whole is compared.
    assert said.startswith(ours[0] + "\n")
    assert said.endswith("\n" + ours[1] + "\n")
