"""Made rows are never validated on, and never trained on beside the held-out row they were made from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oleaster.config.schema import DataConfig
from oleaster.data.augmented import MADE_BY, MADE_FROM, is_augmented, row_id
from oleaster.data.prepare import prepare

Row = dict[str, Any]


def written(count: int) -> list[Row]:
    return [{"prompt": f"question {i}", "completion": "ab"[i % 2]} for i in range(count)]


def made_from(row: Row) -> Row:
    return {**row, "prompt": row["prompt"] + "x", MADE_BY: "typos", MADE_FROM: row_id(row)}


def test_the_automatic_split_honours_the_marks(write: Callable[..., str]) -> None:
    rows = written(100)
    made = [made_from(row) for row in rows]
    prepared = prepare(DataConfig(data_files=[write("rows.jsonl", rows + made)]), seed=3)
    held = {example.row["prompt"] for example in prepared.validation}
    assert len(held) == 10
    assert not any(is_augmented(example.row) for example in prepared.validation)
    trained = {example.row["prompt"] for example in prepared.train}
    assert len(trained) == 180
    assert not trained & {f"{prompt}x" for prompt in held}
    assert prepared.ledger.train.dropped == {"made from a held-out row": 10}
    assert (prepared.ledger.read, prepared.ledger.train.rows, prepared.ledger.validation.rows) == (200, 190, 10)


def test_the_written_rows_are_held_out_as_without_made_ones(write: Callable[..., str]) -> None:
    rows = written(60)
    alone = prepare(DataConfig(data_files=[write("alone.jsonl", rows)]), seed=3)
    beside = prepare(DataConfig(data_files=[write("both.jsonl", [made_from(row) for row in rows] + rows)]), seed=3)
    assert [e.row for e in beside.validation] == [e.row for e in alone.validation]


def test_a_row_made_from_a_row_that_was_changed_since_is_left_out(write: Callable[..., str]) -> None:
    rows = written(40)
    stranger = made_from({"prompt": "another question", "completion": "a"})
    prepared = prepare(DataConfig(data_files=[write("rows.jsonl", [*rows, stranger])]), seed=3)
    assert prepared.ledger.train.dropped == {"made from a held-out row": 1}


def test_made_rows_in_a_named_validation_file_are_left_out(write: Callable[..., str]) -> None:
    rows = written(30)
    train = [*rows[:20], made_from(rows[0]), made_from(rows[25])]
    config = DataConfig(
        data_files=[write("train.jsonl", train)],
        eval_data_files=[write("valid.jsonl", [*rows[20:], made_from(rows[1])])],
    )
    prepared = prepare(config, seed=3)
    assert [e.row["prompt"] for e in prepared.train] == [*(row["prompt"] for row in rows[:20]), "question 0x"]
    assert len(prepared.validation) == 10
    assert prepared.ledger.validation.dropped == {"augmented rows are never validated on": 1}
    assert "1 augmented rows are trained on" in " ".join(prepared.notes)


def test_the_marks_do_not_count_for_the_identity_or_the_shape_of_a_row(write: Callable[..., str]) -> None:
    row = {"text": "all there is to learn"}
    assert row_id(row) == row_id({**row, MADE_BY: "typos", MADE_FROM: "x"}) != row_id({"text": "something else"})
    rows = [{**row, MADE_BY: "typos", MADE_FROM: ""}, *({"text": f"text {i}"} for i in range(30))]
    assert prepare(DataConfig(data_files=[write("texts.jsonl", rows)]), seed=3).config.data_format == "text"
