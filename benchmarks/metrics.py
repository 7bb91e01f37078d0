"""Are the metrics those of the libraries that define them, and do 95 % intervals hold the truth 95 times in 100?

    python benchmarks/metrics.py [--quick] [--data FOLDER]

The first part takes answers of simple kinds (the document's first sentence as its summary, words left out of a
translation, shared words as the likeness of two sentences, labels and tags changed at random) on real rows below
`--data` (or $OLEASTER_DATA), and needs the extra `dev`. The second draws sets of rows from distributions whose true
figure is known.

Ends with one JSON line: compared, equal (figures), largest_difference, coverage_min, coverage_max (share of the
intervals that hold the truth, over kinds of figures and numbers of rows), false_alarms (share of comparisons of two
equally good models that call one better; 0.05 is allowed).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from oleaster.evaluation.intervals import compare_tallies, interval
from oleaster.evaluation.metrics import measure
from oleaster.evaluation.metrics.labels import macro_f1
from oleaster.evaluation.metrics.likelihood import perplexity
from oleaster.evaluation.metrics.numbers import spearman
from oleaster.evaluation.tally import Tally, mean, share

Check = tuple[str, str, float, float]
"""What, on which rows, ours, theirs."""


def main() -> None:
    """Compare, simulate, end with the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows and simulations (under 60 s)")
    parser.add_argument("--data", type=Path, default=os.environ.get("OLEASTER_DATA"), help="folder with the sets")
    given = parser.parse_args()
    found: list[Check] = []
    if given.data is None:
        print("no --data: figures are not compared\n")
    else:
        found = list(checks(Path(given.data), 200 if given.quick else 1000))
        print(f"{'metric':<16}{'rows':<34}{'ours':>12}{'theirs':>12}{'difference':>12}")
        for name, rows, ours, theirs in found:
            print(f"{name:<16}{rows:<34}{ours:>12.6f}{theirs:>12.6f}{abs(ours - theirs):>12.1e}")
    times = 300 if given.quick else 2000
    print(f"\n{'intervals':<16}{'rows':>6}{'hold the truth':>18}   ({times} simulated sets each)")
    held = {}
    for (name, count), (truth, draw) in simulations().items():
        began = time.perf_counter()
        ends = [interval(draw()) for _ in range(times)]
        held[name, count] = float(np.mean([e is not None and e.low <= truth <= e.high for e in ends]))
        print(f"{name:<16}{count:>6}{held[name, count]:>18.1%}   {time.perf_counter() - began:.0f} s")
    alarms = false_alarms(times)
    print(f"\ntwo equally good models, 100 rows: one is called better in {alarms:.1%} of {times} comparisons\n")
    equal = [math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-9) for _, _, ours, theirs in found]
    line = {
        "compared": len(found),
        "equal": sum(equal),
        "largest_difference": max((abs(ours - theirs) for _, _, ours, theirs in found), default=None),
        "coverage_min": min(held.values()),
        "coverage_max": max(held.values()),
        "false_alarms": alarms,
    }
    print(json.dumps(line))


def checks(data: Path, most: int) -> Iterator[Check]:
    """Each metric on at most `most` rows of a set, ours and the library's."""
    warnings.simplefilter("ignore")
    source = random.Random(0)
    yield from labels(read(data / "classification_clinc150", most), source)
    yield from translations(read(data / "translation_ntrex_en_pl", most), "ntrex, words left out", source)
    yield from translations(read(data / "translation_tatoeba_en_pl", most), "tatoeba, words left out", source)
    yield from summaries(read(data / "summarisation_scitldr", most))
    for name in ("extraction_wnut17", "extraction_wikigold"):
        yield from entities(read(data / name, most), name, source)
    yield from likeness(read(data / "sentence_pairs_stsb_captions", most))


def labels(rows: list[dict[str, Any]], source: random.Random) -> Iterator[Check]:
    """A fifth of the labels changed, against scikit-learn."""
    from sklearn.metrics import accuracy_score, f1_score

    wanted = [row["intent"] for row in rows]
    answered = [source.choice(wanted) if source.random() < 0.2 else label for label in wanted]
    known = sorted(set(wanted))
    yield "accuracy", "clinc150, labels changed", ours("accuracy", answered, wanted), accuracy_score(wanted, answered)
    for average in ("macro", "micro"):
        theirs = f1_score(wanted, answered, labels=known, average=average, zero_division=0)
        yield f"{average}_f1", "clinc150, labels changed", ours(f"{average}_f1", answered, wanted), float(theirs)


def translations(rows: list[dict[str, Any]], name: str, source: random.Random) -> Iterator[Check]:
    """A fifth of the words left out, against sacrebleu and rouge-score (with a tokenizer that knows Polish)."""
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU, CHRF

    from oleaster.evaluation.metrics.texts import _Words

    wanted = [row["pl"] for row in rows]
    answered = [" ".join(word for word in text.split() if source.random() > 0.2) for text in wanted]
    yield "bleu", name, ours("bleu", answered, wanted), BLEU().corpus_score(answered, [wanted]).score
    yield "chrf", name, ours("chrf", answered, wanted), CHRF().corpus_score(answered, [wanted]).score
    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    theirs = [scorer.score(w, a)["rougeL"].fmeasure for w, a in zip(wanted, answered, strict=True)]
    yield "rouge_l", name, ours("rouge_l", answered, wanted), float(np.mean(theirs))


