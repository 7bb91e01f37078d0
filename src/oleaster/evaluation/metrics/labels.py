"""Metrics of answers that are right or wrong: exact match, and what is made of it where answers are labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from oleaster.evaluation.metrics.registry import Reference, metrics
from oleaster.evaluation.tally import Floats, Tally, share


@metrics.register("exact_match")
def exact_match(predictions: Sequence[str], references: Sequence[Reference]) -> Tally:
    """Share of answers equal to a reference, white space at both ends aside; case and punctuation count.

    Misleads where one meaning has many wordings: a right answer in other words counts as wrong.
    """
    return _hits(predictions, references)


@metrics.register("accuracy")
def accuracy(predictions: Sequence[str], references: Sequence[Reference]) -> Tally:
    """Share of rows with the right label. An answer that is no label at all is wrong, never left out.

    Misleads where one label is frequent: always answering it scores its frequency. Compare with `macro_f1`.
    """
    return _hits(predictions, references)


@metrics.register("macro_f1")
def macro_f1(predictions: Sequence[str], references: Sequence[Reference]) -> Tally:
    """F1 of each label (harmonic mean of precision and recall), averaged over the labels of the references, 0 to 1.

    Every label weighs the same, so rare ones count. Misleads with a few rows per label: each of them then moves its
    label's F1 by a large step, and the interval is wide.
    """
    return Tally(_label_counts(predictions, references)[1], _macro_f1, "F1")


@metrics.register("micro_f1")
def micro_f1(predictions: Sequence[str], references: Sequence[Reference]) -> Tally:
    """F1 over all decisions together, 0 to 1; answers outside the references' labels only lower the recall.

    With every answer a known label it equals accuracy, and misleads in the same way.
    """
    return Tally(_label_counts(predictions, references)[1], _micro_f1, "F1")


@metrics.register("f1_per_label")
def f1_per_label(predictions: Sequence[str], references: Sequence[Reference]) -> dict[str, Tally]:
    """F1 of each label by itself, 0 to 1, one figure per label of the references.

    Shows which labels an average hides. Misleads when the worst of many labels is picked out: with a hundred labels of
    twenty rows each some look bad by chance alone, and of a hundred intervals about five miss.
    """
    names, counts = _label_counts(predictions, references)
    hits, answered, wanted = np.split(counts, 3, axis=1)
    parts = [np.column_stack([hits[:, i], answered[:, i], wanted[:, i]]) for i in range(len(names))]
    return {name: Tally(rows, f1, "F1") for name, rows in zip(names, parts, strict=True)}


@metrics.register("outside_labels")
def outside_labels(predictions: Sequence[str], references: Sequence[Reference], labels: Sequence[str]) -> Tally:
    """Share of answers that are none of the task's labels; lower is better.

    Near 0 it says nothing about whether the labels are right. Misleads where the labels are unknown to the evaluation
    (no run behind the model): only those that occur in the references then count as labels.
    """
    known = {label.strip() for label in labels} | {text for reference in references for text in texts(reference)}
    return share([prediction.strip() not in known for prediction in predictions], lower_is_better=True)


def texts(reference: Reference) -> list[str]:
    """The acceptable texts of a reference, without white space at their ends."""
    return [reference.strip()] if isinstance(reference, str) else [text.strip() for text in reference]


def hit(prediction: str, reference: Reference) -> bool:
    """Is the prediction one of the acceptable texts?"""
    return prediction.strip() in texts(reference)


def f1(sums: Floats) -> Floats:
    """F1 from sums [..., 3] of hits, answered and wanted; 0 where there is neither an answer nor a reference."""
    hits, answered, wanted = np.moveaxis(sums, -1, 0)
    return np.divide(2 * hits, answered + wanted, out=np.zeros_like(hits), where=answered + wanted > 0)


def _hits(predictions: Sequence[str], references: Sequence[Reference]) -> Tally:
    return share([hit(p, r) for p, r in zip(predictions, references, strict=True)])


def _label_counts(predictions: Sequence[str], references: Sequence[Reference]) -> tuple[list[str], Floats]:
    """(labels, [rows, 3 * labels]): per label hit, answered, wanted. A row with several references has the label it
    hit, else the first one."""
    wanted = [p.strip() if hit(p, r) else texts(r)[0] for p, r in zip(predictions, references, strict=True)]
    columns = {label: i for i, label in enumerate(sorted(set(wanted)))}
    counts = np.zeros((len(wanted), 3, len(columns)))
    for row, (prediction, label) in enumerate(zip(predictions, wanted, strict=True)):
        counts[row, 2, columns[label]] = 1
        if (answered := columns.get(prediction.strip())) is not None:
            counts[row, 1, answered] = 1
            counts[row, 0, answered] = answered == columns[label]
    return list(columns), counts.reshape(len(wanted), -1)


def _macro_f1(sums: Floats) -> Floats:
    hits, answered, wanted = np.split(sums, 3, axis=-1)
    seen = answered + wanted > 0  # a resample may miss a label altogether
    return np.divide(2 * hits, answered + wanted, out=np.zeros_like(hits), where=seen).sum(-1) / seen.sum(-1)


def _micro_f1(sums: Floats) -> Floats:
    hits, answered, wanted = np.split(sums, 3, axis=-1)
    return 2 * hits.sum(-1) / (answered + wanted).sum(-1)
