"""A file as lines, each with its row where it has one: what a cleaning works on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oleaster.data.readers import bytes_of, kind_of
from oleaster.quality.lenient import BOM, read_leniently

JSON_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Line:
    """One line of a source."""

    number: int
    """From 1."""
    place: str
    text: str
    """As the copy has it when nothing is done to it: UTF-8 text without line end."""
    raw: str
    """As the source has it; bytes that are no UTF-8 as lone surrogates (surrogateescape)."""
    row: dict[str, Any] | None
    """None: a blank line, or one that cannot be read."""
    fault: str = ""
    """Why it cannot be read."""


def read_lines(path: Path) -> tuple[list[Line], bool]:
    """(lines, whether they are the file's own). A file of another kind than JSON lines is taken row by row, each row
    written as a JSON line."""
    rows, decoded = read_leniently(path)
    if decoded is None or kind_of(path) not in JSON_LINES or _is_array(decoded.text):
        lines = [
            Line(i, place, text, text, row)
            for i, (row, place) in enumerate(zip(rows.rows, rows.places, strict=True), 1)
            for text in (json.dumps(row, ensure_ascii=False, default=str),)
        ]
        return lines, False
    by_place = dict(zip(rows.places, rows.rows, strict=True))
    faults = {fault.where: fault.message for fault in rows.faults}
    texts = decoded.text.split("\n")
    if decoded.encoding.startswith("utf-16"):
        raws = texts
    else:
        raws = bytes_of(path).removeprefix(BOM).decode("utf-8", "surrogateescape").split("\n")
    if texts[-1] == "":
        texts, raws = texts[:-1], raws[:-1]
    lines = []
    for number, (text, raw) in enumerate(zip(texts, raws, strict=True), 1):
        place = f"{path}:{number}"
        lines.append(Line(number, place, text.rstrip("\r"), raw, by_place.get(place), faults.get(place, "")))
    return lines, True


def _is_array(text: str) -> bool:
    return text.lstrip()[:1] == "["
