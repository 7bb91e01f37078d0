"""`oleaster data ...` as a person uses it: report, clean, undo, split, augment, and training on what they made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import PHRASES, Program

SHAPE = ("--prompt_field", "phrase", "--completion_field", "tone")


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    """Sixty good rows (of which ten at a time differ in a number) and six with something wrong."""
    rows = [{"phrase": f"{phrase}, order {n * 7919}", "tone": tone} for n in range(6) for phrase, tone in PHRASES]
    odd = [
        rows[4],
        {"phrase": "write to jan@firma.example then", "tone": "neutral"},
        {"phrase": "THIS is a SCANDAL, order 0", "tone": "friendly"},
        {"phrase": "the cafÃ© does not answer", "tone": "Angry"},
        {"phrase": "and what now", "tone": ""},
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [*rows, *odd]) + '{"phrase": "torn'
    (tmp_path / "train.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def test_report(program: Program, messy: Path, tiny: Path) -> None:
    done = program("data", "report", "train.jsonl", *SHAPE, "-m", tiny, "--json", "report.json", cwd=messy)
    for said in (
        "conflicts",
        "train.jsonl:63",
        "label_spellings",
        "train.jsonl:64",
        "'Angry' instead of 'angry'",
        "train.jsonl:65",
        "train.jsonl:66",
        "email ja...le",
        "duplicates",
        f"tokens of {tiny}",
    ):
        assert said in done.stdout
    written = json.loads((messy / "report.json").read_text())
    assert written["unit"] == "tokens"
    assert [f["severity"] for f in written["findings"]] == sorted(
        (f["severity"] for f in written["findings"]), key=("error", "warning", "note").index
    )
    program("data", "report", "train.jsonl", *SHAPE, "--strict", cwd=messy, code=1)


def test_clean_and_undo_and_clean_again(program: Program, messy: Path) -> None:
    source = (messy / "train.jsonl").read_bytes()
    done = program(
        "data", "clean", "train.jsonl", "-o", "clean.jsonl", *SHAPE, "--also", "conflicts,personal_data", cwd=messy
    )
    assert "personal_data" in done.stdout
    text = (messy / "clean.jsonl").read_text(encoding="utf-8")
    assert "[EMAIL]" in text
    assert "café" in text
    assert "Angry" not in text
    program("data", "undo", "clean.jsonl", "-o", "back.jsonl", cwd=messy)
    assert (messy / "back.jsonl").read_bytes() == source == (messy / "train.jsonl").read_bytes()
    assert "no such file" in program("data", "undo", "back.jsonl", "-o", "x.jsonl", cwd=messy, code=2).stderr
    assert "exists already" in program("data", "undo", "clean.jsonl", "-o", "back.jsonl", cwd=messy, code=2).stderr
    again = program("data", "clean", "clean.jsonl", "-o", "again.jsonl", *SHAPE, cwd=messy)
    assert "nothing" in again.stdout
    assert (messy / "again.jsonl").read_bytes() == (messy / "clean.jsonl").read_bytes()
    quiet = program("data", "report", "clean.jsonl", *SHAPE, "--strict", cwd=messy)
    assert "error" not in quiet.stdout


def test_from_one_file_to_a_run(program: Program, rows: Path, tiny: Path, tmp_path: Path) -> None:
    parts = program(
        "data", "split", rows, "-o", "parts", *SHAPE, "--validation_fraction=0.2", "--keep_near=no", cwd=tmp_path
    )
    assert "validation  " in parts.stdout
    train = tmp_path / "parts" / "train.jsonl"
    made = program(
        "data",
        "augment",
        train,
        "-o",
        "more.jsonl",
        *SHAPE,
        "--ways",
        "typos",
        "back_generation",
        "-m",
        tiny,
        cwd=tmp_path,
    )
    assert "typos" in made.stdout
    lines = [json.loads(line) for line in (tmp_path / "more.jsonl").read_text(encoding="utf-8").splitlines()]
    marked = [line for line in lines if "augmented_by" in line]
    assert len(lines) - len(marked) == len(train.read_text().splitlines())
    assert {line["augmented_by"] for line in marked} >= {"typos"}
    program(
        *("finetune", "-m", tiny, "--data_files", "more.jsonl", *SHAPE, "-o", "run", "--max_steps=1"),
        *("--validation_fraction=0.2", "--num_threads=1", "--max_new_tokens=4"),
        cwd=tmp_path,
    )
    ledger = json.loads((tmp_path / "run" / "ledger.json").read_text())
    assert ledger["read"] == len(lines)
    assert ledger["train"]["dropped"].get("made from a held-out row", 0) > 0
    assert ledger["train"]["used"] + ledger["validation"]["used"] + sum(ledger["train"]["dropped"].values()) == len(
        lines
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("report",), "not given: the rows"),
        (("report", "nothing.jsonl"), "nothing.jsonl: there is no such file"),
        (("clean", "rows.jsonl"), "not given: the file to write"),
        (("clean", "rows.jsonl", "-o", "x.jsonl", "--also", "typos"), "there is no fix 'typos'"),
        (("split", "rows.jsonl"), "not given: the folder to write"),
        (("augment", "rows.jsonl", "-o", "x.jsonl", "--ways", "paraphrase"), "add -m MODEL"),
        (("undo",), "not given: the cleaned file"),
        (("repot",), "did you mean 'data report'"),
    ],
)
def test_what_is_missing_is_named(
    words: tuple[str, ...], said: str, program: Program, rows: Path, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_bytes(rows.read_bytes())
    shape = SHAPE if len(words) > 1 and words[0] != "undo" else ()
    done = program("data", *words, *shape, cwd=tmp_path, code=2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
