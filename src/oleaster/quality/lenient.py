"""Reading files that training would refuse: a report and a cleaning must see the good rows beside the bad ones."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from oleaster.core.errors import DataError
from oleaster.data.readers import Rows, bytes_of, kind_of, read_file

TEXT_FILES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
GUESSES = ("cp1252", "cp1250", "iso8859_2", "cp1251")
"""What bytes that are not UTF-8 may be: Western, Central European (Windows, Unix), Cyrillic."""
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Decoded:
    """A file as text, and which of its lines were not UTF-8."""

    text: str
    encoding: str
    """Of the bad lines; `utf-8` when there are none."""
    bad_lines: tuple[int, ...] = ()
    """Counted from 1."""
    bom: bool = False


def decode(data: bytes) -> Decoded:
    """Text of a file. Lines that are not UTF-8 are read in the encoding that fits all of them best."""
    for mark, name in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if data.startswith(mark):
            text = data[2:].decode(name, errors="replace")
            return Decoded(text, name, tuple(range(1, 1 + len(text.splitlines()))), bom=True)
    bom = data.startswith(BOM)
    data = data.removeprefix(BOM)
    try:
        return Decoded(data.decode("utf-8"), "utf-8", bom=bom)
    except UnicodeDecodeError:
        pass
    lines = data.split(b"\n")
    bad = [i for i, line in enumerate(lines) if not _is_utf8(line)]
    encoding = _guess(b"\n".join(lines[i] for i in bad))
    wrong = set(bad)
    text = "\n".join(line.decode(encoding if i in wrong else "utf-8", "replace") for i, line in enumerate(lines))
    return Decoded(text, encoding, tuple(i + 1 for i in bad), bom)


def read_leniently(path: Path) -> tuple[Rows, Decoded | None]:
    """Rows of a file whatever its encoding, and how it was decoded (None for files that hold no text).

    Raises: DataError when there is no such file or it is of an unknown kind.
    """
    if kind_of(path) not in TEXT_FILES or not path.is_file():
        return read_file(path), None
    decoded = decode(bytes_of(path))
    if decoded.encoding == "utf-8":
        return read_file(path), decoded
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"rows{kind_of(path)}"
        copy.write_text(decoded.text, encoding="utf-8", newline="")
        found = read_file(copy)
    places = [place.replace(str(copy), str(path), 1) for place in found.places]
    faults = [
        DataError(fault.message, where=(fault.where or "").replace(str(copy), str(path), 1), remedy=fault.remedy)
        for fault in found.faults
    ]
    return Rows(found.rows, places, faults), decoded


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _guess(data: bytes) -> str:
    """The encoding in which fewest signs stand inside words; of equal ones the one that reads most like a language."""
    from oleaster.quality.language import how_natural

    readings = {name: data.decode(name, "replace") for name in GUESSES}
    return min(readings, key=lambda name: (len(_BROKEN_WORD.findall(readings[name])), -how_natural(readings[name])))


_BROKEN_WORD = re.compile(r"(?<=[^\W\d_])[^\w\s.,:;!?'’()/@&_-](?=[^\W\d_])|\ufffd|[\x80-\x9f]")
"""`krzes³o`: a sign between two letters; or a byte that stands for nothing."""
