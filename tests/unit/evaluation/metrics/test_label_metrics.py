"""Metrics of labels against scikit-learn, and at their edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from oleaster.evaluation.metrics import measure
from oleaster.evaluation.metrics.labels import exact_match, f1_per_label, macro_f1, micro_f1, outside_labels
from oleaster.evaluation.tally import Tally

labels = st.sampled_from(["a", "b", "c", "d", "no label"])
answers = st.lists(st.tuples(labels, st.sampled_from(["a", "b", "c"])), min_size=1, max_size=40)


@given(answers)
def test_label_metrics_equal_scikit_learn(pairs):
    predictions, references = (list(side) for side in zip(*pairs, strict=True))
    known = sorted(set(references))
    for metric, average in ((macro_f1, "macro"), (micro_f1, "micro")):
        expected = f1_score(references, predictions, labels=known, average=average, zero_division=0)
        assert metric(predictions, references).value == pytest.approx(expected)
    each = f1_score(references, predictions, labels=known, average=None, zero_division=0)
    found = f1_per_label(predictions, references)
    assert list(found) == known
    assert [tally.value for tally in found.values()] == pytest.approx(each.tolist())
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
    assert float(whole.figures(weights[None])[0]) == pytest.approx(direct.value)


def test_exact_match_forgives_white_space_at_the_ends_only_and_takes_any_reference():
    found = exact_match([" yes\n", "Yes", "a  b", "two"], ["yes", "yes", "a b", ["one", "two "]])
    assert found.rows[:, 0].tolist() == [1, 0, 0, 1]
    assert found.is_share


def test_an_answer_that_is_a_label_of_the_task_but_of_no_reference_is_not_outside():
    found = outside_labels(["yes ", "maybe", "what?"], ["yes", "no", "no"], ["yes", "no", "maybe"])
    assert found.value == pytest.approx(1 / 3)
    assert outside_labels(["maybe"], ["no"], []).value == 1.0
