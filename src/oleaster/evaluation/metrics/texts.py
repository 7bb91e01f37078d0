"""Metrics of free text against reference texts: BLEU, chrF, ROUGE."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from oleaster.evaluation.metrics.labels import texts
from oleaster.evaluation.metrics.registry import Reference, metrics, needs_library
from oleaster.evaluation.tally import Floats, Tally, mean

_SPACELESS = re.compile("(CJK|HIRAGANA|KATAKANA|THAI|LAO|KHMER|MYANMAR) ")
_NOTED = 0.02
"""Share of the letters from which on a script is worth a note."""


@metrics.register("chrf")
@needs_library("sacrebleu")
def chrf(predictions: Sequence[str], references: Sequence[Reference]) -> Tally:
    """Corpus chrF2 of sacrebleu (character n-grams up to 6, beta 2; Popović 2015), 0 to 100; the best reference counts.

    For translation, good with inflected languages such as Polish. Misleads on meaning: a negation is a few characters.
    """
    from sacrebleu.metrics.chrf import CHRF

    scorer: Any = CHRF()
    asked = [prediction.strip() for prediction in predictions]
    # Its own counts of each row, so that sums of rows are scored exactly as it scores a corpus.
    rows = scorer._extract_corpus_statistics(asked, _streams(references))
    return Tally(np.array(rows, np.float64), _chrf, "chrF")


@metrics.register("bleu")
@needs_library("sacrebleu")
def bleu(predictions: Sequence[str], references: Sequence[Reference]) -> Tally:
    """Corpus BLEU of sacrebleu (4-grams, tokenizer 13a, exponential smoothing; Post 2018), 0 to 100.

    For translation of whole texts. Misleads on short answers (no 4-grams to match) and on languages written without
    spaces; two systems are comparable only on the same rows.
    """
    from sacrebleu.metrics.bleu import BLEU

    scorer = BLEU(effective_order=True)
    pairs = zip(predictions, references, strict=True)
    found = [scorer.sentence_score(p.strip(), texts(r)) for p, r in pairs]
    rows = np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in found], np.float64)

    def corpus(sums: list[int]) -> float:
        return scorer.compute_bleu(sums[:4], sums[4:8], sums[8], sums[9], smooth_method="exp").score

    def figure(sums: Floats) -> Floats:
        return np.apply_along_axis(lambda one: corpus(one.astype(int).tolist()), -1, sums)

    return Tally(rows, figure, "BLEU", note=_spaceless_note(references))


@metrics.register("rouge_1")
@needs_library("rouge_score")
def rouge_1(predictions: Sequence[str], references: Sequence[Reference]) -> Tally:
    """Mean over the rows of ROUGE-1: F1 of the words in common (Lin 2004), 0 to 1; the best reference counts.

    For summaries. Words as in `rouge_l`. Misleads because order does not count: a shuffled summary scores the same.
    """
    return _rouge("rouge1", predictions, references)


@metrics.register("rouge_2")
@needs_library("rouge_score")
def rouge_2(predictions: Sequence[str], references: Sequence[Reference]) -> Tally:
    """Mean over the rows of ROUGE-2: F1 of the pairs of neighbouring words in common, 0 to 1; best reference.

    For summaries. Words as in `rouge_l`. Misleads on answers of one word, which have no pair and score 0.
    """
    return _rouge("rouge2", predictions, references)


@metrics.register("rouge_l")
@needs_library("rouge_score")
def rouge_l(predictions: Sequence[str], references: Sequence[Reference]) -> Tally:
    """Mean over the rows of ROUGE-L: F1 of the longest common subsequence of words (Lin 2004), 0 to 1; best reference.

    For summaries. Words are runs of letters and digits of any alphabet, lower-cased, not stemmed. The tokenizer of
    rouge-score, which published figures come from, keeps only a-z and 0-9 (`zażółć` becomes `za` and nothing else); a
    note says so where that matters. Misleads on paraphrases, and rewards copying.
    """
    return _rouge("rougeL", predictions, references)


class _Words:
    """Tokenizer of rouge-score for every alphabet."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())


def _rouge(kind: str, predictions: Sequence[str], references: Sequence[Reference]) -> Tally:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([kind], tokenizer=_Words())
    found = [scorer.score_multi(texts(r), p)[kind].fmeasure for p, r in zip(predictions, references, strict=True)]
    tally = mean(found, "F1")
    letters = [c for reference in references for text in texts(reference) for c in text.lower() if c.isalnum()]
    lost = sum(not c.isascii() for c in letters) / max(len(letters), 1)
    note = f"the original tokenizer would drop {lost:.0%} of the letters of these references; ours keeps them, so "
    note += "published figures of such texts are not comparable"
    return Tally(tally.rows, tally.figure, tally.unit, note=note if lost > _NOTED else "")


def _spaceless_note(references: Sequence[Reference]) -> str:
    letters = [c for reference in references for text in texts(reference) for c in text if c.isalpha()]
    share = sum(bool(_SPACELESS.match(unicodedata.name(c, ""))) for c in letters) / max(len(letters), 1)
    if share <= _NOTED:
        return ""
    return f"{share:.0%} of the letters are of a script written without spaces, which BLEU's words do not fit; use chrf"


def _chrf(sums: Floats) -> Floats:
    """From [..., 3 * 6] n-grams of the answers, of the references and in common, per order, as sacrebleu defines it:
    precision and recall are averaged over the orders that occur, and make F2."""
    answered, wanted, common = sums[..., 0::3], sums[..., 1::3], sums[..., 2::3]
    occurs = (answered > 0) & (wanted > 0)
    orders = np.maximum(occurs.sum(-1), 1)
    precision = np.divide(common, answered, out=np.zeros_like(common), where=occurs).sum(-1) / orders
    recall = np.divide(common, wanted, out=np.zeros_like(common), where=occurs).sum(-1) / orders
    both = 4 * precision + recall
    return np.divide(100 * 5 * precision * recall, both, out=np.zeros_like(both), where=both > 0)


def _streams(references: Sequence[Reference]) -> list[list[str | None]]:
    """sacrebleu's form of several references: a list per place, None where a row has fewer."""
    listed = [texts(reference) for reference in references]
    return [[row[i] if i < len(row) else None for row in listed] for i in range(max(map(len, listed)))]
