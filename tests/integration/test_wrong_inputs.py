"""What a person sees who typed or wrote something wrong: the place, what was found, what to write; exit code 2.

Nothing is written in any of these cases.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from command_line import Program

GOOD = '{"prompt": "a", "completion": "b"}\n'


@dataclass(frozen=True)
class Wrong:
    """A command line for a folder that holds `files` and a link `tiny` to the model."""

    name: str
    command: str
    said: tuple[str, ...]
    """Parts of the message."""
    files: dict[str, str | bytes] = field(default_factory=dict)


def training(flags: str = "", *, model: str = "tiny", rows: str = "rows.jsonl") -> str:
    return f"finetune -m {model} -d {rows} -o run {flags}"


CASES = [
    Wrong("unknown command", "finetun", ("finetun: there is no such command", "-> did you mean 'finetune'?")),
    Wrong(
        "unknown flag", training("--learning_rat 1e-4"), ("--learning_rat: there is no such flag", "--learning_rate")
    ),
    Wrong(
        "wrong type and bound, both named",
        training("--max_steps ten --lora_dropout 1.5"),
        ("2 problems", "--max_steps: 'ten' is no whole number", "--lora_dropout: '1.5'", "less than 1"),
    ),
    Wrong("a flag twice", training("--seed 1 --seed 2"), ("--seed: given twice: 1 and 2", "keep one")),
    Wrong("no such choice", training("--optim adam"), ("--optim: 'adam'", "did you mean", "adamw")),
    Wrong("contradiction", training("--fp16 --bf16"), ("fp16 and bf16 are both asked for",)),
    Wrong("float16 without a GPU", training("--fp16"), ("--fp16: float16 training needs an NVIDIA GPU", "--bf16")),
    Wrong("no steps", training("--max_steps 0"), ("--max_steps: 0 steps train nothing",)),
    Wrong(
        "unknown keys in a recipe, with their lines",
        "finetune --config r.yaml",
        ("r.yaml:2", "modl", "model", "r.yaml:5", "learning_rte", "learning_rate"),
        {"r.yaml": "output_path: run\nmodl: tiny\ndata:\n  data_files: rows.jsonl\ntraining: {learning_rte: 1}\n"},
    ),
    Wrong(
        "broken YAML", "finetune --config r.yaml", ("r.yaml:3: not valid YAML",), {"r.yaml": "seed: 1\nmodel: [tiny\n"}
    ),
    Wrong("no recipe", "finetune --config other.yaml", ("other.yaml: there is no such recipe",)),
    Wrong(
        "nothing given",
        "finetune --method lora --task_name classification --output_path run",
        ("not given: the base model", "the rows", "oleaster finetune --method lora", "-d rows.jsonl"),
    ),
    Wrong("no such file", training(rows="rowz.jsonl"), ("there is no file or folder 'rowz.jsonl'", "rows.jsonl")),
    Wrong("no such model", training(model="./tinny"), ("there is no file or folder './tinny'", "tiny")),
    Wrong(
        "bad rows, each with its line",
        training(rows="bad.jsonl"),
        ("bad.jsonl:2", "bad.jsonl:4"),
        {"bad.jsonl": GOOD + '{"prompt": "a"\n' + GOOD + "[1, 2]\n"},
    ),
    Wrong("empty file", training(rows="empty.jsonl"), ("empty.jsonl", "no rows"), {"empty.jsonl": ""}),
    Wrong(
        "not UTF-8",
        training(rows="old.jsonl"),
        ("old.jsonl:1",),
        {"old.jsonl": GOOD.replace("a", "ä").encode("latin-1")},
    ),
    Wrong(
        "no such column",
        training("--prompt_field questoin", rows="rows.jsonl"),
        ("questoin", "prompt"),
    ),
    Wrong(
        "no such column in a template",
        training("--text_template '{promt}: {completion}'"),
        ("promt", "prompt"),
    ),
    Wrong("template without columns", training("--text_template hello"), ("no {column} stands in the template",)),
    Wrong(
        "rows too long",
        training("--max_length 24"),
        ("24", "--overlong"),
    ),
    Wrong("no such module", training("--target_modules q_prj"), ("q_prj", "q_proj")),
    Wrong("no such split", training("--train_split 'train[500:600]'"), ("train[500:600]",)),
    Wrong("foreign folder", training().replace("run", "docs"), ("docs: the folder holds files that are not of a run",)),
    Wrong("a file as the folder", training().replace("-o run", "-o rows.jsonl"), ("'rows.jsonl' is a file",)),
    Wrong("no model in it", training(model="docs"), ("docs: no config.json in this folder",)),
    Wrong("weights cut short", training(model="cut"), ("cut", "model.safetensors")),
    Wrong(
        "no such package",
        training(model="package:llm-nothing"),
        ("the package 'llm-nothing' is not installed", "pip install"),
    ),
    Wrong(
        "unknown metric",
        training("--metrics acuracy,chrf"),
        ("there is no metric 'acuracy'", "did you mean 'accuracy'"),
    ),
    Wrong("no run", "evaluate ./nowhere -d rows.jsonl", ("./nowhere: no such folder",)),
    Wrong("no prompt", "generate tiny --temperature -1", ("temperature >= 0",)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_message_says_where_and_what_to_write(case: Wrong, program: Program, tiny: Path, tmp_path: Path) -> None:
    lay_out(tmp_path, tiny, case)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    done = program(*shlex.split(case.command), cwd=tmp_path, code=2)
    assert done.stderr.startswith("oleaster: ")
    assert "Traceback" not in done.stderr
    assert [part for part in case.said if part not in done.stderr] == [], done.stderr
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


def lay_out(folder: Path, tiny: Path, case: Wrong) -> None:
    (folder / "tiny").symlink_to(tiny)
    rows = [{"prompt": f"question {n}", "completion": f"answer {n % 3}"} for n in range(20)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "docs").mkdir()
    (folder / "docs" / "letter.txt").write_text("keep me")
    (folder / "cut").mkdir()
    for path in tiny.iterdir():
        content = path.read_bytes()
        (folder / "cut" / path.name).write_bytes(content[:5000] if path.suffix == ".safetensors" else content)
    for name, content in case.files.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
