"""From rows that were asked and scored to figures, intervals and the mistakes worth reading."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from oleaster.evaluation.intervals import intervals
from oleaster.evaluation.metrics import measure_rows, refuse_missing
from oleaster.evaluation.metrics.labels import hit
from oleaster.evaluation.report import Confusion, Report, Row, Value
from oleaster.evaluation.tally import Tally

LONGEST_LABEL = 80
"""Characters; longer answers are sentences."""
TOP_CONFUSIONS, WORST_ROWS = 10, 5
ALWAYS = ("loss", "perplexity", "bits_per_byte", "token_accuracy", "exact_match", "natural_stop")
"""Metrics of every evaluation, as far as its rows have what they need."""
OF_LABELS = ("accuracy", "macro_f1", "outside_labels")
"""Further ones where the answers are labels."""


def make_report(
    model: str,
    rows: Sequence[Row],
    labels: Sequence[str] = (),
    metrics: Sequence[str] = (),
    speed: Mapping[str, Value] | None = None,
) -> Report:
    """The report of rows that were asked and scored already.

    Args:
        metrics: full names, besides those of every evaluation.
    """
    found = tallies(rows, labels, metrics)
    worst = sorted((row for row in rows if row.targets), key=lambda row: row.nll / row.targets, reverse=True)
    notes = {f"{name}: {each.note}": None for name, each in found.items() if isinstance(each, Tally) and each.note}
    return Report(
        model=model,
        metrics=values(found, len(rows)) | dict(speed or {}),
        labels=tuple(sorted(labels)),
        confusions=_confusions(rows) if labels else (),
        worst=tuple(worst[:WORST_ROWS]),
        notes=tuple(notes),
        rows=tuple(rows),
    )


def tallies(rows: Sequence[Row], labels: Sequence[str], metrics: Sequence[str] = ()) -> dict[str, Tally | float]:
    """Every figure that these rows support, and those that are asked for, by name.

    Raises: DataError when a metric is asked for that these rows cannot have.
    """
    found: dict[str, Tally | float] = {}
    for name in dict.fromkeys([*ALWAYS, *(OF_LABELS if labels else ()), *metrics]):
        figures = measure_rows(name, rows, labels)
        if not figures and name in metrics:
            refuse_missing(name, rows)
        found |= figures
    return found


def values(found: Mapping[str, Tally | float], count: int) -> dict[str, Value]:
    """Figures with their intervals.

    Args:
        count: rows behind the figures that are plain numbers.
    """
    ends = intervals({name: each for name, each in found.items() if isinstance(each, Tally)})
    shown = {}
    for name, each in found.items():
        if isinstance(each, Tally):
            low, high = ends[name] or (None, None)
            shown[name] = Value(each.value, low, high, len(each.rows), each.unit)
        else:
            shown[name] = Value(float(each), None, None, count, "")
    return shown


def find_labels(references: Sequence[str]) -> list[str]:
    """The distinct references where they look like labels (short, one line, each twice on average), else none."""
    distinct = {reference.strip() for reference in references}
    few = 2 <= len(distinct) <= len(references) / 2
    short = all(0 < len(text) <= LONGEST_LABEL and "\n" not in text for text in distinct)
    return sorted(distinct) if few and short else []


def _confusions(rows: Sequence[Row]) -> tuple[Confusion, ...]:
    wrong = Counter(
        (row.reference.strip(), row.prediction.strip())
        for row in rows
        if row.prediction is not None and not hit(row.prediction, [row.reference, *row.also])
    )
    return tuple(Confusion(reference, answer, n) for (reference, answer), n in wrong.most_common(TOP_CONFUSIONS))
