"""What a check finds: how many rows, which ones, and what to do about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""error: training would stop, or its figures would be wrong; warning: the model will be worse for it; note: to know."""


@dataclass(frozen=True)
class Named:
    """A row that a finding is about."""

    place: str
    """`file:line`, or `name[row]`."""
    seen: str = ""
    """What was found there, in a few words."""


@dataclass(frozen=True)
class Finding:
    """One kind of defect."""

    kind: str
    """Name of the defect; the same in every report, so that two reports can be compared."""
    severity: Severity
    message: str
    """What was found and how often, in one sentence."""
    advice: str
    """What to do."""
    rows: tuple[Named, ...] = ()
    """All rows concerned; empty when it is about a part as a whole."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Finding:
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**data, "rows": tuple(Named(**row) for row in data["rows"])})


@dataclass(frozen=True)
class Lengths:
    """Quantiles of a part's row lengths."""

    median: int
    p95: int
    longest: int


@dataclass(frozen=True)
class PartFigures:
    """One part of the data (train, validation, test) in numbers."""

    name: str
    rows: int
    unusable: int
    """Lines that cannot be read, and rows that lack what an example needs."""
    prompt: Lengths
    answer: Lengths
    whole: Lengths
    """The row as the model reads it, chat template and control tokens included; without a model prompt and answer."""
    labels: Mapping[str, int]
    """Rows of each label, the commonest first; empty where answers are no labels."""
    languages: Mapping[str, int]
    """Rows of each language (ISO 639 code), as far as a row's text is long enough to tell."""


@dataclass(frozen=True)
class DataReport:
    """All that was found out about a data set."""

    unit: Literal["tokens", "characters"]
    """Of the lengths: tokens of the chosen model, characters without one."""
    model: str | None
    parts: tuple[PartFigures, ...]
    findings: tuple[Finding, ...]
    """Errors first; of one severity the one with most rows first."""

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DataReport:
        """The inverse of `to_json`."""
        parts = [
            PartFigures(**{**part, **{name: Lengths(**part[name]) for name in ("prompt", "answer", "whole")}})
            for part in data["parts"]
        ]
        findings = tuple(Finding.from_json(finding) for finding in data["findings"])
        return cls(data["unit"], data["model"], tuple(parts), findings)


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors, warnings, notes; the most frequent first."""
    return tuple(sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), -len(f.rows), f.kind)))


def many(count: int, one: str, more: str | None = None) -> str:
    """`1 row`, `2 rows`."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def excerpt(text: str, length: int = 60) -> str:
    """The text on one line, shortened."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 3].rstrip() + "..."


def quoted(names: Sequence[str], most: int = 5) -> str:
    """`'a', 'b' and 3 more`."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
