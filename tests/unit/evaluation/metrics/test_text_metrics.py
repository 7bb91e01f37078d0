"""BLEU, chrF and ROUGE against the libraries that define them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from oleaster.evaluation.metrics.texts import bleu, chrf, rouge_1, rouge_2, rouge_l

PREDICTIONS = ["the cat sat on the mat today", "a dog", "there is nothing to see here", ""]
REFERENCES = [
    ["the cat sat on a mat today", "a cat was on the mat"],
    ["the dog", "a dog"],
    ["nothing here", "x"],
    ["empty answers happen", "y"],
]
STREAMS = [list(side) for side in zip(*REFERENCES, strict=True)]

words = st.lists(st.sampled_from(["the", "Cat", "sat", "żółw", "on", "7", "-", "."]), max_size=8).map(" ".join)


def test_bleu_and_chrf_equal_the_corpus_figures_of_sacrebleu_with_several_references():
    assert bleu(PREDICTIONS, REFERENCES).value == pytest.approx(BLEU().corpus_score(PREDICTIONS, STREAMS).score)
    assert chrf(PREDICTIONS, REFERENCES).value == pytest.approx(CHRF().corpus_score(PREDICTIONS, STREAMS).score)


@settings(max_examples=40)
@given(st.lists(st.tuples(words, words.filter(str.strip)), min_size=1, max_size=6), st.integers(0, 9))
def test_any_resample_is_scored_as_the_library_scores_that_corpus(pairs, seed):
    drawn = np.random.default_rng(seed).integers(0, len(pairs), len(pairs))
    weights = np.bincount(drawn, minlength=len(pairs))[None].astype(float)
    predictions, references = (list(side) for side in zip(*pairs, strict=True))
    repeated = [[p for i in drawn for p in [predictions[i]]], [[references[i] for i in drawn]]]
    assert chrf(predictions, references).figures(weights)[0] == pytest.approx(CHRF().corpus_score(*repeated).score)
    assert bleu(predictions, references).figures(weights)[0] == pytest.approx(BLEU().corpus_score(*repeated).score)


def test_rows_may_have_different_numbers_of_references():
    assert chrf(["a dog", "a cat"], ["a dog", ["x", "a cat", "y"]]).value == pytest.approx(100)


@pytest.mark.parametrize(("metric", "kind"), [(rouge_1, "rouge1"), (rouge_2, "rouge2"), (rouge_l, "rougeL")])
def test_rouge_equals_rouge_score_on_texts_that_its_tokenizer_keeps(metric, kind):
    scorer = RougeScorer([kind])
    expected = [scorer.score_multi(r, p)[kind].fmeasure for p, r in zip(PREDICTIONS, REFERENCES, strict=True)]
    found = metric(PREDICTIONS, REFERENCES)
    assert found.value == pytest.approx(np.mean(expected))
    assert found.note == ""


def test_texts_of_any_alphabet_are_full_when_equal_where_the_original_rouge_sees_none_of_them():
    texts = ["Zażółć gęślą jaźń", "猫は マット の上"]
    assert chrf(texts, texts).value == pytest.approx(100)
    assert rouge_l(texts, texts).value == pytest.approx(1)
    assert RougeScorer(["rougeL"]).score(texts[1], texts[1])["rougeL"].fmeasure == 0.0


def test_a_dropped_script_is_noted():
    polish = ["Zażółć gęślą jaźń"]
    assert rouge_l(polish, polish).note.startswith("the original tokenizer would drop 60% of the letters")
    assert bleu(["猫はマットの上"], ["猫はマットの上にいる"]).note.startswith("100% of the letters")
    assert bleu(polish, polish).note == ""
