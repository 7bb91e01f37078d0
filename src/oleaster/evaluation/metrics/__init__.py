"""Measures of answers: plain functions in one table, `metrics`.

A metric says by the names of its parameters what it needs of the rows (`COLUMNS`), for instance
`(predictions, references)`, and gets one value per row for each: a prediction is a text, a reference a text or a list
of acceptable ones. It returns one number per row (reported as their mean), one number for all rows (reported without
an interval), a `Tally`, or several of them by name. A plug-in enters its own with `@metrics.register("name")`.
"""

from __future__ import annotations

from oleaster.evaluation.metrics import labels, likelihood, numbers, structure, texts
from oleaster.evaluation.metrics.registry import (
    COLUMNS,
    Metric,
    Reference,
    check_metrics,
    full_name,
    library_of,
    measure,
    measure_rows,
    metrics,
    refuse_missing,
    wants,
)

__all__ = [
    "COLUMNS",
    "Metric",
    "Reference",
    "check_metrics",
    "full_name",
    "library_of",
    "measure",
    "measure_rows",
    "metrics",
    "refuse_missing",
    "wants",
]

BUILT_IN = (labels, likelihood, numbers, structure, texts)
"""The modules that enter the metrics of the house."""
