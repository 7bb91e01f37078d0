"""Do the intervals hold what they promise? Coverage on simulated data, and known values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from oleaster.evaluation.intervals import (
    compare_tallies,
    differences,
    interval,
    mcnemar,
    resamples,
    rounded,
    rows_for_mcnemar,
    wilson,
)
from oleaster.evaluation.metrics.labels import macro_f1
from oleaster.evaluation.tally import Tally, mean, ratio, share


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_scipy(case):
    hits, count = case
    expected = binomtest(hits, count).proportion_ci(method="wilson")
    assert wilson(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_equals_scipys_binomial_test(lost, won):
    expected = binomtest(won, lost + won, 0.5).pvalue if lost + won else 1.0
    assert mcnemar(lost, won) == pytest.approx(expected)


@pytest.mark.parametrize("count", [20, 200])
def test_the_interval_of_a_mean_covers_the_truth_in_95_of_100_samples(count):
    source = np.random.default_rng(1)
    samples = [source.gamma(2.0, 1.0, count) for _ in range(200)]
    found = [interval(mean(list(sample), "")) for sample in samples]
    assert 0.91 <= np.mean([i is not None and i.low <= 2.0 <= i.high for i in found]) <= 0.99


def test_the_interval_of_a_loss_per_token_covers_the_truth_though_tokens_of_a_row_resemble_each_other():
    source = np.random.default_rng(2)

    def sample() -> Tally:
        level, count = source.gamma(4.0, 0.25, 100), source.integers(1, 30, 100)
        return ratio(list(level * count), list(count), "nats/token")

    found = [interval(sample()) for _ in range(200)]
    assert 0.91 <= np.mean([i is not None and i.low <= 1.0 <= i.high for i in found]) <= 0.99


def test_the_interval_of_f1_covers_the_truth():
    source = np.random.default_rng(3)

    def sample(count: int) -> Tally:
        references = source.integers(0, 3, count)
        predictions = np.where(source.random(count) < 0.8, references, source.integers(0, 3, count))
        return macro_f1([str(p) for p in predictions], [str(r) for r in references])

    truth = sample(100_000).value
    found = [interval(sample(150)) for _ in range(100)]
    assert 0.89 <= np.mean([i is not None and i.low <= truth <= i.high for i in found]) <= 0.99


def test_equal_models_are_called_different_in_about_5_of_100_comparisons_at_most():
    source = np.random.default_rng(4)
    verdicts = []
    for _ in range(200):
        hard = source.random(100)
        first, second = (source.random(100) > hard * 0.4 for _ in range(2))
        verdicts.append(compare_tallies(share(list(first)), share(list(second))).verdict)
    assert verdicts.count("not distinguishable") >= 188


def test_the_verdict_follows_the_direction_of_the_metric():
    low, high = [1.0, 1.1, 0.9, 1.2] * 10, [2.0, 2.2, 1.9, 2.1] * 10
    assert compare_tallies(mean(low, ""), mean(high, "")).verdict == "better"
    loss = compare_tallies(mean(low, "", lower_is_better=True), mean(high, "", lower_is_better=True))
    assert loss.verdict == "worse"
    assert loss.interval.low <= 1.0 <= loss.interval.high
    assert loss.second - loss.first == pytest.approx(1.0)


def test_pairing_finds_what_two_separate_intervals_would_hide():
    hard = np.random.default_rng(5).gamma(1.0, 5.0, 100)
    first, second = mean(list(hard), ""), mean(list(hard + 0.1), "")
    alone = interval(first), interval(second)
    assert alone[0] is not None
    assert alone[1] is not None
    assert alone[0].high > alone[1].low
    assert compare_tallies(first, second).verdict == "better"


def test_few_rows_say_so():
    found = compare_tallies(share([True, False, True]), share([True, True, True]))
    assert str(found).startswith("not distinguishable with 3 rows; would need about 22 (+0.3333, 95 % ")
    assert interval(mean([1.0], "")) is None
    single = compare_tallies(mean([1.0], ""), mean([2.0], ""))
    assert (single.verdict, single.interval.low) == ("not distinguishable", -math.inf)
    with pytest.raises(ValueError, match="3 rows against 1"):
        compare_tallies(share([True] * 3), share([True]))


@pytest.mark.parametrize(("lost", "won"), [(0.02, 0.07), (0.15, 0.25)])
def test_with_the_rows_it_would_need_a_difference_of_shares_is_found_four_times_in_five(lost, won):
    needed = rows_for_mcnemar(lost, won)
    assert needed is not None
    drawn = np.random.default_rng(7).multinomial(needed, [lost, won, 1 - lost - won], 2000)
    assert 0.75 <= np.mean([mcnemar(int(a), int(b)) < 0.05 for a, b, _ in drawn]) <= 0.85
    assert rows_for_mcnemar(won, lost) == needed
    assert rows_for_mcnemar(0.1, 0.1) is None


def test_with_the_rows_it_would_need_a_difference_of_means_is_found_four_times_in_five():
    noise = np.random.default_rng(8).standard_normal(100)
    noise = (noise - noise.mean()) / noise.std()
    needed = compare_tallies(mean([0.0] * 100, ""), mean(list(0.15 + noise), "")).needed
    assert needed == pytest.approx((2.8 / 0.15) ** 2, rel=0.1)
    assert compare_tallies(mean([0.0] * 9, ""), mean([0.0] * 9, "")).needed is None
    assert [rounded(n) for n in (7, 22, 341, 1_900, 1_901)] == [7, 22, 350, 1_900, 2_000]


def test_many_metrics_are_compared_on_the_same_resamples_as_one():
    source = np.random.default_rng(9)
    first = {"a": mean(list(source.random(30)), ""), "b": mean(list(source.random(20)), "")}
    second = {"a": mean(list(source.random(30)), ""), "b": mean(list(source.random(20)), "")}
    both = differences(first, second)
    assert both == {name: compare_tallies(first[name], second[name]) for name in first}


@given(st.integers(1, 50), st.integers(0, 3))
def test_a_resample_draws_as_many_rows_as_there_are(count, seed):
    weights = np.concatenate(list(resamples(count, seed)))
    assert (weights.sum(axis=1) == count).all()
    assert len(weights) == 2000


def test_the_same_rows_give_the_same_interval_in_blocks_too():
    values = mean(list(np.random.default_rng(6).random(3000)), "")
    assert interval(values) == interval(values)
