"""How far a figure from few rows can be trusted: 95 % intervals and paired comparisons.

The rows are taken as drawn independently from what the model will meet. Rows that depend on each other (turns of one
conversation, near duplicates) make every interval here too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oleaster.evaluation.tally import Floats, Tally

LEVEL = 0.95
POWER = 0.8
_Z, _Z_POWER = NormalDist().inv_cdf(0.5 + LEVEL / 2), NormalDist().inv_cdf(POWER)
RESAMPLES = 2000
_FEW = 500
"""Rows below which the exact test and its approximation differ."""
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
    needed: int | None = None
    """Rows that would show a difference of this size, if it is real, in four of five attempts; None when the two are
    equal here. From few rows a rough guess, as the size itself is."""

    @property
    def advice(self) -> str:
        """The verdict, and what it would take to reach one."""
        if self.verdict != "not distinguishable":
            return self.verdict
        needs = f"; would need about {rounded(self.needed):,}" if self.needed else ""
        return f"{self.verdict} with {self.count:,} rows{needs}"

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.advice} ({self.second - self.first:+.4g}, 95 % interval {low:+.4g} to {high:+.4g})"


def interval(tally: Tally) -> Interval | None:
    """95 % interval of a figure: Wilson's for a share, else a seeded bootstrap. None below two rows."""
    return intervals({"": tally})[""]


def intervals(tallies: Mapping[str, Tally]) -> dict[str, Interval | None]:
    """The interval of each figure; all of them see the same resamples."""
    found: dict[str, Interval | None] = dict.fromkeys(tallies)
    resampled = {name: tally for name, tally in tallies.items() if not tally.is_share and len(tally.rows) > 1}
    for name, drawn in _draw({name: (tally.figures, len(tally.rows)) for name, tally in resampled.items()}).items():
        found[name] = _percentiles(drawn, len(tallies[name].rows))
    for name, tally in tallies.items():
        if tally.is_share and len(tally.rows):
            found[name] = wilson(int(tally.rows[:, 0].sum()), len(tally.rows))
    return found


def _draw(asked: Mapping[str, tuple[Callable[[Floats], Floats], int]]) -> dict[str, Floats]:
    """Each function of weights [S, rows] on every resample of so many rows: [RESAMPLES]."""
    parts: dict[str, list[Floats]] = {name: [] for name in asked}
    for count in {count for _, count in asked.values()}:
        for weights in resamples(count):
            for name, (figures, rows) in asked.items():
                if rows == count:
                    parts[name].append(figures(weights))
    return {name: np.concatenate(blocks) for name, blocks in parts.items()}


def wilson(hits: int, count: int) -> Interval:
    """95 % interval of a proportion (Wilson 1927): good for small counts and for shares near 0 and 1."""
    z = _Z
    share = hits / count
    scale = 1 + z * z / count
    middle = (share + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Interval(0.0 if hits == 0 else middle - half, 1.0 if hits == count else middle + half)


def compare_tallies(first: Tally, second: Tally) -> Difference:
    """Paired comparison of one metric on the same rows in the same order; see `differences`."""
    return differences({"": first}, {"": second})[""]


def differences(first: Mapping[str, Tally], second: Mapping[str, Tally]) -> dict[str, Difference]:
    """Paired comparison of each metric, the same rows in the same order behind both sides.

    The interval is a bootstrap over the rows, each drawn with both its answers. The verdict of a share is McNemar's
    exact test at 5 %, which looks only at rows where the two differ; of any other figure, whether the interval leaves
    out 0.

    Raises:
        ValueError: the tallies of a metric have different numbers of rows.
    """
    for name, tally in first.items():
        if len(tally.rows) != len(second[name].rows):
            raise ValueError(f"{len(tally.rows)} rows against {len(second[name].rows)}")
    drawn = _draw({name: (_change(tally, second[name]), len(tally.rows)) for name, tally in first.items()})
    return {name: _difference(tally, second[name], drawn[name]) for name, tally in first.items()}


def _change(first: Tally, second: Tally) -> Callable[[Floats], Floats]:
    return lambda weights: second.figures(weights) - first.figures(weights)


def _difference(first: Tally, second: Tally, drawn: Floats) -> Difference:
    count = len(first.rows)
    found = _percentiles(drawn, count) if count > 1 else Interval(-math.inf, math.inf)
    change = second.value - first.value
    if first.is_share:
        a, b = first.rows[:, 0], second.rows[:, 0]
        lost, won = int((a > b).sum()), int((a < b).sum())
        certain = mcnemar(lost, won) < 1 - LEVEL
        needed = rows_for_mcnemar(lost / count, won / count)
    else:
        certain = found.low > 0 or found.high < 0
        needed = _rows_for(change, float(np.nanstd(drawn)), count)
    up = change < 0 if first.lower_is_better else change > 0
    verdict = ("better" if up else "worse") if certain and change else "not distinguishable"
    return Difference(first.value, second.value, found, count, verdict, needed)


def rows_for_mcnemar(lost: float, won: float) -> int | None:
    """Rows with which McNemar's test finds a difference like this one in four of five attempts (Connor 1987).

    Args:
        lost, won: shares of the rows that only the first, only the second got right.

    Returns: None when there is no difference to find.
    """
    change, moved = abs(won - lost), won + lost
    if not change:
        return None
    rows = math.ceil((_Z * math.sqrt(moved) + _Z_POWER * math.sqrt(max(0.0, moved - change * change))) ** 2 / change**2)
    # The formula is that of the normal distribution; with few rows the exact test asks for more.
    while rows < _FEW and mcnemar(round(lost * rows), round(won * rows)) >= 1 - LEVEL:
        rows += 1
    return rows


def _rows_for(change: float, error: float, count: int) -> int | None:
    """The same for any figure: its standard error falls with the square root of the rows."""
    if not change or not math.isfinite(change) or not error:
        return None
    return max(2, math.ceil(count * ((_Z + _Z_POWER) * error / change) ** 2))


def rounded(rows: int) -> int:
    """Two digits of it, upwards: more would pretend to know."""
    step = 10 ** max(0, len(str(rows)) - 2)
    return -(-rows // step) * step


def mcnemar(lost: int, won: int) -> float:
    """Two-sided exact p-value that wins and losses are equally likely (McNemar 1947, binomial form)."""
    total = lost + won
    tail = sum(math.comb(total, k) for k in range(min(lost, won) + 1))
    return min(1.0, 2 * tail / 2**total)


def resamples(count: int, seed: int = 0) -> Iterator[NDArray[np.float64]]:
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
