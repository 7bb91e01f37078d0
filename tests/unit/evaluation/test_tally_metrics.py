"""Metrics against the libraries that define them, and at their edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from oleaster.core.errors import ConfigError
from oleaster.evaluation.metrics import bleu, chrf, exact_match, macro_f1, measure, metrics, micro_f1, rouge_l
from oleaster.evaluation.tally import Tally, mean, ratio

labels = st.sampled_from(["a", "b", "c", "d", "no label"])
answers = st.lists(st.tuples(labels, st.sampled_from(["a", "b", "c"])), min_size=1, max_size=40)


@given(answers)
def test_label_metrics_equal_scikit_learn(pairs):
    predictions, references = (list(side) for side in zip(*pairs, strict=True))
    known = sorted(set(references))
    for metric, average in ((macro_f1, "macro"), (micro_f1, "micro")):
        expected = f1_score(references, predictions, labels=known, average=average, zero_division=0)
        assert metric(predictions, references).value == pytest.approx(expected)
    accuracy = measure("accuracy", predictions, references)
    assert isinstance(accuracy, Tally)
    assert accuracy.value == pytest.approx(accuracy_score(references, predictions))


@given(answers, st.integers(0, 9))
def test_weights_stand_for_repeated_rows(pairs, seed):
    """What the bootstrap rests on: the figure of weighted counts is the figure of the rows so often repeated."""
    weights = np.random.default_rng(seed).integers(0, 3, len(pairs))
    repeated = [pair for pair, n in zip(pairs, weights, strict=True) for _ in range(n)]
    if not repeated:
        return
    whole = macro_f1([p for p, _ in pairs], [r for _, r in pairs])
    direct = macro_f1([p for p, _ in repeated], [r for _, r in repeated])
    kept = {r for _, r in repeated}
    if {p for p, _ in repeated} & ({r for _, r in pairs} - kept):
        return  # answers that are no reference of the smaller set: another set of labels
    assert float(whole.figure(weights @ whole.rows)) == pytest.approx(direct.value)


def test_exact_match_forgives_white_space_at_the_ends_only_and_takes_any_reference():
    found = exact_match([" yes\n", "Yes", "a  b", "two"], ["yes", "yes", "a b", ["one", "two "]])
    assert found.rows[:, 0].tolist() == [1, 0, 0, 1]
    assert found.is_share


def test_bleu_equals_the_corpus_figure_of_sacrebleu():
    from sacrebleu.metrics import BLEU

    predictions = ["the cat sat on the mat today", "a dog", "there is nothing to see here"]
    references = [["the cat sat on a mat today", "a cat was on the mat"], ["the dog", "a dog"], ["nothing here", "x"]]
    expected = BLEU().corpus_score(predictions, [list(side) for side in zip(*references, strict=True)]).score
    found = bleu(predictions, references)
    assert found.value == pytest.approx(expected)
    assert found.figure(np.stack([found.rows.sum(0), found.rows[0]])).shape == (2,)


def test_chrf_and_rouge_are_full_for_equal_texts_of_any_alphabet_and_take_the_best_reference():
    texts = ["Zażółć gęślą jaźń", "猫は マット の上"]
    assert chrf(texts, texts).value == pytest.approx(100)
    assert rouge_l(texts, texts).value == pytest.approx(1)
    assert rouge_l(["a b c d"], [["x", "a c d"]]).value == pytest.approx(2 * 0.75 * 1 / 1.75)


def test_a_plug_in_may_return_numbers_per_row_or_one_number_but_not_another_count():
    name = "test_length_only"
    if name not in metrics:
        metrics.register(name)(lambda predictions, references: [float(len(p)) for p in predictions])
        metrics.register("test_single")(lambda predictions, references: 0.25)
        metrics.register("test_short")(lambda predictions, references: [1.0])
    found = measure(name, ["ab", "abcd"], ["", ""])
    assert isinstance(found, Tally)
    assert found.value == 3.0
    assert measure("test_single", ["ab"], [""]) == 0.25
    with pytest.raises(ConfigError, match=r"'test_short' returned 1 numbers for 2 rows"):
        measure("test_short", ["a", "b"], ["", ""])


def test_an_unknown_metric_is_answered_with_the_near_name():
    with pytest.raises(ConfigError, match="did you mean 'exact_match'"):
        measure("exactmatch", ["a"], ["a"])


def test_a_ratio_weighs_rows_by_their_counts():
    assert ratio([10, 1], [10, 1], "").value == 1.0
    assert ratio([10, 0], [10, 30], "").value == 0.25
    assert mean([1.0, 0.0], "").value == 0.5
