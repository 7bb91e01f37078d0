"""The blind sheet: what judges see, what they must not see, and what is read back."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from oleaster.core.errors import DataError
from oleaster.evaluation.judging import judge, krippendorff, unblind
from oleaster.evaluation.report import Report, Row
from oleaster.evaluation.sheet import CHOICES, Key, make_sheet

COUNT = 40


def report(name: str, answers: list[str]) -> Report:
    rows = [Row(f"r:{i}", f"question {i}", f"wanted {i}", 1.0, 1, 1, 1, a, "stop") for i, a in enumerate(answers)]
    return Report(name, {}, rows=tuple(rows))


FIRST = report("secret-first", [f"one says {i}" for i in range(COUNT)] + ["equal"] * 3)
SECOND = report("secret-second", [f"two says {i}" for i in range(COUNT)] + ["equal "] * 3)


def lines(folder: Path) -> list[dict[str, str]]:
    with (folder / "sheet.csv").open(encoding="utf-8-sig", newline="") as text:
        return list(csv.DictReader(text))


def test_judges_see_both_answers_of_each_row_and_never_whose_they_are(tmp_path):
    key = make_sheet(FIRST, SECOND, tmp_path, 30)
    page = (tmp_path / "sheet.html").read_text("utf-8")
    table = (tmp_path / "sheet.csv").read_text("utf-8-sig")
    assert "secret" not in page + table
    assert "wanted" not in page + table
    assert len(lines(tmp_path)) == 30
    for line, straight, source in zip(lines(tmp_path), key.a_is_first, key.sources, strict=True):
        number = source.removeprefix("r:")
        assert line["question"] == f"question {number}"
        shown = [f"one says {number}", f"two says {number}"]
        assert [line["A"], line["B"]] == (shown if straight else shown[::-1])
        assert all(f">{text}<" in page for text in shown)
    assert sum(key.a_is_first) == 15  # each on the left in half of the rows
    assert (key.same, key.pool) == (3, COUNT)
    assert key.sources != tuple(sorted(key.sources, key=lambda s: int(s[2:])))
    assert Key.read(tmp_path) == key
    assert "wanted 1" in (
        make_sheet(FIRST, SECOND, tmp_path, show_reference=True) and (tmp_path / "sheet.html").read_text()
    )


def test_the_page_asks_nobody_and_what_a_model_writes_is_text_not_code(tmp_path):
    bad = ["<script>alert(1)</script>", "=HYPERLINK(1)", "</fieldset>&", ""]
    make_sheet(report("a", bad), report("b", ["x"] * 4), tmp_path)
    page = (tmp_path / "sheet.html").read_text("utf-8")
    assert page.count("<script") == 1
    assert "&lt;script&gt;alert(1)" in page
    assert not re.search(r"""(src|href)=|https?:|@import|url\(""", page)
    cells = {line[side] for line in lines(tmp_path) for side in "AB"}
    assert "'=HYPERLINK(1)" in cells
    assert "(no answer)" in page


def test_equal_answers_make_no_sheet(tmp_path):
    with pytest.raises(DataError, match="the answers to all 43 rows are the same"):
        make_sheet(FIRST, replace(FIRST, model="other"), tmp_path)


def fill(folder: Path, name: str, prefers: float, seed: int, **columns: str) -> Path:
    """A judge who likes the second model in `prefers` of the rows; as the page writes it."""
    source, key = np.random.default_rng(seed), Key.read(folder)
    path = folder / name
    with path.open("w", encoding="utf-8-sig", newline="") as text:
        writer = csv.DictWriter(text, ["sheet", "row", "judge", "choice", "comment"])
        writer.writeheader()
        for row, a_is_first in enumerate(key.a_is_first, 1):
            second = source.random() < prefers
            choice = "B" if second == a_is_first else "A"
            writer.writerow({"sheet": key.sheet, "row": row, "choice": choice, "judge": "", "comment": "", **columns})
    return path


def test_a_clear_preference_is_found_whatever_the_sides(tmp_path):
    make_sheet(FIRST, SECOND, tmp_path)
    found = unblind(tmp_path, [fill(tmp_path, "anna.csv", 0.9, 1), fill(tmp_path, "x.csv", 0.9, 2, judge="Ben")])
    assert found.verdict == found.advice == "better"
    assert found.judges == ("anna", "Ben")
    assert (found.first, found.second, found.rows, found.same) == ("secret-first", "secret-second", COUNT, 3)
    assert found.wins_second > 25 > 5 > found.wins_first
    assert found.share is not None
    assert found.share.low > 0.8
    assert found.left_p_value > 0.05
    worse = unblind(tmp_path, [fill(tmp_path, "cy.csv", 0.1, 3)])
    assert (worse.verdict, worse.agreement, worse.judges) == ("worse", None, ("cy",))


def test_no_preference_is_not_distinguished_and_choosing_a_side_is_noticed(tmp_path):
    key = make_sheet(FIRST, SECOND, tmp_path)
    even = {row: "same" if row > 4 else ("A" if key.a_is_first[row - 1] == (row > 1) else "B") for row in range(1, 41)}
    found = judge(key, {"a": even})
    assert found.advice == "not distinguishable with 40 judged rows; would need about 320"
    assert (found.wins_first, found.wins_second, found.votes["same"]) == (3, 1, 36)
    always_left = judge(key, {"a": dict.fromkeys(range(1, 41), "A")})
    assert (always_left.wins_first, always_left.wins_second) == (20, 20)
    assert always_left.left_share == 1.0
    assert always_left.left_p_value < 1e-6


def test_a_row_is_won_by_the_majority_and_neither_is_a_tie(tmp_path):
    key = replace(make_sheet(FIRST, SECOND, tmp_path), a_is_first=(True,) * 40)
    found = judge(key, {"a": {1: "A", 2: "A", 3: "neither"}, "b": {1: "A", 2: "B", 3: "B"}, "c": {1: "B"}})
    assert (found.wins_first, found.wins_second, found.rows) == (1, 1, 3)
    assert found.kappas.keys() == {("a", "b"), ("a", "c"), ("b", "c")}


def test_wrong_files_are_named_line_by_line(tmp_path):
    key = make_sheet(FIRST, SECOND, tmp_path)
    other = tmp_path / "other.csv"
    other.write_text("name,age\nx,1\n")
    wrong = tmp_path / "wrong.csv"
    head = "sheet;row;choice\n"  # as a Polish Excel saves it
    rows = [f"{key.sheet};1;better", "elsewhere;2;A", f"{key.sheet};99;A", f"{key.sheet};3;b", f"{key.sheet};3;A", "x"]
    wrong.write_text(head + "\n".join(rows))
    with pytest.raises(DataError) as error:
        unblind(tmp_path, [other, wrong])
    for part in (
        "6 problems",
        "other.csv: no column choice, row, sheet",
        "wrong.csv:2: 'better' is no choice",
        "wrong.csv:3: is not a line of this sheet",
        "wrong.csv:4: is not a line",
        "wrong.csv:6: this judge has judged the row twice, differently",
        "wrong.csv:7: is not a line",
    ):
        assert part in str(error.value)
    wrong.write_text(head + f"{key.sheet};1;\n")
    with pytest.raises(DataError, match="nothing is judged yet"):
        unblind(tmp_path, [wrong])
    with pytest.raises(DataError, match="no filled sheet"):
        unblind(tmp_path, [])
    (tmp_path / "key.json").write_text(json.dumps({"sheet": 1}))
    with pytest.raises(DataError, match="the key is damaged"):
        unblind(tmp_path, [wrong])
    with pytest.raises(DataError, match=r"there is no key\.json"):
        unblind(tmp_path / "nowhere", [wrong])


def test_alpha_is_that_of_krippendorffs_own_example():
    """Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C: nominal alpha 0.743."""
    observers = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    units = [[said for said in unit if said != "."] for unit in zip(*observers, strict=True)]
    assert krippendorff(units) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff([["a"], ["b"]]) is None
    assert krippendorff([["a", "a"], ["a", "a"]]) is None


@given(st.lists(st.tuples(st.sampled_from(CHOICES), st.sampled_from(CHOICES)), min_size=2, max_size=40))
def test_kappa_equals_scikit_learns_on_the_opinions(choices):
    key = Key("s", "f", "g", (True,) * len(choices), ("",) * len(choices), 0, len(choices))
    found = judge(
        key, {name: {row: pair[side] for row, pair in enumerate(choices, 1)} for side, name in enumerate("ab")}
    )
    kinds = [["tie" if choice in ("same", "neither") else choice for choice in pair] for pair in choices]
    if len({kind for pair in kinds for kind in pair}) < 2:
        assert found.kappas == {}
    else:
        assert found.kappas["a", "b"] == pytest.approx(cohen_kappa_score(*zip(*kinds, strict=True)), nan_ok=True)
