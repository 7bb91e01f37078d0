"""Heads from the command line, and the same files in plain transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from command_line import Program
from peft import PeftModel

from oleaster.data.encode_heads import encode_head_prompt
from oleaster.pipeline import load
from tutorial import CUSTOM_LOSS

STEPS = (
    "--max_steps=16",
    "--eval_steps=8",
    "--learning_rate=1e-2",
    "--per_device_train_batch_size=8",
    "--num_threads=1",
)
SIDES = ("a cat sits", "a dog runs", "rain falls", "the train leaves")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def classifier(program: Program, needed: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads") / "tone"
    command = (*needed, "--task", "classification", "--head", "sequence", "--class_weights", "balanced")
    program(*command, "-o", folder, cwd=folder.parent)
    return folder


def test_a_sequence_head_answers_with_labels(program: Program, classifier: Path) -> None:
    said = program("generate", classifier, "give me my money", cwd=classifier.parent).stdout.strip()
    assert said in ("angry", "friendly", "neutral")
    shown = program("evaluate", classifier, cwd=classifier.parent).stdout
    assert "accuracy" in shown
    assert "tuned" in shown
    assert "base" not in shown.splitlines()[0]
    report = json.loads((classifier / "predictions/tuned/report.json").read_text())
    assert report["labels"] == ["angry", "friendly", "neutral"]
    assert report["metrics"]["outside_labels"]["value"] == 0.0


def test_plain_transformers_gives_the_same_logits(classifier: Path) -> None:
    own = transformers.AutoModelForSequenceClassification.from_pretrained(classifier / "model")
    plain = PeftModel.from_pretrained(own, classifier / "adapter").eval()
    assert own.config.label2id == {"angry": 0, "friendly": 1, "neutral": 2}
    tokenizer = transformers.AutoTokenizer.from_pretrained(classifier / "model")
    ours = load(classifier)
    texts = ["give me my money", "have a lovely day, you", "x"]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = plain(**inputs).logits
    assert ours.head is not None
    ids = [encode_head_prompt(text, ours.tokenizer, ours.config.data, ours.head) for text in texts]
    found: Any = ours.predictor
    logits = torch.tensor([read[0].tolist() for read in found._read(ids, [[len(i) - 1] for i in ids])])
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_an_exported_head_answers_as_it_did_without_torch(program: Program, classifier: Path, tmp_path: Path) -> None:
    shown = program("auto-opt", classifier, "-o", tmp_path / "onnx", "--num_threads=1", cwd=tmp_path).stdout
    rungs = [line.split()[0] for line in shown.splitlines() if line.endswith("holds")]
    assert rungs == ["torch", "merged", "onnx-fp32", "int8"]
    program("verify", tmp_path / "onnx", "--run", classifier, "--num_threads=1", cwd=tmp_path)
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    without = Program({**program.environment, "PYTHONPATH": f"{tmp_path}:{program.environment['PYTHONPATH']}"})
    said = without("generate", tmp_path / "onnx", "give me my money", cwd=tmp_path).stdout
    assert said == program("generate", classifier, "give me my money", cwd=tmp_path).stdout
    without("evaluate", tmp_path / "onnx", "-o", tmp_path / "scores", cwd=tmp_path)
    program("evaluate", classifier, "-o", tmp_path / "scores", cwd=tmp_path)
    before, after = (
        [json.loads(line)["prediction"] for line in (tmp_path / "scores" / name).read_text().splitlines()]
        for name in ("tuned/predictions.jsonl", "artifact/predictions.jsonl")
    )
    assert before == after


def test_a_merged_head_is_one_folder_of_transformers(program: Program, classifier: Path, tmp_path: Path) -> None:
    made = tmp_path / "merged"
    program("auto-opt", classifier, "-o", made, "--output_format=hf", "--num_threads=1", cwd=tmp_path)
    ask = transformers.pipeline("text-classification", str(made))
    texts = ["give me my money", "have a lovely day, you", "x"]
    ours = load(classifier)
    assert [answer["label"] for answer in ask(texts)] == [ours.answer(text).text for text in texts]
    assert [load(made).answer(text).text for text in texts] == [ours.answer(text).text for text in texts]


def test_a_token_head_answers_with_entities(program: Program, tiny: Path, tmp_path: Path) -> None:
    rows = [
        {"tokens": [f"{i}", name, *rest, "ran"], "tags": ["O", "B-person", *["I-person"] * len(rest), "O"]}
        for i in range(10)
        for name, *rest in (["Ada"], ["Bob", "Ross"], ["Cleo"])
    ]
    data = write(tmp_path / "tagged.jsonl", rows)
    run = tmp_path / "run"
    program("finetune", "-m", tiny, "-d", data, "--task=extraction", "--head=token", *STEPS, "-o", run, cwd=tmp_path)
    said = program("generate", run, "7 Bob Ross ran", cwd=tmp_path).stdout
    assert json.loads(said) == {"person": ["Bob Ross"]}
    assert "entity f1" in program("evaluate", run, cwd=tmp_path).stdout
    answers = (run / "predictions/tuned/predictions.jsonl").read_text().splitlines()
    assert {type(json.loads(json.loads(line)["prediction"])) for line in answers} == {dict}
    own = transformers.AutoModelForTokenClassification.from_pretrained(run / "model")
    assert own.config.id2label == {0: "O", 1: "B-person", 2: "I-person"}
    assert json.loads((run / "adapter/adapter_config.json").read_text())["task_type"] == "TOKEN_CLS"
    PeftModel.from_pretrained(own, run / "adapter")


def test_the_tutorials_loss_from_its_file(program: Program, tiny: Path, tmp_path: Path) -> None:
    rows = [
        {"sentence1": f"{a} {i}", "sentence2": f"{b} now {i}", "score": 5.0 * (a == b)}
        for i in range(3)
        for a in SIDES
        for b in SIDES
    ]
    data, loss = write(tmp_path / "pairs.jsonl", rows), tmp_path / "custom_loss.py"
    loss.write_text(CUSTOM_LOSS)
    command = ("finetune", "-m", tiny, "-d", data, "--task", "embedding", "--loss", f"{loss}:CustomContrastiveLoss")
    shown = program(*command, *STEPS, "-o", tmp_path / "run", cwd=tmp_path)
    assert "a label of 1 means 'different' to the loss" in shown.stdout + shown.stderr
    losses = [e["loss"] for e in map(json.loads, (tmp_path / "run/log.jsonl").read_text().splitlines()) if "loss" in e]
    assert losses[-1] < 0.8 * losses[0]
    vector = json.loads(program("generate", tmp_path / "run", "a cat sits", cwd=tmp_path).stdout)
    assert len(vector) == 64
    assert sum(x * x for x in vector) == pytest.approx(1.0, abs=1e-4)
    shown = program("evaluate", tmp_path / "run", cwd=tmp_path).stdout
    assert shown.splitlines()[0].split()[1:3] == ["base", "tuned"]


def test_a_wrong_loss_is_refused_before_anything_is_made(program: Program, needed: tuple[str, ...], tmp_path) -> None:
    loss = tmp_path / "mine.py"
    loss.write_text("def mine(logits, target, weights):\n    return logits.sum()\n")
    command = (*needed, "--loss", f"{loss}:mine", "-o", tmp_path / "run")
    shown = program(*command, cwd=tmp_path, code=2)
    assert "wants weights" in shown.stderr
    assert "given logits, targets" in shown.stderr
    assert not (tmp_path / "run").exists()
