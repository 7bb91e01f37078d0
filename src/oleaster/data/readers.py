"""Rows from one file. Every bad row is found and named by file and line; nothing is guessed, nothing skipped.

`datasets` would name neither file nor line, clip, turn missing keys into None and answer from a stale cache.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import Any

from oleaster.core.errors import DataError, near_names

ROW_COLUMNS = {"messages", "conversations", "conversation"}
"""Columns whose value is rightly a list of objects: an object with one of them is a row, not a wrapped array."""


@dataclass(frozen=True)
class Rows:
    """Rows with the place each was read from (`file:line`, or `name[row]`), and what could not be read."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    faults: list[DataError] = field(default_factory=list)


def read_file(path: Path) -> Rows:
    """All rows of a .jsonl, .json, .csv, .tsv or .parquet file.

    Bad rows are returned as faults, so that those of several files can be reported together.
    Raises: DataError when the file is missing or of an unknown kind.
    """
    if not path.is_file():
        raise DataError("there is no such file", where=str(path), remedy=_neighbours(path))
    reader = READERS.get(kind_of(path))
    if reader is None:
        known = ", ".join(READERS)
        reason = f"files ending in '{path.suffix}' are not read" if path.suffix else "the name has no ending"
        raise DataError(
            reason, where=str(path), remedy=f"known endings: {known}, each also with {COMPRESSED} behind it"
        )
    found = reader(path)
    if not found.rows and not found.faults:
        found.faults.append(DataError("the file holds no rows", where=str(path), remedy="give a file with rows"))
    return found


def kind_of(path: Path) -> str:
    """The ending that says how a file is read: `.jsonl` of rows.jsonl, of ROWS.JSONL and of rows.jsonl.gz."""
    return Path(path.stem if path.suffix.lower() == COMPRESSED else path.name).suffix.lower()


def bytes_of(path: Path) -> bytes:
    """What is in a file, unpacked. Raises: DataError when it is damaged."""
    data = path.read_bytes()
    if path.suffix.lower() != COMPRESSED:
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"not a whole gzip file: {error}", where=str(path), remedy="fetch or pack it again") from error


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        inside = "" if path.is_absolute() else f" in {Path.cwd()}"
        return f"the folder {path.parent} does not exist{inside} either"
    return near_names(path.name, [p.name for p in path.parent.iterdir() if kind_of(p) in READERS])


def _decode(path: Path, faults: list[DataError]) -> str:
    """The file as text; lines that are not UTF-8 become faults and the text is then empty."""
    data = bytes_of(path)
    if data.startswith(b"version https://git-lfs"):
        pointer = "the file is a pointer of git-lfs, the rows are elsewhere"
        faults.append(DataError(pointer, where=str(path), remedy="git lfs pull, in the folder it was cloned to"))
        return ""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        faults.append(DataError("the file is UTF-16", where=str(path), remedy="save it as UTF-8"))
        return ""
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        for number, line in enumerate(data.split(b"\n"), 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                bad = line[error.start]
                looks = line[max(0, error.start - 20) : error.start + 20].decode("cp1250", errors="replace").strip()
                faults.append(
                    DataError(
                        f"byte 0x{bad:02x} is not UTF-8",
                        where=f"{path}:{number}",
                        remedy=f"save the file as UTF-8 (read as Windows-1250 it says {looks!r})",
                    )
                )
        return ""


# --- JSON ---


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key '{next(k for k in keys if keys.count(k) > 1)}' occurs twice")
    return row


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON; write null or a number")


_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, JSONDecodeError):
        return f"not valid JSON: {error.msg.removesuffix(' at')} at column {error.colno}"
    if isinstance(error, RecursionError):
        return "the row is nested too deeply"
    return str(error)


