"""Metrics of numbers: answers that are numbers, and how sure the model is of an answer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from oleaster.core.errors import DataError
from oleaster.evaluation.metrics.labels import hit, texts
from oleaster.evaluation.metrics.registry import Reference, metrics
from oleaster.evaluation.tally import Floats, Ranks, Tally

_BINS = 10


@metrics.register("spearman")
def spearman(predictions: Sequence[str], references: Sequence[Reference]) -> Tally:
    """Rank correlation of answers with references, both numbers, -1 to 1: are the rows put into the right order?

    An answer that is no number takes the middle of those that are, and a note counts them. Misleads on scale: scores
    ten times too high are a perfect 1; and a few rows, or rows from one end of the scale only, give almost any figure.
    """
    wanted = [_number(texts(reference)[0]) for reference in references]
    if None in wanted:
        remedy = "spearman is for references that are numbers"
        raise DataError(f"the reference {references[wanted.index(None)]!r} is no number", remedy=remedy)
    answered = [_number(prediction) for prediction in predictions]
    numbers = [number for number in answered if number is not None]
    middle = float(np.median(numbers)) if numbers else 0.0
    missing = len(answered) - len(numbers)
    note = f"{missing} of {len(answered)} answers are no number; they count as the median of the others"
    rows = np.array([[middle if a is None else a, w] for a, w in zip(answered, wanted, strict=True)], np.float64)
    return Ranks(rows, lambda sums: sums, "rank correlation", note=note if missing else "")


@metrics.register("calibration")
def calibration(predictions: Sequence[str], references: Sequence[Reference], confidences: Sequence[float]) -> Tally:
    """Expected calibration error (Guo et al. 2017), 0 to 1; lower is better: how far, on average, the probability that
    the model gives its own answer is from the share of such answers that are right, in ten bins of equal width.

    Wanted before a threshold decides which answers a person looks at. Misleads with few rows, where chance alone makes
    it larger than 0 and its interval lies too high; a model that is always equally unsure can have 0 and be useless;
    and where one meaning has many wordings, the probability of one wording is no confidence. Of answers that are held
    to labels (`answer_with labels`) it takes the probability before they were held, which is lower. A head's confidence
    is that of its label; of entities, that of all tags of the text together.
    """
    sure = np.clip(np.array(confidences, np.float64), 0.0, 1.0)
    right = np.array([hit(p, r) for p, r in zip(predictions, references, strict=True)], np.float64)
    bins = np.minimum((sure * _BINS).astype(int), _BINS - 1)
    chosen = np.eye(_BINS)[bins]
    rows = np.concatenate([chosen * sure[:, None], chosen * right[:, None], chosen], axis=1)
    return Tally(rows, _calibration_error, "share", lower_is_better=True)


def _calibration_error(sums: Floats) -> Floats:
    sure, right, count = np.split(sums, 3, axis=-1)
    return np.abs(sure - right).sum(-1) / count.sum(-1)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
