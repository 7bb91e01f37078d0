"""Splits, slices and what a data name may be."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oleaster.core.errors import ConfigError, DataError
from oleaster.data.sources import open_source, parse_slice, read_split


@given(total=st.integers(1, 500), data=st.data())
def test_slices_choose_what_python_chooses(total: int, data: st.DataObject) -> None:
    a, b = (data.draw(st.none() | st.integers(-total, total)) for _ in range(2))
    wanted = list(range(total))[a:b]
    text = f"train[{'' if a is None else a}:{'' if b is None else b}]"
    if wanted:
        assert list(parse_slice(text).of(total)) == wanted
    else:
        with pytest.raises(DataError, match="empty"):
            parse_slice(text).of(total)


@given(total=st.integers(0, 1000), cuts=st.lists(st.integers(0, 100), max_size=4))
def test_percent_slices_tile_the_split(total: int, cuts: list[int]) -> None:
    edges = sorted({0, 100, *cuts})
    rows: list[int] = []
    for a, b in pairwise(edges):
        if round(a * total / 100) < round(b * total / 100) or not total:
            rows += parse_slice(f"train[{a}%:{b}%]").of(total)
    assert rows == list(range(total))


@pytest.mark.parametrize(("text", "reason"), [("train[:11]", "row 11, but there are 10"), ("train[-11:]", "row -11")])
def test_a_slice_past_the_end_is_refused(text: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        parse_slice(text).of(10)


@pytest.mark.parametrize("text", ["train[5]", "train[a:b]", "[:5]", "", "train[:5", "train[:50%]+test", "train[:200%]"])
def test_what_is_no_slice(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_slice(text)


def test_a_folder_with_split_files(write, tmp_path: Path) -> None:
    for name in ("train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "valid.jsonl", "data/test.jsonl"):
        write(name, [{"name": name}])
    source = open_source(str(tmp_path), None)
    assert {split: len(files) for split, files in source.files.items()} == {"train": 2, "validation": 1, "test": 1}
    assert read_split(source, "val").rows == [{"name": "valid.jsonl"}]
    with pytest.raises(DataError, match="no split 'extra'"):
        read_split(source, "extra")


def test_a_folder_without_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data file at all"):
        open_source(str(tmp_path), None)


def test_olives_spelling_and_a_local_file_are_the_same(write) -> None:
    path = write("rows.jsonl", [{"a": 1}])
    assert open_source("json", [path]).files == open_source(path, None).files


def test_patterns(write, tmp_path: Path) -> None:
    write("b.jsonl", [{"a": 2}])
    write("a.jsonl", [{"a": 1}])
    assert read_split(open_source(None, [str(tmp_path / "*.jsonl")]), "train").rows == [{"a": 1}, {"a": 2}]
    with pytest.raises(DataError, match="no file matches"):
        open_source(None, [str(tmp_path / "*.csv")])


@pytest.mark.parametrize(
    ("name", "files"), [(None, None), ("json", None), ("owner/name", ["rows.jsonl"])], ids=["none", "kind", "both"]
)
def test_settings_that_name_no_data(name: str | None, files: list[str] | None) -> None:
    with pytest.raises(ConfigError):
        open_source(name, files)


def test_a_wrong_path_is_not_looked_for_on_the_hub() -> None:
    for name in ("nope.jsonl", "./nope", "/nowhere/nope"):
        assert not open_source(name, None).hub
    assert open_source("openai/gsm8k:main", None).hub
