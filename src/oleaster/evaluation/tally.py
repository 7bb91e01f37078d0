"""What a metric hands on: counts of each row that may be added up, and the figure their sums make.

Everything else follows from that one form: the figure of any choice of rows, hence bootstrap intervals and paired
comparisons, for means, ratios, perplexity, F1 and BLEU alike. `Ranks` is for the one kind of figure that is no function
of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Tally:
    """One metric on one set of rows."""

    rows: Floats
    """[rows, K] counts"""
    figure: Callable[[Floats], Floats]
    """From sums of rows [..., K] to figures [...]."""
    unit: str
    lower_is_better: bool = False
    is_share: bool = False
    """The rows are (0 or 1, 1) and the figure is the share of ones: a proportion with an exact theory."""
    note: str = ""
    """A sentence about these rows that whoever reads the figure should know."""

    @property
    def value(self) -> float:
        """The figure of all rows."""
        return float(self.figure(self.rows.sum(axis=0)))

    def figures(self, weights: Floats) -> Floats:
        """[S], the figures when each row counts as often as `weights` [S, rows] say."""
        return self.figure(weights @ self.rows)


@dataclass(frozen=True)
class Ranks(Tally):
    """Spearman's rank correlation of two columns: `rows` [rows, 2] are the values themselves; `figure` is not used."""

    @property
    def value(self) -> float:
        """The correlation of all rows; nan where a column is constant."""
        return float(self.figures(np.ones((1, len(self.rows))))[0])

    def figures(self, weights: Floats) -> Floats:
        """The correlation of the rows repeated `weights` times: Pearson's of the weighted mid-ranks."""
        first, second = (_mid_ranks(column, weights) for column in self.rows.T)
        count = weights.sum(axis=1)
        first -= (weights * first).sum(axis=1, keepdims=True) / count[:, None]
        second -= (weights * second).sum(axis=1, keepdims=True) / count[:, None]
        spread = np.sqrt((weights * first**2).sum(axis=1) * (weights * second**2).sum(axis=1))
        return np.divide(
            (weights * first * second).sum(axis=1), spread, out=np.full(len(count), np.nan), where=spread > 0
        )


def _mid_ranks(column: Floats, weights: Floats) -> Floats:
    """[S, rows], the mean of the places that a row's value takes when row i stands `weights[:, i]` times in line."""
    _, starts, places = np.unique(np.sort(column), return_index=True, return_inverse=True)
    order = np.argsort(column, kind="stable")
    held = np.add.reduceat(weights[:, order], starts, axis=1)  # of each distinct value
    back = np.empty_like(places)
    back[order] = places
    return (np.cumsum(held, axis=1) - (held - 1) / 2)[:, back]


def ratio(totals: Sequence[float], counts: Sequence[float], unit: str, *, lower_is_better: bool = False) -> Tally:
    """Sum of `totals` over sum of `counts`."""
    return Tally(np.column_stack([totals, counts]).astype(np.float64), _ratio, unit, lower_is_better)


def mean(values: Sequence[float], unit: str, *, lower_is_better: bool = False) -> Tally:
    """Mean over the rows."""
    return ratio(values, np.ones(len(values)).tolist(), unit, lower_is_better=lower_is_better)


def share(hits: Sequence[bool], *, lower_is_better: bool = False) -> Tally:
    """Share of the rows that are a hit, 0 to 1."""
    rows = np.column_stack([hits, np.ones(len(hits))]).astype(np.float64)
    return Tally(rows, _ratio, "share", lower_is_better, is_share=True)


def _ratio(sums: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample may hold no counts at all: nan, left out there
        return sums[..., 0] / sums[..., 1]
