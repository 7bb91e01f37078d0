"""A division is a partition, even over the labels, and divides nothing that belongs together."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quality_rows import Row, good_rows

from oleaster.config.schema import DataConfig
from oleaster.core.errors import ConfigError, DataError
from oleaster.data.augmented import MADE_BY, MADE_FROM, row_id
from oleaster.quality.divide import divide, write_parts
from oleaster.quality.material import Material, gather
from oleaster.quality.nearness import clusters, find_near, likeness, normalised, pieces

Write = Callable[[str, Sequence[Row]], Path]


def material(write: Write, rows: Sequence[Row]) -> Material:
    return gather([str(write("rows.jsonl", rows))], DataConfig())


def asked(rows: Sequence[Row]) -> set[str]:
    return {normalised(row["prompt"]).removesuffix(" please") for row in rows}


def test_shares_and_labels(write: Write) -> None:
    division = divide(material(write, good_rows()), 0.15, 0.1, seed=1)
    assert {part: len(rows) for part, rows in division.parts.items()} == {"train": 45, "validation": 9, "test": 6}
    assert division.labels["validation"] == {"delivery": 3, "refund": 3, "damage": 3}
    everything = [json.dumps(row) for rows in division.parts.values() for row in rows]
    assert sorted(everything) == sorted(json.dumps(row) for row in good_rows())
    assert division == divide(material(write, good_rows()), 0.15, 0.1, seed=1)
    assert division != divide(material(write, good_rows()), 0.15, 0.1, seed=2)


def test_near_duplicates_and_groups_stay_on_one_side(write: Write) -> None:
    rows = [{**row, "customer": i // 4} for i, row in enumerate(good_rows())]
    rows += [{**row, "prompt": row["prompt"].title() + " please", "customer": 100 + i} for i, row in enumerate(rows)]
    division = divide(material(write, rows), 0.2, 0.0, seed=1, group_field="customer")
    sides = {
        part: {normalised(r["prompt"]).removesuffix(" please") for r in side} for part, side in division.parts.items()
    }
    assert not sides["train"] & sides["validation"]
    customers = {
        part: {row["customer"] for row in side if row["customer"] < 100} for part, side in division.parts.items()
    }
    assert not customers["train"] & customers["validation"]
    assert 16 <= len(division.parts["validation"]) <= 24
    loose = divide(material(write, rows), 0.2, 0.0, seed=1, keep_near=False)
    sides = {
        part: {normalised(r["prompt"]).removesuffix(" please") for r in side} for part, side in loose.parts.items()
    }
    assert sides["train"] & sides["validation"], "without it this test would prove nothing"


def test_made_rows_follow_their_sources(write: Write) -> None:
    rows = good_rows()
    made = [{**row, "prompt": f"{row['prompt']} xx", MADE_BY: "typos", MADE_FROM: row_id(row)} for row in rows]
    division = divide(material(write, [*made, *rows]), 0.2, 0.0, seed=1)
    assert division.left_out == len(division.parts["validation"]) == 12
    assert not any(MADE_BY in row for row in division.parts["validation"])
    held = {row["prompt"] for row in division.parts["validation"]}
    assert not held & {row["prompt"].removesuffix(" xx") for row in division.parts["train"]}
    assert len(division.parts["train"]) == 96


def test_nothing_is_overwritten_and_bad_rows_are_refused(write: Write, tmp_path: Path) -> None:
    division = divide(material(write, good_rows()), 0.2, 0.0, seed=1)
    paths = write_parts(division, tmp_path / "parts")
    assert {part: path.name for part, path in paths.items()} == {
        "train": "train.jsonl",
        "validation": "validation.jsonl",
    }
    assert gather([str(tmp_path / "parts")], DataConfig()).parts == ("train", "validation")
    with pytest.raises(DataError, match="exists already"):
        write_parts(division, tmp_path / "parts")
    with pytest.raises(DataError, match="is empty"):
        divide(material(write, [*good_rows(), {"prompt": "a", "completion": ""}]), 0.2, 0.0, seed=1)
    for wrong in ((0.5, 0.5), (0.0, 0.0), (0.2, -0.1)):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            divide(material(write, good_rows()), *wrong, seed=1)
    with pytest.raises(ConfigError, match="did you mean 'completion'"):
        divide(material(write, good_rows()), 0.2, 0.0, seed=1, group_field="completions")


def test_groups_too_large_to_be_held_out_are_an_error_not_an_empty_part(write: Write) -> None:
    rows = [{**row, "customer": "the only one"} for row in good_rows()]
    with pytest.raises(DataError, match="no row is left for validation"):
        divide(material(write, rows), 0.2, 0.0, seed=1, group_field="customer")
    large = [{**row, "customer": i // 20} for i, row in enumerate(good_rows())]
    division = divide(material(write, large), 0.1, 0.0, seed=1, group_field="customer")
    assert len(division.parts["validation"]) == 20


@settings(max_examples=60)
@given(st.lists(st.text(alphabet="abc ", max_size=30), max_size=25))
def test_near_pairs_are_those_that_comparing_all_finds(texts: list[str]) -> None:
    """But for the one in fifty that banding may miss at 0.8; and never one that is not near."""
    keys = [normalised(text) for text in texts]
    true = {
        (i, j)
        for j in range(len(texts))
        for i in range(j)
        if keys[i] and keys[j] and (keys[i] == keys[j] or likeness(pieces(keys[i]), pieces(keys[j])) >= 0.8)
    }
    found = {(pair.first, pair.second) for pair in find_near(texts)}
    assert found <= true
    joined = clusters(found, len(texts))
    wanted = clusters(true, len(texts))
    certain = {(i, j) for i, j in true if keys[i] == keys[j] or likeness(pieces(keys[i]), pieces(keys[j])) >= 0.95}
    side = {i: number for number, group in enumerate(joined) for i in group}
    assert all(side[i] == side[j] for i, j in certain)
    assert len(joined) >= len(wanted)


def test_clusters_are_a_partition() -> None:
    assert clusters([(0, 3), (3, 5), (1, 2)], 6) == [[0, 3, 5], [1, 2], [4]]
    assert Counter(i for group in clusters([(4, 1), (1, 0)], 5) for i in group) == Counter(range(5))