def summaries(rows: list[dict[str, Any]]) -> Iterator[Check]:
    """The first sentence against all reference summaries, with rouge-score as it comes where the texts are ASCII."""
    from rouge_score.rouge_scorer import RougeScorer

    plain = [row for row in rows if all(text.isascii() for text in (row["document"], *row["references"]))]
    wanted, answered = [row["references"] for row in plain], [row["document"].split(". ")[0] for row in plain]
    words = lambda text: text.replace("_", " ")  # noqa: E731  # the one ASCII sign the tokenizers part at differently
    wanted, answered = [[words(text) for text in texts] for texts in wanted], list(map(words, answered))
    for ours_name, theirs_name in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        scorer = RougeScorer([theirs_name])
        theirs = [scorer.score_multi(w, a)[theirs_name].fmeasure for w, a in zip(wanted, answered, strict=True)]
        yield ours_name, "scitldr, first sentence", ours(ours_name, answered, wanted), float(np.mean(theirs))


def entities(rows: list[dict[str, Any]], name: str, source: random.Random) -> Iterator[Check]:
    """A tenth of the tags changed (which leaves I- without B-), against seqeval."""
    from seqeval.metrics import f1_score

    wanted = [row["tags"] for row in rows]
    kinds = sorted({tag for tags in wanted for tag in tags})
    answered = [[source.choice(kinds) if source.random() < 0.1 else tag for tag in tags] for tags in wanted]
    joined = [[" ".join(tags) for tags in side] for side in (answered, wanted)]
    yield "entity_f1", f"{name}, tags changed", ours("entity_f1", *joined), float(f1_score(wanted, answered))


def likeness(rows: list[dict[str, Any]]) -> Iterator[Check]:
    """Share of words in common as the likeness of two sentences, against scipy."""
    from scipy.stats import spearmanr

    pairs = [(set(row["sentence1"].lower().split()), set(row["sentence2"].lower().split())) for row in rows]
    answered = [len(a & b) / len(a | b) for a, b in pairs]
    wanted = [row["score"] for row in rows]
    theirs = float(spearmanr(answered, wanted).statistic)
    yield (
        "spearman",
        "stsb, words in common",
        ours("spearman", list(map(repr, answered)), list(map(str, wanted))),
        theirs,
    )


def ours(name: str, answered: list[str], wanted: list[Any]) -> float:
    """The figure of the house."""
    found = measure(name, answered, wanted)
    assert isinstance(found, Tally)
    return found.value


def read(folder: Path, most: int) -> list[dict[str, Any]]:
    """The first rows of a set's test split."""
    with (folder / "test.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line, _ in zip(lines, range(most), strict=False)]


def simulations() -> dict[tuple[str, int], tuple[float, Callable[[], Tally]]]:
    """(figure, rows) -> its true value and a way to draw a set of rows."""
    source = np.random.default_rng(0)

    def shares(count: int, truth: float) -> Callable[[], Tally]:
        return lambda: share((source.random(count) < truth).tolist())

    def skewed(count: int) -> Callable[[], Tally]:
        return lambda: mean(source.gamma(2.0, 1.0, count).tolist(), "")

    def perplexities(count: int) -> Callable[[], Tally]:
        def draw() -> Tally:
            level, targets = source.gamma(4.0, 0.25, count), source.integers(1, 30, count)
            return perplexity((level * targets).tolist(), targets.tolist())

        return draw

    def f1(count: int) -> Callable[[], Tally]:
        def draw() -> Tally:
            wanted = source.choice(4, count, p=[0.4, 0.3, 0.2, 0.1])
            answered = np.where(source.random(count) < 0.75, wanted, source.integers(0, 4, count))
            return macro_f1(answered.astype(str).tolist(), wanted.astype(str).tolist())

        return draw

    def ranks(count: int) -> Callable[[], Tally]:
        def draw() -> Tally:
            first = source.standard_normal(count)
            second = 0.6 * first + 0.8 * source.standard_normal(count)
            return spearman(list(map(repr, first.tolist())), list(map(repr, second.tolist())))

        return draw

    made: dict[tuple[str, int], tuple[float, Callable[[], Tally]]] = {
        ("share of 70 %", 50): (0.7, shares(50, 0.7)),
        ("share of 95 %", 200): (0.95, shares(200, 0.95)),
    }
    for count in (50, 200):
        made["mean", count] = (2.0, skewed(count))
        made["perplexity", count] = (math.e, perplexities(count))
        made["macro F1", count] = (f1(1_000_000)().value, f1(count))
        made["spearman", count] = (6 / math.pi * math.asin(0.6 / 2), ranks(count))
    return made


def false_alarms(times: int) -> float:
    """How often one of two models that differ by chance alone is called better or worse."""
    source = np.random.default_rng(1)
    called = 0
    for _ in range(times):
        hard = source.gamma(1.0, 1.0, 100)
        first, second = (mean((hard + 0.5 * source.standard_normal(100)).tolist(), "") for _ in range(2))
        called += compare_tallies(first, second).verdict != "not distinguishable"
    return called / times


if __name__ == "__main__":
    main()
