"""Filled sheets read back: who was preferred, whether that is more than chance, and whether the judges agree."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

from oleaster.core.errors import DataError, UserError, collect
from oleaster.evaluation.intervals import LEVEL, Interval, mcnemar, rounded, rows_for_mcnemar, wilson
from oleaster.evaluation.sheet import CHOICES, Key

Opinion = Literal["first", "second", "same", "neither"]
Opinions = Mapping[str, Mapping[int, Opinion]]
"""Judge -> row -> opinion; rows that a judge left open are not there."""


@dataclass(frozen=True)
class Judgement:
    """What the judges found."""

    first: str
    second: str
    judges: tuple[str, ...]
    rows: int
    """Rows that somebody judged."""
    votes: Mapping[str, int]
    """Opinion -> how often, over all judges."""
    wins_first: int
    """Rows on which more judges preferred the first; `wins_second` alike. The others are ties."""
    wins_second: int
    p_value: float
    """Sign test: how likely so uneven a count of wins is when both models are equally good."""
    share: Interval | None
    """95 % interval (Wilson) of the second's share of the rows that somebody won; None when nobody did."""
    needed: int | None
    """Judged rows with which a preference of this size would be found in four of five attempts."""
    agreement: float | None
    """Krippendorff's alpha over first, second and tie: 1 = the judges agree, 0 = as by chance; None for one judge."""
    kappas: Mapping[tuple[str, str], float]
    """Cohen's kappa of each two judges, on the rows that both judged."""
    left_share: float
    """Share of all preferences that went to answer A; far from a half, a side was chosen, not an answer."""
    left_p_value: float
    same: int
    """Rows that were no part of the sheet, as both answers were equal."""

    @property
    def verdict(self) -> Literal["better", "worse", "not distinguishable"]:
        """Of the second against the first."""
        if self.p_value >= 1 - LEVEL:
            return "not distinguishable"
        return "better" if self.wins_second > self.wins_first else "worse"

    @property
    def advice(self) -> str:
        """The verdict, and what it would take to reach one."""
        if self.verdict != "not distinguishable":
            return self.verdict
        needs = f"; would need about {rounded(self.needed):,}" if self.needed else ""
        return f"{self.verdict} with {self.rows:,} judged rows{needs}"


def unblind(folder: Path, filled: Sequence[Path]) -> Judgement:
    """Read filled sheets and lift the blindfold.

    Args:
        folder: that of `make_sheet`.
        filled: CSV files, of the page or of the spreadsheet; a file without a judge's name is one judge.

    Raises: DataError with all lines that cannot be read, each with its file and line.
    """
    key = Key.read(folder)
    if not filled:
        raise DataError("no filled sheet", where=str(folder), remedy="put the judges' CSV files into this folder")
    seen: dict[str, dict[int, str]] = {}
    problems: list[UserError] = []
    for path in filled:
        _read(path, key, seen, problems)
    collect(problems)
    if not any(seen.values()):
        raise DataError("nothing is judged yet", where=str(folder))
    return judge(key, seen)


def judge(key: Key, chosen: Mapping[str, Mapping[int, str]]) -> Judgement:
    """The judgement of choices (judge -> row -> one of `CHOICES`)."""
    opinions: dict[str, dict[int, Opinion]] = {
        name: {row: _opinion(key, row, choice) for row, choice in of.items()} for name, of in chosen.items()
    }
    leads = Counter[int]()
    for of in opinions.values():
        for row, opinion in of.items():
            leads[row] += {"second": 1, "first": -1}.get(opinion, 0)
    wins_second, wins_first = sum(lead > 0 for lead in leads.values()), sum(lead < 0 for lead in leads.values())
    sides = Counter(choice for of in chosen.values() for choice in of.values() if choice in ("A", "B"))
    decided, rows = wins_first + wins_second, len(leads)
    judges = tuple(name for name, of in opinions.items() if of)
    return Judgement(
        first=key.first,
        second=key.second,
        judges=judges,
        rows=rows,
        votes=Counter(opinion for of in opinions.values() for opinion in of.values()),
        wins_first=wins_first,
        wins_second=wins_second,
        p_value=mcnemar(wins_first, wins_second),
        share=wilson(wins_second, decided) if decided else None,
        needed=rows_for_mcnemar(wins_first / rows, wins_second / rows),
        agreement=krippendorff([[_kind(o) for o in of] for of in _by_row(opinions)]) if len(judges) > 1 else None,
        kappas={pair: found for pair in combinations(judges, 2) if (found := _kappa(opinions, *pair)) is not None},
        left_share=sides["A"] / sides.total() if sides else 0.5,
        left_p_value=mcnemar(sides["A"], sides["B"]),
        same=key.same,
    )


