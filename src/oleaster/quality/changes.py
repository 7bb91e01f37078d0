"""The list of all changes that a cleaning made, and the way back.

Never in place. Beside the copy `rows.jsonl` stands `rows.changes.jsonl`: a first line about the source, then one line
for every line of the source that is not in the copy as it was, with its text before and after and the reason. `undo`
makes the source of both again: byte by byte where the source is JSON lines, else the same rows as JSON lines.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from oleaster.core.errors import DataError
from oleaster.core.files import atomic_write_bytes, atomic_write_text
from oleaster.data.readers import bytes_of
from oleaster.quality.lenient import BOM, decode
from oleaster.quality.lines import Line, read_lines

SUFFIX = ".changes.jsonl"


@dataclass(frozen=True)
class Change:
    """One line of the source that the copy does not have as it was."""

    line: int
    """In the source, counted from 1."""
    place: str
    before: str
    """Text of the line; half characters that were no UTF-8 are kept as lone surrogates."""
    after: str | None
    """None: the line was left out."""
    why: tuple[str, ...]
    """`fix: what` for each thing that was done."""


@dataclass(frozen=True)
class Source:
    """What has to be known beside the changes to make the source again."""

    path: str
    sha256: str
    """Of its bytes."""
    lines: int
    exact: bool
    """JSON lines: its bytes can be made again."""
    last_end: bool = True
    """The last line has an end."""
    bom: bool = False
    encoding: str = "utf-8"
    """UTF-16 files are read whole in it."""


@dataclass(frozen=True)
class Cleaned:
    """What a cleaning did."""

    kept: int
    changed: int
    dropped: int
    fixes: Mapping[str, int]
    """Fix -> lines it changed or dropped."""
    output: Path
    log: Path


def log_of(output: Path) -> Path:
    """`rows.jsonl` -> `rows.changes.jsonl`."""
    return output.with_name(output.stem + SUFFIX)


def write_cleaned(source: Source, lines: Sequence[Line], changes: Sequence[Change], output: Path) -> Cleaned:
    """Write the copy and the list of changes, the list first: no copy stands there without its way back."""
    touched = {change.line: change for change in changes}
    kept = [touched[line.number].after if line.number in touched else line.text for line in lines]
    rows = [text for text in kept if text is not None]
    log = log_of(output)
    head = json.dumps({"source": asdict(source)})
    atomic_write_text(log, "\n".join([head, *(json.dumps(asdict(change)) for change in changes)]) + "\n")
    atomic_write_text(output, "".join(f"{text}\n" for text in rows))
    fixes = Counter(fix for change in changes for fix in {why.partition(":")[0] for why in change.why})
    dropped = len(kept) - len(rows)
    return Cleaned(len(rows), len(changes) - dropped, dropped, dict(fixes.most_common()), output, log)


def undo(cleaned: Path, output: Path) -> Source:
    """Make the source of a cleaned file again.

    Raises: DataError when the list of changes is missing, or the cleaned file is no longer what was written.
    """
    log = log_of(cleaned)
    if not cleaned.is_file() or not log.is_file():
        missing = log if cleaned.is_file() else cleaned
        raise DataError("there is no such file", where=str(missing), remedy="name a file that data clean has written")
    head, *entries = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())
    source = Source(**head["source"])
    changes = {entry["line"]: Change(**{**entry, "why": tuple(entry["why"])}) for entry in entries}
    rest = iter(cleaned.read_bytes().decode("utf-8").split("\n")[:-1])  # a lone \r is no line end
    lines = [_line_before(number, changes.get(number), rest, cleaned) for number in range(1, source.lines + 1)]
    if next(rest, None) is not None:
        raise _changed_since(cleaned)
    text = "\n".join(lines) + ("\n" if source.last_end and lines else "")
    data = _as_bytes(text, source)
    if source.exact and hashlib.sha256(data).hexdigest() != source.sha256:
        raise _changed_since(cleaned)
    atomic_write_bytes(output, data)
    return source


def _line_before(number: int, change: Change | None, rest: Iterator[str], cleaned: Path) -> str:
    if change is not None and change.after is None:
        return change.before
    line = next(rest, None)
    if line is None or (change is not None and line != change.after):
        raise _changed_since(cleaned)
    return line if change is None else change.before


def _as_bytes(text: str, source: Source) -> bytes:
    if source.encoding != "utf-8":
        return (b"\xff\xfe" if source.encoding.endswith("le") else b"\xfe\xff") + text.encode(source.encoding)
    return (BOM if source.bom else b"") + text.encode("utf-8", "surrogateescape")


def _changed_since(cleaned: Path) -> DataError:
    return DataError(
        "the file was changed after it was cleaned, so what stood there before cannot be told",
        where=str(cleaned),
        remedy="take the source itself; its name and SHA-256 stand in the first line of the list of changes",
    )


def read_source(path: Path) -> tuple[Source, list[Line]]:
    """All lines of a file with their rows, and what `undo` needs. Raises: DataError when there is no such file."""
    if not path.is_file():
        raise DataError("there is no such file", where=str(path), remedy="name a file with rows")
    data = bytes_of(path)
    lines, exact = read_lines(path)
    source = Source(str(path), hashlib.sha256(data).hexdigest(), len(lines), exact)
    if not exact:
        return source, lines
    decoded = decode(data)
    whole = decoded.encoding if decoded.encoding.startswith("utf-16") else "utf-8"
    return replace(source, last_end=decoded.text.endswith("\n"), bom=decoded.bom, encoding=whole), lines


def change_of(line: Line, row: Mapping[str, Any] | None, why: Sequence[str]) -> Change:
    """The change that makes `row` of a line (None: leaves it out)."""
    after = None if row is None else json.dumps(row, ensure_ascii=False)
    return Change(line.number, line.place, line.raw, after, tuple(why))
