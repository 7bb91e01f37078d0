"""Rows, bases and methods looked at before a training; runs measured, judged and diagnosed after it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from shell import MODEL, PHRASES, SHORT, SUPPORT, Shell

from oleaster.core.run import Run
from oleaster.models.tiny import make_tiny
from tutorial import EVALUATION_SCRIPT

LOCAL_TASK = """\
task: arithmetic
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{q}}}} Answer:"
doc_to_choice: choices
doc_to_target: right
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.mark.row("S12")
def test_rows_are_looked_at(shell: Shell, project: Path) -> None:
    line = json.dumps({"phrase": "where is it", "tone": "neutral"}) + "\n"
    with (project / "rows.jsonl").open("w") as file:
        file.write(line * 2 + (project / "xxyyzzz/phrase_classification/train.jsonl").read_text())
    fields = "--prompt_field phrase --completion_field tone"
    assert "rows.jsonl:2" in shell(f"oleaster data report rows.jsonl {fields}", project).stdout
    shell(f"oleaster data clean rows.jsonl -o clean.jsonl {fields}", project)
    assert (project / "clean.jsonl").read_text().count(line) == 1


@pytest.mark.row("S16")
def test_choosing_a_base(shell: Shell, project: Path) -> None:
    """Licence, size against this machine, and whether the base knows the language of the rows."""
    said = shell(f"oleaster plan -m models/base {PHRASES}", project).stdout
    assert "licence of the base" in said
    assert "MB to spare" in said
    figures = json.loads(shell(f"oleaster plan -m models/base {PHRASES} --json", project).stdout)
    assert 0 < figures["load_mb"] < figures["available_mb"]
    foreign = figures["tokens_per_word"] > 2.5
    assert foreign == (MODEL == "tiny")
    assert foreign == ("hardly knows the language of your rows" in said)


@pytest.mark.row("S17")
def test_choosing_a_method(shell: Shell, project: Path) -> None:
    """LoRA and QLoRA where resources are short; full where there are rows enough for it."""
    base = "models/base"
    if MODEL == "tiny":  # of a base of a few thousand weights, a method's own tensors would be most of the memory
        base, heads = "wide", {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64}
        make_tiny("llama", project / base, hidden_size=512, intermediate_size=1536, num_hidden_layers=4, **heads)
    figures = json.loads(shell(f"oleaster plan -m {base} {PHRASES} --method full --json", project).stdout)
    ways = {way["name"]: way for way in figures["choices"]}
    assert max(ways["lora"]["trained"], ways["adapter"]["trained"]) < ways["full"]["trained"] / 10
    assert ways["lora"]["work"] < ways["full"]["work"]
    assert ways["qlora"]["memory_mb"] < ways["lora"]["memory_mb"] < ways["full"]["memory_mb"]
    assert any("LoRA forgets less of the base" in advice for advice in figures["advice"])


@pytest.mark.row("S22")
def test_measures(shell: Shell, trained: Path) -> None:
    flags = "--metrics accuracy,bleu,rouge_l,macro_f1 --eval_max_samples 10 -o scores"
    said = shell(f"oleaster evaluate runs/tone {flags}", trained).stdout
    assert [name for name in ("accuracy", "perplexity", "bleu", "rouge l", "macro f1") if name not in said] == []


