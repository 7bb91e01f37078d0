"""JSON and entities: seqeval's figures for tags, and the edges of both forms."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score

from oleaster.core.errors import DataError
from oleaster.evaluation.metrics.structure import entity_f1, json_match, json_validity

tag = st.sampled_from(["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"])
sentence = st.integers(1, 8).flatmap(lambda n: st.tuples(*[st.lists(tag, min_size=n, max_size=n)] * 2))


@given(st.lists(sentence, min_size=1, max_size=6))
def test_entities_of_tags_are_counted_as_seqeval_counts_them(sentences):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # seqeval warns where there is no entity at all
        expected = f1_score([wanted for wanted, _ in sentences], [answered for _, answered in sentences])
    found = entity_f1([" ".join(a) for _, a in sentences], [" ".join(w) for w, _ in sentences])
    assert found.value == pytest.approx(expected)


def test_entities_of_json_are_kind_and_text_as_often_as_they_occur():
    references = ['{"person": ["Ada", "Ada"], "place": ["Łódź"]}', "{}", '{"person": ["Bo"]}']
    answers = ['{"place": ["Łódź "], "person": ["Ada"]}', '{"person": ["Cy"]}', "Bo is a person"]
    found = entity_f1(answers, references)
    assert found.rows.tolist() == [[2, 2, 3], [0, 1, 0], [0, 0, 1]]
    assert found.value == pytest.approx(2 * 2 / (3 + 4))


def test_a_reference_that_is_not_of_the_form_is_refused_and_an_answer_is_wrong():
    assert entity_f1(["Ada is B-PER"], ["B-PER O O"]).value == 0.0
    with pytest.raises(DataError, match="cannot read the reference 'Ada'"):
        entity_f1(["O", "O"], ["O", "Ada"])
    with pytest.raises(DataError, match="cannot read the reference"):
        entity_f1(["{}", "{}"], ["{}", "O O"])


def test_json_is_valid_only_when_it_is_json_and_nothing_else():
    valid = ['{"a": [1, null]}', " 3 ", '"text"', "{}"]
    invalid = ["", "{'a': 1}", "```json\n{}\n```", '{"a": NaN}', '{"a": 1', "{} and more", "[" * 100_000]
    assert json_validity(valid).value == 1.0
    assert json_validity(invalid).value == 0.0


def test_json_matches_whatever_the_order_of_keys_but_not_another_type():
    reference = '{"a": 1, "b": [true, 2]}'
    assert json_match(['{ "b":[true,2],"a":1.0 }'], [reference]).value == 1.0
    for other in ('{"a": 1, "b": [2, true]}', '{"a": "1", "b": [true, 2]}', '{"a": 1, "b": [1, 2]}', "no JSON", "{}"):
        assert json_match([other], [reference]).value == 0.0
    assert json_match(["no JSON"], ["no JSON"]).value == 0.0
