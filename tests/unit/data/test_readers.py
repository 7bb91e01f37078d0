"""Every row is read, or named with its file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oleaster.core.errors import DataError
from oleaster.data.faults import raise_faults
from oleaster.data.readers import read_file

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
rows_of_json = st.lists(st.dictionaries(st.text(), values, min_size=1, max_size=4), min_size=1, max_size=6)
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


@given(rows=rows_of_json, ascii_only=st.booleans(), gap=st.sampled_from(["\n", "\r\n", "\n\n  \n"]))
@same_folder
def test_json_lines_equal_the_json_module(tmp_path: Path, rows: list, ascii_only: bool, gap: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(gap.join(json.dumps(row, ensure_ascii=ascii_only) for row in rows).encode())
    if len(rows) == 1 and any(isinstance(v, list) and v and isinstance(v[0], dict) for v in rows[0].values()):
        return  # one object around an array is refused on purpose
    found = read_file(path)
    assert (found.rows, found.faults) == (rows, [])
    assert [int(place.rpartition(":")[2]) for place in found.places] == [
        1 + i * gap.count("\n") for i in range(len(rows))
    ]


@given(rows=rows_of_json, indent=st.sampled_from([None, 1, 4]))
@same_folder
def test_json_arrays_equal_the_json_module(tmp_path: Path, rows: list, indent: int | None) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows, indent=indent), encoding="utf-8")
    found = read_file(path)
    assert (found.rows, found.faults) == (rows, [])


@pytest.mark.parametrize(
    ("name", "content", "place", "reason"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": }\n{"a": 3}\n', ":2", "Expecting value at column 7"),
        ("a.jsonl", b'{"a": 1}\n{"a": "cut of', ":2", "ends in the middle of a row"),
        ("a.jsonl", b'{"a": 1}\n[1, 2]\n', ":2", "the row is a list"),
        ("a.jsonl", b'{"a": NaN}\n', ":1", "NaN is not JSON"),
        ("a.jsonl", b'{"a": 1, "a": 2}\n', ":1", "the key 'a' occurs twice"),
        ("a.jsonl", b'{"a": 1}\n{"a": "gro\x9fe"}\n', ":2", "byte 0x9f is not UTF-8"),
        ("a.jsonl", b'{"a": "\\ud83d"}\n', ":1", "surrogate"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16"), "a.jsonl", "UTF-16"),
        ("a.jsonl", b"", "a.jsonl", "holds no rows"),
        ("a.jsonl", b"\n  \n", "a.jsonl", "holds no rows"),
        ("a.jsonl", b"{}\n", ":1", "empty object"),
        ("a.jsonl", b'{"a": ' + b"[" * 100_000, ":1", "nested too deeply"),
        ("a.jsonl", b'{\n  "a": 1\n}\n{\n  "a": 2\n}\n', "a.jsonl", "over several lines"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "a.jsonl", "pointer of git-lfs"),
        ("a.json", b'[{"a": 1},\n {"a": oops}]', ":2", "Expecting value"),
        ("a.json", b'[{"a": 1}\n {"a": 2}]', ":2", "expected ',' or ']'"),
        ("a.json", b'[{"a": 1},\n {"a": 2}\n', ":3", "ends in the middle of the array"),
        ("a.json", b'[{"a": 1}] trailing', ":1", "behind the end of the array"),
        ("a.json", b'{"version": 1, "data": [{"a": 1}]}', "a.json", "in its field 'data'"),
        ("a.csv", b"a,b\n1,2\n3\n", ":3", "1 cells, but the header names 2"),
        ("a.csv", b"a,a\n1,2\n", ":1", "['a'] occur twice"),
        ("a.csv", b'a,b\n1,"x"y\n', ":2", "not CSV"),
        ("a.parquet", b"no parquet", "a.parquet", "not a readable Parquet file"),
    ],
)
def test_a_bad_row_is_named(write, name: str, content: bytes, place: str, reason: str) -> None:
    found = read_file(Path(write(name, content)))
    assert len(found.faults) == 1
    assert str(found.faults[0].where).endswith(place)
    assert reason in found.faults[0].message


def test_a_byte_order_mark_is_no_part_of_the_data(write) -> None:
    assert read_file(Path(write("a.jsonl", b'\xef\xbb\xbf{"a": 1}'))).rows == [{"a": 1}]
    assert read_file(Path(write("a.csv", b"\xef\xbb\xbfa,b\n1,2\n"))).rows == [{"a": "1", "b": "2"}]


def test_csv_with_semicolons_quotes_and_newlines_in_cells(write) -> None:
    found = read_file(Path(write("a.csv", 'text;label\n"two\nlines; here";x\nnext;y\n')))
    assert found.rows == [{"text": "two\nlines; here", "label": "x"}, {"text": "next", "label": "y"}]
    assert [place.rpartition(":")[2] for place in found.places] == ["2", "4"]


def test_the_row_numbers_that_pandas_writes_have_no_name(write) -> None:
    assert read_file(Path(write("a.csv", b",a\n0,x\n"))).rows == [{"index": "0", "a": "x"}]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz", "A.JSONL.GZ"])
def test_packed_files_are_read_as_what_is_in_them(write, name: str) -> None:
    inside = b"a\nx\n" if "csv" in name else b'{"a": "x"}\n'
    path = Path(write(name, gzip.compress(inside)))
    assert read_file(path).rows == [{"a": "x"}]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="not a whole gzip file"):
        read_file(path)


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"a": ["x", "y"], "n": [1, 2]}), tmp_path / "a.parquet")
    found = read_file(tmp_path / "a.parquet")
    assert found.rows == [{"a": "x", "n": 1}, {"a": "y", "n": 2}]
    assert found.places[1].endswith("a.parquet[1]")


def test_a_conversation_on_one_line_is_a_row_not_a_wrapped_array(write) -> None:
    row = {"messages": [{"role": "user", "content": "hi"}]}
    assert read_file(Path(write("a.jsonl", [row]))).rows == [row]


def test_a_missing_file_is_answered_with_near_names(write, tmp_path: Path) -> None:
    write("train.jsonl", [{"a": 1}])
    with pytest.raises(DataError, match=r"did you mean 'train\.jsonl'"):
        read_file(tmp_path / "trian.jsonl")


def test_all_faults_are_raised_together_alike_ones_once() -> None:
    faults = [DataError("null", where=f"f:{i}") for i in range(50)] + [DataError(f"odd {i}") for i in range(20)]
    with pytest.raises(DataError) as caught:
        raise_faults(faults)
    text = str(caught.value)
    assert text.startswith("70 problems")
    assert "f:0: null  (and 49 more like it)" in text
    assert "odd 8" in text
    assert "odd 9" not in text
    assert "and 11 more" in text