def krippendorff(units: Sequence[Sequence[str]]) -> float | None:
    """Krippendorff's alpha for kinds without an order (Krippendorff 2011), with missing values.

    Args:
        units: for each thing that was judged, what those who judged it said.

    Returns: None when no two judged the same thing, or only one kind was ever said.
    """
    pairs = Counter[tuple[str, str]]()
    for said in units:
        for i, one in enumerate(said):
            for j, other in enumerate(said):
                if i != j:
                    pairs[one, other] += 1 / (len(said) - 1)  # type: ignore[assignment]  # counts are weights here
    totals = Counter[str]()
    for (one, _), weight in pairs.items():
        totals[one] += weight
    count = sum(totals.values())
    expected = count * count - sum(total * total for total in totals.values())
    if not expected:
        return None
    observed = sum(weight for (one, other), weight in pairs.items() if one != other)
    return 1 - (count - 1) * observed / expected


def _read(path: Path, key: Key, seen: dict[str, dict[int, str]], problems: list[UserError]) -> None:
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="replace")  # names of judges may be of any code page
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from error
    first_line = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=";" if ";" in first_line else ",")
    if missing := {"sheet", "row", "choice"} - set(reader.fieldnames or ()):
        message = f"no column {', '.join(sorted(missing))}: not a filled sheet"
        problems.append(DataError(message, where=str(path)))
        return
    choices = {choice.lower(): choice for choice in CHOICES}
    for line in reader:
        where = f"{path}:{reader.line_num}"
        choice, row = (line["choice"] or "").strip(), (line["row"] or "").strip()
        if line["sheet"] != key.sheet or not row.isdecimal() or not 1 <= int(row) <= len(key.a_is_first):
            problems.append(DataError("is not a line of this sheet", where=where))
        elif choice and choice.lower() not in choices:
            message = f"'{choice}' is no choice"
            problems.append(DataError(message, where=where, remedy=f"one of: {', '.join(CHOICES)}, or nothing"))
        elif choice:
            judged = seen.setdefault((line.get("judge") or "").strip() or path.stem, {})
            if judged.setdefault(int(row), choices[choice.lower()]) != choices[choice.lower()]:
                problems.append(DataError("this judge has judged the row twice, differently", where=where))


def _opinion(key: Key, row: int, choice: str) -> Opinion:
    if choice in ("same", "neither"):
        return "same" if choice == "same" else "neither"
    return "first" if (choice == "A") == key.a_is_first[row - 1] else "second"


def _kind(opinion: Opinion) -> str:
    return opinion if opinion in ("first", "second") else "tie"


def _by_row(opinions: Opinions) -> list[list[Opinion]]:
    rows = sorted({row for of in opinions.values() for row in of})
    return [[of[row] for of in opinions.values() if row in of] for row in rows]


def _kappa(opinions: Opinions, one: str, other: str) -> float | None:
    """None without rows in common, or where both always said the same one thing."""
    both = sorted(opinions[one].keys() & opinions[other].keys())
    pairs = [(_kind(opinions[one][row]), _kind(opinions[other][row])) for row in both]
    if not pairs or len({kind for pair in pairs for kind in pair}) < 2:
        return None
    from sklearn.metrics import cohen_kappa_score

    return float(cohen_kappa_score(*zip(*pairs, strict=True)))
