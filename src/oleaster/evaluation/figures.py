"""From rows that were asked and scored to figures, intervals and the mistakes worth reading."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from oleaster.evaluation.intervals import interval
from oleaster.evaluation.metrics import hit, measure
from oleaster.evaluation.report import Confusion, Report, Row, Value
from oleaster.evaluation.tally import Floats, Tally, ratio, share

LONGEST_LABEL = 80
"""Characters; longer answers are sentences."""
TOP_CONFUSIONS, WORST_ROWS = 10, 5


def make_report(
    model: str,
    rows: Sequence[Row],
    labels: Sequence[str] = (),
    metrics: Sequence[str] = (),
    speed: Mapping[str, Value] | None = None,
) -> Report:
    """The report of rows that were asked and scored already."""
    values = {}
    for name, found in tallies(rows, labels, metrics).items():
        if isinstance(found, Tally):
            low, high = interval(found) or (None, None)
            values[name] = Value(found.value, low, high, len(found.rows), found.unit)
        else:
            values[name] = Value(float(found), None, None, len(rows), "")
    worst = sorted((row for row in rows if row.targets), key=lambda row: row.nll / row.targets, reverse=True)
    return Report(
        model=model,
        metrics=values | dict(speed or {}),
        labels=tuple(sorted(labels)),
        confusions=_confusions(rows) if labels else (),
        worst=tuple(worst[:WORST_ROWS]),
        rows=tuple(rows),
    )


def tallies(rows: Sequence[Row], labels: Sequence[str], metrics: Sequence[str] = ()) -> dict[str, Tally | float]:
    """Every figure that these rows support, by name."""
    found: dict[str, Tally | float] = {}
    learned = [row for row in rows if row.targets]
    if learned:
        nll, count = [row.nll for row in learned], [row.targets for row in learned]
        found["loss"] = ratio(nll, count, "nats/token", lower_is_better=True)
        found["perplexity"] = Tally(found["loss"].rows, _perplexity, "perplexity", lower_is_better=True)
        sizes = [row.learned_bytes for row in learned if row.learned_bytes]
        if len(sizes) == len(learned):
            bits = [nats / math.log(2) for nats in nll]
            found["bits_per_byte"] = ratio(bits, sizes, "bits/byte", lower_is_better=True)
        found["token_accuracy"] = ratio([row.correct for row in learned], count, "share")
    asked = [row for row in rows if row.prediction is not None]
    if asked:
        predictions = [row.prediction or "" for row in asked]
        references = [row.reference for row in asked]
        names = ["accuracy", "macro_f1"] if labels else []
        for name in dict.fromkeys(["exact_match", *names, *metrics]):
            found[name] = measure(name, predictions, references)
        if labels:
            known = {label.strip() for label in labels} | {reference.strip() for reference in references}
            found["outside_labels"] = share([p.strip() not in known for p in predictions], lower_is_better=True)
        found["natural_stop"] = share([row.finish == "stop" for row in asked])
    return found


def find_labels(references: Sequence[str]) -> list[str]:
    """The distinct references where they look like labels (short, one line, each twice on average), else none."""
    distinct = {reference.strip() for reference in references}
    few = 2 <= len(distinct) <= len(references) / 2
    short = all(0 < len(text) <= LONGEST_LABEL and "\n" not in text for text in distinct)
    return sorted(distinct) if few and short else []


def _perplexity(sums: Floats) -> Floats:
    return np.exp(sums[..., 0] / sums[..., 1])


def _confusions(rows: Sequence[Row]) -> tuple[Confusion, ...]:
    wrong = Counter(
        (row.reference.strip(), row.prediction.strip())
        for row in rows
        if row.prediction is not None and not hit(row.prediction, row.reference)
    )
    return tuple(Confusion(reference, answer, n) for (reference, answer), n in wrong.most_common(TOP_CONFUSIONS))