def _row_fault(row: Any, raw: str) -> str | None:
    """What is wrong with a parsed row. `raw` is its text: only escapes there can hide half a surrogate pair."""
    if not isinstance(row, dict):
        return f"the row is a {_json_type(row)}, not an object with columns"
    if not row:
        return "the row is an empty object"
    if "\\ud" in raw or "\\uD" in raw:
        try:
            json.dumps(row, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            return "half of a surrogate pair (\\ud...) is no character"
    return None


def _json_type(value: Any) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "true/false", int: "number", float: "number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _read_json(path: Path) -> Rows:
    found = Rows()
    text = _decode(path, found.faults)
    first = text.lstrip()[:1]
    if first == "[":
        _read_array(text, path, found)
    elif first == "{" and (whole := _sole_object(text)) is not None and (field_name := _wrapped(whole)):
        found.faults.append(
            DataError(
                f"the rows are wrapped in an object, in its field '{field_name}'",
                where=str(path),
                remedy=f"write the array of '{field_name}' itself, or one row a line",
            )
        )
    elif text.lstrip().partition("\n")[0].strip() == "{":
        remedy = "write one row a line, or an array: [{...}, {...}]"
        found.faults.append(DataError("a row goes over several lines", where=str(path), remedy=remedy))
    else:
        _read_lines(text, path, found)
    return found


def _sole_object(text: str) -> dict[str, Any] | None:
    """The object that is the whole file, if it is one."""
    first_line, _, rest = text.strip().partition("\n")
    if rest and first_line.rstrip().endswith("}"):
        return None  # one row a line; do not parse a large file twice
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def _wrapped(whole: dict[str, Any]) -> str | None:
    lists = [k for k, v in whole.items() if isinstance(v, list) and v and all(isinstance(item, dict) for item in v)]
    return lists[0] if len(lists) == 1 and not ROW_COLUMNS & set(whole) else None


def _read_lines(text: str, path: Path, found: Rows) -> None:
    lines = text.split("\n")  # not splitlines(): U+2028 may stand inside a JSON string
    for number, line in enumerate(lines, 1):
        if not line or line.isspace():
            continue
        try:
            row = _DECODER.decode(line)
            reason = _row_fault(row, line)
        except (ValueError, RecursionError) as error:
            row, reason = {}, _reason(error)
            if number == len(lines) and not line.rstrip().endswith("}"):
                reason = f"the file ends in the middle of a row ({reason})"
        place = f"{path}:{number}"
        if reason:
            found.faults.append(DataError(f"{reason}: {_excerpt(line)}", where=place))
        else:
            found.rows.append(row)
            found.places.append(place)


def _read_array(text: str, path: Path, found: Rows) -> None:
    """The rows of `[{...}, {...}]`. Behind a syntax error nothing can be told apart: reading ends there."""
    end, line, counted = text.index("[") + 1, 1, 0
    expect_comma = False
    while True:
        start = _SPACE.match(text, end).end()  # type: ignore[union-attr]  # matches the empty text too
        line, counted = line + text.count("\n", counted, start), start
        place = f"{path}:{line}"
        char = text[start : start + 1]
        if char == "]":
            rest = text[start + 1 :].strip()
            if rest:
                found.faults.append(DataError(f"text behind the end of the array: {_excerpt(rest)}", where=place))
            return
        if expect_comma:
            if char != ",":
                reason = (
                    "the file ends in the middle of the array" if not char else f"expected ',' or ']', not {char!r}"
                )
                found.faults.append(DataError(reason, where=place))
                return
            end, expect_comma = start + 1, False
            continue
        try:
            row, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            if isinstance(error, JSONDecodeError):
                place = f"{path}:{error.lineno}"
            found.faults.append(DataError(f"{_reason(error)}: {_excerpt(text[start : start + 80])}", where=place))
            return
        expect_comma = True
        reason = _row_fault(row, text[start:end])
        if reason:
            found.faults.append(DataError(f"{reason}: {_excerpt(text[start : min(end, start + 80)])}", where=place))
        else:
            found.rows.append(row)
            found.places.append(place)


def _excerpt(text: str) -> str:
    return text[:60].strip() + (" ..." if len(text) > 60 else "")


# --- CSV and Parquet ---


def _read_csv(path: Path) -> Rows:
    found = Rows()
    text = _decode(path, found.faults)
    if not text.strip():
        return found
    header_line = text.lstrip().split("\n", 1)[0]
    delimiter = max(",;\t", key=header_line.count)  # spreadsheets of some countries write semicolons
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        begin = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            found.faults.append(DataError(f"not CSV: {error}", where=f"{path}:{begin}"))
            return found
        if cells is None:
            return found
        if not cells:
            continue
        if not header:
            header = [cell.strip() for cell in cells]
            if header[0] == "" and "index" not in header:
                header[0] = "index"  # pandas writes its row numbers without a name
            twice = sorted({name for name in header if header.count(name) > 1})
            if twice or "" in header:
                reason = f"the columns {twice} occur twice" if twice else "a column has no name"
                found.faults.append(DataError(reason, where=f"{path}:{begin}", remedy="give each column its own name"))
                return found
        elif len(cells) != len(header):
            reason = f"{len(cells)} cells, but the header names {len(header)} columns"
            found.faults.append(DataError(reason, where=f"{path}:{begin}"))
        else:
            found.rows.append(dict(zip(header, cells, strict=True)))
            found.places.append(f"{path}:{begin}")


def _read_parquet(path: Path) -> Rows:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        rows = parquet.read_table(pa.BufferReader(bytes_of(path))).to_pylist()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).split("\n", 1)[0]
        return Rows(faults=[DataError(f"not a readable Parquet file: {reason}", where=str(path))])
    return Rows(rows, [f"{path}[{i}]" for i in range(len(rows))])


COMPRESSED = ".gz"
READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}
