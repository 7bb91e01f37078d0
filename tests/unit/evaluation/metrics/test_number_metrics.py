"""Spearman against scipy, calibration against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from oleaster.core.errors import DataError
from oleaster.evaluation.intervals import interval
from oleaster.evaluation.metrics.numbers import calibration, spearman

numbers = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=30)


@settings(max_examples=60)
@given(numbers, st.integers(0, 9))
def test_spearman_of_any_resample_equals_scipys_of_the_repeated_rows(pairs, seed):
    drawn = np.random.default_rng(seed).integers(0, len(pairs), len(pairs))
    first, second = (np.array(side)[drawn] for side in zip(*pairs, strict=True))
    weights = np.bincount(drawn, minlength=len(pairs))[None].astype(float)
    found = spearman([str(a) for a, _ in pairs], [str(b) for _, b in pairs]).figures(weights)[0]
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(spearmanr(first, second).statistic)


def test_answers_that_are_no_number_help_nobody_and_are_counted():
    found = spearman(["1", " 2.5\n", "about three", "inf", "9"], ["1", "2", "3", "4", "5"])
    assert found.rows[:, 0].tolist() == [1, 2.5, 2.5, 2.5, 9]
    assert found.note.startswith("2 of 5 answers are no number")
    assert found.value == pytest.approx(spearmanr([1, 2.5, 2.5, 2.5, 9], [1, 2, 3, 4, 5]).statistic)
    with pytest.raises(DataError, match="'much' is no number"):
        spearman(["1"], ["much"])


def test_spearmans_interval_covers_the_truth():
    source = np.random.default_rng(11)
    truth = 6 / np.pi * np.arcsin(0.6 / 2)  # of a normal pair with correlation 0.6
    covered = []
    for _ in range(100):
        first = source.standard_normal(150)
        second = 0.6 * first + 0.8 * source.standard_normal(150)
        found = interval(spearman([str(x) for x in first], [str(y) for y in second]))
        covered.append(found is not None and found.low <= truth <= found.high)
    assert 0.9 <= np.mean(covered) <= 0.99


def test_calibration_is_the_gap_between_sureness_and_being_right():
    right, wrong = ["a"], ["b"]
    # Nine of ten right at 0.9: no gap. All of ten wrong at 0.55: a gap of 0.55. Half the rows each.
    answers = right * 9 + wrong + wrong * 10
    sure = [0.9] * 10 + [0.55] * 10
    assert calibration(answers, ["a"] * 20, sure).value == pytest.approx(0.275)
    assert calibration(["a"], ["a"], [1.0 + 1e-12]).value == pytest.approx(0.0)
