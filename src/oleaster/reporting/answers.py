"""What the answers show: which labels are mistaken for which, and rows worth reading, base against tuned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from oleaster.evaluation.metrics.labels import hit
from oleaster.evaluation.report import Report, Row

WHOLE_MATRIX = 16
"""Labels up to which the confusion matrix is shown whole; of more, the part with the most mistakes."""
SHOWN_EXAMPLES = 6
OTHER = "other answers"


@dataclass(frozen=True)
class Matrix:
    """Counts of (expected, answered)."""

    expected: tuple[str, ...]
    answered: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    """[expected][answered]"""
    labels: int
    """How many labels there are in all."""

    @property
    def most(self) -> int:
        """The largest count off the diagonal."""
        return max(
            (
                count
                for label, line in zip(self.expected, self.counts, strict=True)
                for answer, count in zip(self.answered, line, strict=True)
                if answer != label
            ),
            default=0,
        )


@dataclass(frozen=True)
class ClassLine:
    """One label: how often it was expected and answered, and how well."""

    label: str
    rows: int
    recall: float
    """Share of its rows that were answered with it."""
    precision: float | None
    """Share of the answers with this label that were right; None when it was never answered."""


@dataclass(frozen=True)
class Pair:
    """One row as the base and the tuned model answered it."""

    tuned: Row
    base: Row | None

    @property
    def is_right(self) -> bool:
        return _is_right(self.tuned)

    @property
    def was_right(self) -> bool:
        return self.base is not None and _is_right(self.base)

    @property
    def loss(self) -> float:
        """Nats per learned token of the tuned model."""
        return self.tuned.nll / max(1, self.tuned.targets)

    @property
    def gain(self) -> float:
        """Nats per learned token that tuning took off; without a base, what is left counts."""
        return (self.base.nll - self.tuned.nll) / max(1, self.tuned.targets) if self.base else -self.loss


@dataclass(frozen=True)
class Examples:
    """Rows worth reading, of each kind the most telling ones, and how many of the kind there are."""

    title: str
    explanation: str
    rows: tuple[Pair, ...]
    count: int


def confusion_matrix(report: Report) -> Matrix | None:
    """None where the answers are no labels, or no row was asked."""
    asked = [row for row in report.rows if row.prediction is not None]
    if not report.labels or not asked:
        return None
    pairs = Counter((row.reference.strip(), (row.prediction or "").strip()) for row in asked)
    labels = sorted({*report.labels, *(expected for expected, _ in pairs)})
    shown = labels if len(labels) <= WHOLE_MATRIX else _most_mistaken(pairs, set(labels))
    expected = [label for label in shown if any(pairs[label, answer] for answer in (*labels, ""))] or shown
    outside = any(answer not in shown for label, answer in pairs if label in expected)
    counts = []
    for label in expected:
        line = [pairs[label, answer] for answer in shown]
        rest = sum(count for (e, _), count in pairs.items() if e == label) - sum(line)
        counts.append((*line, rest) if outside else tuple(line))
    return Matrix(tuple(expected), (*shown, OTHER) if outside else tuple(shown), tuple(counts), len(labels))


def _most_mistaken(pairs: Counter[tuple[str, str]], labels: set[str]) -> list[str]:
    """Labels of the most frequent mistakes among labels, as many as fit."""
    mistakes = [(n, pair) for pair, n in pairs.items() if pair[0] != pair[1] and pair[1] in labels]
    chosen: dict[str, None] = {}
    for _, pair in sorted(mistakes, key=lambda m: (-m[0], m[1])):
        if len({*chosen, *pair}) > WHOLE_MATRIX:
            break
        chosen |= dict.fromkeys(pair)
    return sorted(chosen) or sorted(labels)[:WHOLE_MATRIX]


def class_lines(report: Report) -> list[ClassLine]:
    """Every label that was expected, the worst recall first; of equal ones the more frequent."""
    asked = [(r.reference.strip(), r.prediction.strip()) for r in report.rows if r.prediction is not None]
    expected, answered = Counter(e for e, _ in asked), Counter(a for _, a in asked)
    right = Counter(e for e, a in asked if e == a)
    lines = [
        ClassLine(label, n, right[label] / n, right[label] / answered[label] if answered[label] else None)
        for label, n in expected.items()
    ]
    return sorted(lines, key=lambda line: (line.recall, -line.rows, line.label))


def examples(tuned: Report, base: Report | None) -> list[Examples]:
    """Kinds of rows, mistakes first; kinds without rows are left out."""
    others = {(row.source, row.reference): row for row in (base.rows if base else ())}
    pairs = [Pair(row, others.get((row.source, row.reference))) for row in tuned.rows if row.prediction is not None]
    worst = sorted(pairs, key=lambda pair: -pair.loss)
    best = sorted(pairs, key=lambda pair: -pair.gain)
    kinds: list[Examples] = []

    def kind(title: str, explanation: str, found: Sequence[Pair]) -> None:
        if found:
            kinds.append(Examples(title, explanation, tuple(found[:SHOWN_EXAMPLES]), len(found)))

    kind(
        "Still wrong" if others else "Wrong",
        "The tuned model's most confident mistakes: hard rows, wrong labels, or unlike anything it was trained on.",
        [pair for pair in worst if not pair.is_right and not pair.was_right],
    )
    kind(
        "Made worse",
        "The base had these right, the tuned model has not.",
        [pair for pair in worst if not pair.is_right and pair.was_right],
    )
    kind(
        "Learned" if others else "Right",
        "Wrong before tuning, right now; the largest gains first." if others else "The surest first.",
        [pair for pair in best if pair.is_right and not pair.was_right],
    )
    kind("Right before and after", "What the base could do already.", [p for p in best if p.is_right and p.was_right])
    return kinds


def _is_right(row: Row) -> bool:
    return hit(row.prediction or "", [row.reference, *row.also])
