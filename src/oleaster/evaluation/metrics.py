"""Measures of answers against references: plain functions in one table, `metrics`.

A metric takes (predictions, references), one of each per row, a reference being a text or a list of acceptable texts.
It returns a `Tally`, or one number per row (reported as their mean), or one number for all rows (reported without an
interval). A plug-in enters its own with `@metrics.register("name")`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from oleaster.core.errors import ConfigError, MissingExtraError
from oleaster.core.registry import Registry
from oleaster.evaluation.tally import Floats, Tally, mean, share

Reference = str | Sequence[str]
Metric = Callable[[Sequence[str], Sequence[Reference]], Tally | Sequence[float] | float]

metrics: Registry[Metric] = Registry("metric")


def measure(name: str, predictions: Sequence[str], references: Sequence[Reference]) -> Tally | float:
    """The metric `name` on these rows; numbers per row become a `Tally` of their mean.

    Raises:
        ConfigError: there is no such metric, or it returned another count of numbers than there are rows.
    """
    found = metrics.get(name)(predictions, references)
    if isinstance(found, (Tally, int, float)):
        return found
    if len(found) != len(predictions):
        raise ConfigError(
            f"the metric '{name}' returned {len(found)} numbers for {len(predictions)} rows",
            remedy="return one number per row, or a single number",
        )
    return mean(found, "")


@metrics.register("exact_match")
def exact_match(predictions: Sequence[str], references: Sequence[Reference]) -> Tally:
    """Share of answers equal to a reference, white space at both ends aside; case and punctuation count.

    Misleads where one meaning has many wordings: a right answer in other words counts as wrong.
    """
    return _hits(predictions, references)


@metrics.register("accuracy")
def accuracy(predictions: Sequence[str], references: Sequence[Reference]) -> Tally:
    """Share of rows with the right label. An answer that is no label at all is wrong, never left out.

    Misleads where one label is frequent: always answering it scores its frequency. Compare with `macro_f1`.
    """
    return _hits(predictions, references)


@metrics.register("macro_f1")
def macro_f1(predictions: Sequence[str], references: Sequence[Reference]) -> Tally:
    """F1 of each label (harmonic mean of precision and recall), averaged over the labels of the references, 0 to 1.

    Every label weighs the same, so rare ones count. Misleads with a few rows per label: each of them then moves its
    label's F1 by a large step, and the interval is wide.
    """
    return Tally(_label_counts(predictions, references), _macro_f1, "F1")


@metrics.register("micro_f1")
def micro_f1(predictions: Sequence[str], references: Sequence[Reference]) -> Tally:
    """F1 over all decisions together, 0 to 1; answers outside the references' labels only lower the recall.

    With every answer a known label it equals accuracy, and misleads in the same way.
    """
    return Tally(_label_counts(predictions, references), _micro_f1, "F1")


@metrics.register("chrf")
def chrf(predictions: Sequence[str], references: Sequence[Reference]) -> Tally:
    """Mean over the rows of sentence chrF (character n-grams up to 6, beta 2; Popović 2015), 0 to 100.

    For translation, good with inflected languages. Published figures are corpus chrF, which weighs long rows more:
    do not compare with them.
    """
    scorer = _extra("sacrebleu.metrics", "CHRF")()
    pairs = zip(predictions, references, strict=True)
    return mean([scorer.sentence_score(p.strip(), texts(r)).score for p, r in pairs], "chrF")


@metrics.register("bleu")
def bleu(predictions: Sequence[str], references: Sequence[Reference]) -> Tally:
    """Corpus BLEU of sacrebleu (4-grams, tokenizer 13a, exponential smoothing; Post 2018), 0 to 100.

    For translation of whole texts. Misleads on short answers (no 4-grams to match) and on languages written without
    spaces; two systems are comparable only on the same rows.
    """
    scorer = _extra("sacrebleu.metrics", "BLEU")(effective_order=True)
    pairs = zip(predictions, references, strict=True)
    found = [scorer.sentence_score(p.strip(), texts(r)) for p, r in pairs]
    rows = np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in found], np.float64)

    def figure(sums: Floats) -> Floats:
        def corpus(one: Floats) -> float:
            n = one.astype(int).tolist()
            return scorer.compute_bleu(n[:4], n[4:8], n[8], n[9], smooth_method="exp").score

        return np.apply_along_axis(corpus, -1, sums)

    return Tally(rows, figure, "BLEU")


@metrics.register("rouge_l")
def rouge_l(predictions: Sequence[str], references: Sequence[Reference]) -> Tally:
    """Mean over the rows of ROUGE-L: F1 of the longest common subsequence of words (Lin 2004), 0 to 1; best reference.

    For summaries. Words are runs of letters and digits of any alphabet, lower-cased, not stemmed (the original keeps
    only a-z and 0-9). Misleads on paraphrases, and rewards copying.
    """
    scorer = _extra("rouge_score.rouge_scorer", "RougeScorer")(["rougeL"], tokenizer=_Words())
    pairs = zip(predictions, references, strict=True)
    return mean([scorer.score_multi(texts(r), p)["rougeL"].fmeasure for p, r in pairs], "F1")


def texts(reference: Reference) -> list[str]:
    """The acceptable texts of a reference, without white space at their ends."""
    return [reference.strip()] if isinstance(reference, str) else [text.strip() for text in reference]


def hit(prediction: str, reference: Reference) -> bool:
    """Is the prediction one of the acceptable texts?"""
    return prediction.strip() in texts(reference)


def _hits(predictions: Sequence[str], references: Sequence[Reference]) -> Tally:
    return share([hit(p, r) for p, r in zip(predictions, references, strict=True)])


class _Words:
    """Tokenizer of rouge-score for every alphabet."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())


def _label_counts(predictions: Sequence[str], references: Sequence[Reference]) -> Floats:
    """[rows, 3 * labels]: per label hit, answered, wanted. A row with several references has the label it hit, else the
    first one."""
    wanted = [p.strip() if hit(p, r) else texts(r)[0] for p, r in zip(predictions, references, strict=True)]
    columns = {label: i for i, label in enumerate(sorted(set(wanted)))}
    counts = np.zeros((len(wanted), 3, len(columns)))
    for row, (prediction, label) in enumerate(zip(predictions, wanted, strict=True)):
        counts[row, 2, columns[label]] = 1
        if (answered := columns.get(prediction.strip())) is not None:
            counts[row, 1, answered] = 1
            counts[row, 0, answered] = answered == columns[label]
    return counts.reshape(len(wanted), -1)


def _macro_f1(sums: Floats) -> Floats:
    hits, answered, wanted = np.split(sums, 3, axis=-1)
    seen = answered + wanted > 0  # a resample may miss a label altogether
    return np.divide(2 * hits, answered + wanted, out=np.zeros_like(hits), where=seen).sum(-1) / seen.sum(-1)


def _micro_f1(sums: Floats) -> Floats:
    hits, answered, wanted = np.split(sums, 3, axis=-1)
    return 2 * hits.sum(-1) / (answered + wanted).sum(-1)


def _extra(module: str, name: str) -> Any:
    from importlib import import_module

    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise MissingExtraError(f"{package} is not installed", remedy="pip install 'oleaster[metrics]'") from error
