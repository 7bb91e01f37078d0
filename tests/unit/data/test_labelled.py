"""Rows of tagged words and of pairs: what they become, and what is refused."""

import pytest

from oleaster.data.cells import BadRowError
from oleaster.data.labelled import pair_row

COLUMNS = ("sentence1", "sentence2", "score")


def pair(**cells):
    return {"sentence1": "a dog", "sentence2": "a cat", "score": 1.5} | cells


def test_the_score_of_a_pair_is_its_answer():
    example = pair_row(COLUMNS, pair(score="4"), "f:1")
    assert (example.text_parts, example.target) == ((("a dog", False), ("a cat", False)), "4.0")


@pytest.mark.parametrize("score", ["much", True, None, "nan", float("inf")])
def test_a_score_that_is_no_finite_number_makes_a_bad_row(score):
    with pytest.raises(BadRowError, match="'score' is"):
        pair_row(COLUMNS, pair(score=score), "f:1")


def test_an_empty_text_makes_a_bad_row():
    with pytest.raises(BadRowError, match="'sentence2' is empty"):
        pair_row(COLUMNS, pair(sentence2=" "), "f:1")
