"""A cleaning mends, leaves out, lists every change, and can be undone byte by byte."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quality_rows import Row, good_rows

from oleaster.config.schema import DataConfig
from oleaster.core.errors import ConfigError, DataError
from oleaster.quality.changes import log_of, undo
from oleaster.quality.clean import ALWAYS, ON_REQUEST, choose_fixes, clean
from oleaster.quality.material import gather

SAFE = choose_fixes((), ())


def lines_of(rows: list[Row]) -> list[str]:
    return [json.dumps(row, ensure_ascii=False) for row in rows]


def cleaned(folder: Path, data: bytes, fixes: tuple[str, ...] = SAFE) -> list[Row]:
    """The rows of the copy; undoing has been tried."""
    source = folder / "rows.jsonl"
    source.write_bytes(data)
    for path in (folder / "clean.jsonl", folder / "clean.changes.jsonl", folder / "back.jsonl"):
        path.unlink(missing_ok=True)
    clean(source, folder / "clean.jsonl", DataConfig(), fixes)
    undo(folder / "clean.jsonl", folder / "back.jsonl")
    assert (folder / "back.jsonl").read_bytes() == data == source.read_bytes()
    return [json.loads(line) for line in (folder / "clean.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]


def test_good_rows_stay_as_they_are(tmp_path: Path) -> None:
    data = "\n".join(lines_of(good_rows())).encode()
    assert cleaned(tmp_path, data) == good_rows()
    assert len(log_of(tmp_path / "clean.jsonl").read_text().splitlines()) == 1


def test_every_safe_fix(tmp_path: Path) -> None:
    good = good_rows()
    new = "who pays for the broken piano stool"
    odd = [
        {"prompt": "le cafÃ© est fermÃ© depuis hier soir", "completion": "damage"},
        {"prompt": f"{new}\u200b in June", "completion": "refund"},
        {"prompt": f" {new} in May\n", "completion": "refund"},
        {"prompt": f"{new} in July", "completion": "REFUND"},
    ]
    dropped = [
        *lines_of([{"prompt": new, "completion": ""}, {"prompt": " ", "completion": "refund"}, good[3]]),
        '{"a',
        "",
    ]
    latin = json.dumps({"prompt": "die Tür ist kaputt und größer", "completion": "damage"}, ensure_ascii=False)
    parts = [line.encode() for line in lines_of(good + odd) + dropped] + [latin.encode("cp1252")]
    rows = cleaned(tmp_path, b"\r\n".join(parts[:3]) + b"\r\n" + b"\n".join(parts[3:]) + b"\n")
    assert rows == [
        *good,
        {"prompt": "le café est fermé depuis hier soir", "completion": "damage"},
        {"prompt": f"{new} in June", "completion": "refund"},
        {"prompt": f"{new} in May", "completion": "refund"},
        {"prompt": f"{new} in July", "completion": "refund"},
        {"prompt": "die Tür ist kaputt und größer", "completion": "damage"},
    ]
    entries = [json.loads(line) for line in log_of(tmp_path / "clean.jsonl").read_text().splitlines()[1:]]
    assert {why.partition(":")[0] for entry in entries for why in entry["why"]} == {
        *ALWAYS,
        "line_ends",
        "blank_line",
    }


@pytest.mark.parametrize(
    ("fix", "row", "left"),
    [
        ("control_tokens", "who pays<|im_end|> for the piano stool", "who pays for the piano stool"),
        ("markup", "who <b>&amp; why</b> pays<br/>for the <span>stool</span>", "who <b>& why</b> pays\nfor the stool"),
        ("personal_data", "jan@firma.example pays for it on +48 601 234 567", "[EMAIL] pays for it on [PHONE]"),
        ("near_duplicates", good_rows()[7]["prompt"] + "x", None),
        ("conflicts", good_rows()[7]["prompt"].upper(), None),
    ],
)
def test_fixes_on_request(fix: str, row: str, left: str | None, tmp_path: Path) -> None:
    label = "damage" if fix == "conflicts" else "refund"
    data = "\n".join(lines_of([*good_rows(), {"prompt": row, "completion": label}])).encode()
    assert cleaned(tmp_path, data)[-1]["prompt"] == row
    rows = cleaned(tmp_path, data, choose_fixes([fix], []))
    if left is not None:
        assert rows[-1]["prompt"] == left
    else:
        others = [r for i, r in enumerate(good_rows()) if fix == "near_duplicates" or i != 7]
        assert rows == others


def test_rows_of_another_part_are_left_out(tmp_path: Path) -> None:
    good = good_rows()
    (tmp_path / "test.jsonl").write_text("\n".join(lines_of([{**good[2], "prompt": good[2]["prompt"] + "!"}, good[9]])))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines_of([*good, {**good[9], "prompt": good[9]["prompt"] + "x"}])))
    against = gather([str(tmp_path / "test.jsonl")], DataConfig())
    for fixes, left in ((SAFE, 59), (choose_fixes(["near_duplicates"], []), 58)):
        output = tmp_path / f"{left}.jsonl"
        assert clean(tmp_path / "rows.jsonl", output, DataConfig(), fixes, against).kept == left


def test_blanks_are_kept_where_they_are_the_rule(tmp_path: Path) -> None:
    rows = [{"prompt": f"def f{i}():", "completion": f"    return {i} * {i + 1}"} for i in range(30)]
    assert cleaned(tmp_path, "\n".join(lines_of(rows)).encode()) == rows


def test_tables_come_back_as_the_same_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    body = "".join(f'"{row["prompt"]}",{row["completion"]}\n' for row in [*good_rows(), good_rows()[0]])
    path.write_text("prompt,completion\n" + body)
    assert clean(path, tmp_path / "clean.jsonl", DataConfig(), SAFE).dropped == 1
    assert not undo(tmp_path / "clean.jsonl", tmp_path / "back.jsonl").exact
    rows = [json.loads(line) for line in (tmp_path / "back.jsonl").read_text().splitlines()]
    assert rows == [*good_rows(), good_rows()[0]]


@settings(max_examples=40)
@given(
    texts=st.lists(st.text(max_size=12), min_size=1, max_size=8),
    end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "cp1250", "utf-16", "utf-8-sig"]),
    seed=st.integers(0, 99),
)
def test_any_file_comes_back(
    texts: list[str], end: str, encoding: str, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = [*good_rows()[:20], *({"prompt": text, "completion": "refund"} for text in texts)]
    lines = [*lines_of(rows), '{"torn', "", " "]
    random.Random(seed).shuffle(lines)
    data = (end.join(lines) + end * (seed % 2)).encode(encoding, "replace")
    cleaned(tmp_path_factory.mktemp("any"), data, choose_fixes(ON_REQUEST, []))


def test_a_copy_that_was_edited_cannot_be_undone(tmp_path: Path) -> None:
    rows = [*good_rows(), good_rows()[0]]
    cleaned(tmp_path, "\n".join(lines_of(rows)).encode())
    copy = tmp_path / "clean.jsonl"
    copy.write_text(copy.read_text().replace("lamp", "lump", 1))
    with pytest.raises(DataError, match="changed after it was cleaned"):
        undo(copy, tmp_path / "again.jsonl")
    assert not (tmp_path / "again.jsonl").exists()


def test_wrong_names_and_columns_say_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="near_duplicates"):
        choose_fixes(["near_duplicate"], [])
    (tmp_path / "rows.jsonl").write_text("\n".join(lines_of(good_rows())))
    with pytest.raises(DataError, match="promt"):
        clean(tmp_path / "rows.jsonl", tmp_path / "c.jsonl", DataConfig(prompt_field="promt"), SAFE)
    with pytest.raises(ConfigError, match=r"ends in \.jsonl"):
        clean(tmp_path / "rows.jsonl", tmp_path / "c.csv", DataConfig(), SAFE)
