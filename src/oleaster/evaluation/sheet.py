"""A blind sheet: two models' answers side by side for people to judge, without saying which is whose.

A folder with

sheet.html   the page to judge on; saves what is chosen in the browser and gives it out as CSV
sheet.csv    the same for a spreadsheet
key.json     which answer is whose: for `unblind`, not for the judges

Rows come in random order; each model stands on the left in half of them, so that a habit of choosing a side favours
neither.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from oleaster.core.errors import DataError
from oleaster.core.files import atomic_write_json, atomic_write_text
from oleaster.evaluation.compare import pair_rows
from oleaster.evaluation.report import Report, Row

PAGE, TABLE, KEY = "sheet.html", "sheet.csv", "key.json"
COLUMNS = ("sheet", "row", "question", "reference", "A", "B", "choice", "comment")
"""Of the CSV. Judges fill in the last two."""
CHOICES = ("A", "B", "same", "neither")
"""What a judge can say: which answer is better, or that both are as good, or that both are useless."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins so is run by spreadsheets; the answers of a model are not to be trusted with that."""


@dataclass(frozen=True)
class Line:
    """One pair of answers as a judge sees it."""

    row: int
    """From 1."""
    question: str
    reference: str
    """Empty when the sheet does not show it."""
    A: str
    B: str


@dataclass(frozen=True)
class Key:
    """What the judges must not know."""

    sheet: str
    """Of which sheet; also in each of its CSV lines."""
    first: str
    """Names of the models."""
    second: str
    a_is_first: tuple[bool, ...]
    """For each line: is A the first model's answer?"""
    sources: tuple[str, ...]
    """For each line: which row it was."""
    same: int
    """Rows left out because both answers are equal; nobody can prefer one."""
    pool: int
    """Rows that the lines were drawn from, the equal ones not counted."""

    @classmethod
    def read(cls, folder: Path) -> Key:
        """The key of a sheet's folder. Raises: DataError when there is none."""
        try:
            facts = json.loads((folder / KEY).read_text("utf-8"))
            return cls(**{**facts, "a_is_first": tuple(facts["a_is_first"]), "sources": tuple(facts["sources"])})
        except FileNotFoundError as error:
            remedy = "oleaster sheet FIRST SECOND -d rows.jsonl -o FOLDER makes a sheet with its key"
            raise DataError(f"there is no {KEY}", where=str(folder), remedy=remedy) from error
        except (ValueError, TypeError, KeyError) as error:
            raise DataError("the key is damaged", where=str(folder / KEY), remedy="make the sheet again") from error


def make_sheet(
    first: Report, second: Report, folder: Path, count: int = 50, seed: int = 42, show_reference: bool = False
) -> Key:
    """Write a sheet of at most `count` rows on which the two answers differ.

    Raises: DataError when the reports are about different rows, or no answers differ.
    """
    pairs = [pair for pair in pair_rows(first, second) if None not in (pair[0].prediction, pair[1].prediction)]
    differ = [pair for pair in pairs if _shown(pair[0]) != _shown(pair[1])]
    if not differ:
        remedy = "name more rows, or other models"
        raise DataError(f"the answers to all {len(pairs)} rows are the same", where=str(folder), remedy=remedy)
    source = np.random.default_rng(seed)
    chosen = [differ[i] for i in source.permutation(len(differ))[:count]]
    a_is_first = source.permutation(np.arange(len(chosen)) % 2 == 0).tolist()
    lines = []
    for place, ((one, other), straight) in enumerate(zip(chosen, a_is_first, strict=True), 1):
        a, b = (_shown(one), _shown(other)) if straight else (_shown(other), _shown(one))
        lines.append(Line(place, one.prompt, one.reference if show_reference else "", a, b))
    name = hashlib.sha256(json.dumps([asdict(line) for line in lines]).encode()).hexdigest()[:10]
    sources = tuple(one.source for one, _ in chosen)
    key = Key(name, first.model, second.model, tuple(a_is_first), sources, len(pairs) - len(differ), len(differ))
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder / TABLE, "\ufeff" + _table(name, lines))  # the mark makes Excel read UTF-8
    atomic_write_text(folder / PAGE, _page(name, lines))
    atomic_write_json(folder / KEY, asdict(key))
    return key


def _shown(row: Row) -> str:
    return (row.prediction or "").strip()


def _table(name: str, lines: Sequence[Line]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for line in lines:
        cells = [line.question, line.reference, line.A, line.B]
        writer.writerow(
            [name, line.row, *(f"'{cell}" if cell.startswith(_FORMULA) else cell for cell in cells), "", ""]
        )
    return text.getvalue()


def _page(name: str, lines: Sequence[Line]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("oleaster.evaluation", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("sheet.html.jinja").render(name=name, lines=[asdict(line) for line in lines])