@pytest.mark.row("S23")
def test_benchmarks(shell: Shell, trained: Path) -> None:
    rows = [{"q": f"{a} + 1", "choices": [str(a + 1), str(a)], "right": 0} for a in range(6)]
    (trained / "tasks").mkdir()
    (trained / "tasks" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (trained / "tasks" / "arithmetic.yaml").write_text(LOCAL_TASK.format(rows=trained / "tasks" / "rows.jsonl"))
    shell("oleaster benchmark runs/tone --tasks arithmetic --include_path tasks -o benchmarks", trained)
    figures = json.loads((trained / "benchmarks" / "benchmarks.json").read_text())["figures"]
    assert figures["arithmetic"]["acc"]["count"] == 6


@pytest.mark.row("S23")
def test_people_judge(shell: Shell, trained: Path) -> None:
    rows = f"-d {SUPPORT}/test.jsonl --prompt_field phrase --completion_field tone --eval_max_samples 8"
    shell(f"oleaster sheet models/base runs/tone {rows} --sheet_rows 4 -o sheet", trained)
    with (trained / "sheet" / "sheet.csv").open(encoding="utf-8-sig", newline="") as text:
        lines = list(csv.DictReader(text))
    with (trained / "sheet" / "anna.csv").open("w", encoding="utf-8", newline="") as text:
        writer = csv.DictWriter(text, lines[0].keys())
        writer.writeheader()
        writer.writerows({**line, "choice": "a"} for line in lines)
    assert "A was preferred in 100% of the choices" in " ".join(shell("oleaster unblind sheet", trained).stdout.split())


@pytest.mark.row("S23")
def test_a_mistake_has_a_price(shell: Shell, trained: Path) -> None:
    flags = f"-d {SUPPORT}/test.jsonl --plugins {SUPPORT}/costs.py --metrics cost_per_request --eval_max_samples 10"
    said = shell(f"oleaster evaluate runs/tone {flags} -o prices", trained).stdout
    assert "cost per request" in said
    assert "EUR" in said


@pytest.mark.row("S24", block=12)
def test_evaluate_model(shell: Shell, trained: Path) -> None:
    """The printed script runs on a run's model; the function that it leaves open is this package's."""
    call = "\nprint(evaluate_model('runs/tone/model', [], metric_type='accuracy'))\n"
    (trained / "evaluation_script.py").write_text(EVALUATION_SCRIPT + call)
    assert shell("python evaluation_script.py", trained).stdout == "{}\n"
    code = (
        "from oleaster import evaluate_model\n"
        "rows = [{'phrase': 'where is it', 'tone': 'neutral'}, {'phrase': 'give it back', 'tone': 'angry'}]\n"
        "print(evaluate_model('runs/tone', rows, metric_type='accuracy'))\n"
    )
    (trained / "evaluation_script.py").write_text(code)
    assert "accuracy" in shell("python evaluation_script.py", trained).stdout


@pytest.mark.row("S30")
def test_a_poor_run_is_diagnosed(shell: Shell, project: Path) -> None:
    """Trained with far too small a learning rate: it is named first, and the recipe that is proposed does better."""
    words = ["my", "no", "we", "it", "is", "do", "go", "at", "by", "he"]
    ends = (("up", "yes"), ("on", "no"))
    rows = [{"prompt": f"{a} {b} {end}", "completion": answer} for a in words for b in words for end, answer in ends]
    (project / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = "1e-4" if MODEL == "tiny" else "1e-6"
    flags = f"--max_steps 20 --eval_steps 5 --learning_rate {small} --max_new_tokens 4"
    shell(f"oleaster finetune -m models/base -d rows.jsonl {flags} -o runs/poor", project)
    assert "1. learning rate low" in shell("oleaster diagnose runs/poor --steps 20", project).stdout
    shell("oleaster finetune --config runs/poor/diagnosis/1-learning_rate_low.yaml -o runs/better", project)
    losses = [Run(project / "runs" / name).summary["eval_loss"] for name in ("better", "poor")]
    assert losses[0] < losses[1]


@pytest.mark.row("S30")
@pytest.mark.parametrize(
    ("cause", "flags", "advice"),
    [
        ("truncation", "--max_length 48 --overlong truncate", "max_length"),
        ("template", "", "rows with plain prompts"),
        ("wrong_base", "", "a base for this language"),
    ],
)
def test_rows_format_tokens_and_base_are_looked_at(
    shell: Shell, project: Path, cause: str, flags: str, advice: str
) -> None:
    """What is wrong with rows, their form or the base is seen without training; a recipe without it is written."""
    phrases = [json.loads(line) for line in (SUPPORT / "train.jsonl").read_text().splitlines()[:60]]
    rows = [{"prompt": row["phrase"], "completion": row["tone"]} for row in phrases]
    if cause == "template":
        rows = [{**row, "prompt": f"<|im_start|>user\n{row['prompt']}<|im_end|>\n"} for row in rows]
    if cause == "wrong_base":
        rows = [{**row, "prompt": "".join(chr(0x0430 + ord(c) % 32) if c.isalpha() else c for c in row["prompt"])}
                for row in rows]  # fmt: skip
    (project / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shell(f"oleaster finetune -m models/base -d rows.jsonl {SHORT} {flags} -o runs/x", project)
    shell("oleaster diagnose runs/x --trials false", project)
    found = json.loads((project / "runs/x/diagnosis/diagnosis.json").read_text())["findings"]
    finding = next(finding for finding in found if finding["cause"] == cause)
    assert advice in finding["advice"]
    assert Path(project / finding["recipe"]).is_file()


@pytest.mark.row("S30")
def test_more_varied_rows(shell: Shell, project: Path) -> None:
    rows = project / "xxyyzzz/phrase_classification/train.jsonl"
    fields = "--prompt_field phrase --completion_field tone"
    shell(f"oleaster data augment {rows} -o more.jsonl {fields} --copies 1", project)
    made = (project / "more.jsonl").read_text().splitlines()
    assert len(made) > 1.5 * len(rows.read_text().splitlines())
    done = shell(f"oleaster finetune -m models/base -d more.jsonl {fields} {SHORT} -o runs/x", project)
    assert "validation loss" in done.stdout
