"""How far a figure from few rows can be trusted: 95 % intervals and paired comparisons.

The rows are taken as drawn independently from what the model will meet. Rows that depend on each other (turns of one
conversation, near duplicates) make every interval here too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oleaster.evaluation.tally import Floats, Tally

LEVEL = 0.95
RESAMPLES = 2000
CHUNK = 2**22
"""Most weights (resamples x rows) held at once: 32 MiB."""


class Interval(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Two answers to the same rows compared."""

    first: float
    second: float
    interval: Interval
    """95 % interval of second - first."""
    count: int
    """Rows."""
    verdict: Literal["better", "worse", "not distinguishable"]
    """Of the second against the first."""

    def __str__(self) -> str:
        head = f"{self.verdict} with {self.count} rows" if self.verdict == "not distinguishable" else self.verdict
        low, high = self.interval
        return f"{head} ({self.second - self.first:+.4g}, 95 % interval {low:+.4g} to {high:+.4g})"


def interval(tally: Tally, seed: int = 0) -> Interval | None:
    """95 % interval of a figure: Wilson's for a share, else a seeded bootstrap. None below two rows."""
    if tally.is_share:
        hits, count = tally.rows.sum(axis=0)
        return wilson(int(hits), int(count)) if count else None
    if len(tally.rows) < 2:
        return None
    drawn = np.concatenate([tally.figure(w @ tally.rows) for w in resamples(len(tally.rows), seed)])
    return _percentiles(drawn, len(tally.rows))


def wilson(hits: int, count: int) -> Interval:
    """95 % interval of a proportion (Wilson 1927): good for small counts and for shares near 0 and 1."""
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    share = hits / count
    scale = 1 + z * z / count
    middle = (share + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Interval(0.0 if hits == 0 else middle - half, 1.0 if hits == count else middle + half)


def compare_tallies(first: Tally, second: Tally, seed: int = 0) -> Difference:
    """Paired comparison of one metric on the same rows in the same order.

    The interval is a bootstrap over the rows, each drawn with both its answers. The verdict of a share is McNemar's
    exact test at 5 %, which looks only at rows where the two differ; of any other figure, whether the interval leaves
    out 0.

    Raises:
        ValueError: the tallies have different numbers of rows.
    """
    count = len(first.rows)
    if count != len(second.rows):
        raise ValueError(f"{count} rows against {len(second.rows)}")
    weights = resamples(count, seed)
    drawn = np.concatenate([second.figure(w @ second.rows) - first.figure(w @ first.rows) for w in weights])
    found = _percentiles(drawn, count) if count > 1 else Interval(-math.inf, math.inf)
    change = second.value - first.value
    if first.is_share:
        a, b = first.rows[:, 0], second.rows[:, 0]
        certain = mcnemar(int((a > b).sum()), int((a < b).sum())) < 1 - LEVEL
    else:
        certain = found.low > 0 or found.high < 0
    up = change < 0 if first.lower_is_better else change > 0
    verdict = ("better" if up else "worse") if certain and change else "not distinguishable"
    return Difference(first.value, second.value, found, count, verdict)


def mcnemar(lost: int, won: int) -> float:
    """Two-sided exact p-value that wins and losses are equally likely (McNemar 1947, binomial form)."""
    total = lost + won
    tail = sum(math.comb(total, k) for k in range(min(lost, won) + 1))
    return min(1.0, 2 * tail / 2**total)


def resamples(count: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each row is drawn in each of `RESAMPLES` bootstrap samples: blocks [samples, rows] of weights."""
    source = np.random.default_rng(seed)
    size = max(1, min(RESAMPLES, CHUNK // count))
    for start in range(0, RESAMPLES, size):
        samples = min(size, RESAMPLES - start)
        places = source.integers(count, size=(samples, count)) + count * np.arange(samples)[:, None]
        yield np.bincount(places.ravel(), minlength=samples * count).reshape(samples, count).astype(np.float64)


def _percentiles(drawn: Floats, count: int) -> Interval:
    """Percentile interval, its tails widened as Student's t is wider than the normal distribution and by n / (n - 1):
    a bootstrap knows the spread within the sample, which is too small for few rows (Hesterberg 2015, section 4.3)."""
    from scipy.special import ndtr, stdtrit

    t = stdtrit(count - 1, 0.5 + LEVEL / 2) * math.sqrt(count / (count - 1))
    low, high = np.nanquantile(drawn, [ndtr(-t), ndtr(t)])
    return Interval(float(low), float(high))
