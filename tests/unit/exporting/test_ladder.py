"""Every kind of loss is caught on its own rung; what only rounds passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from oleaster.core.errors import FidelityError, ModelError
from oleaster.data.papers import Encoded
from oleaster.exporting.ladder import Ladder, Limits, Rung, require, wilson
from oleaster.inference.predictor import Completion, Sampling

ROWS = [Encoded((1, 2, 3, 4, 5), (3, 4), 3, i) for i in range(20)]
REFERENCES = ["yes"] * 20
LOGITS = np.random.default_rng(0).normal(size=(2, 11)).astype(np.float32)


@dataclass
class Fake:
    """Answers `answer` to the first `right` rows, then something else."""

    logits: np.ndarray = field(default_factory=LOGITS.copy)
    right: int = 20
    stops: int = 20
    stop_ids: tuple[int, ...] = (2,)
    asked: list[int] = field(default_factory=list)

    @property
    def tokenizer(self) -> Fake:
        return self

    def decode(self, token_ids: Sequence[int]) -> str:
        return " ".join(map(str, token_ids))

    def target_logits(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[np.ndarray]:
        return [self.logits] * len(rows)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling = Sampling()) -> list[Completion]:
        self.asked.append(len(prompts))
        return [
            Completion((7,), "yes" if i < self.right else "no", "stop" if i < self.stops else "length")
            for i in range(len(prompts))
        ]


def ladder(limits: Limits = Limits()) -> Ladder:
    made = Ladder(ROWS, REFERENCES, limits)
    assert made.measure(Rung("torch", "torch", Fake)).fault is None
    return made


def shifted(amount: float) -> np.ndarray:
    return LOGITS + amount * np.random.default_rng(1).normal(size=LOGITS.shape).astype(np.float32)


def test_the_first_rung_is_its_own_reference() -> None:
    figures = Ladder(ROWS, REFERENCES, Limits()).measure(Rung("torch", "torch", Fake))
    assert (figures.kl, figures.top1, figures.exact_match, figures.natural_stop) == (0, 1, 1, 1)
    assert figures.positions == 40


def test_rounding_passes_and_a_common_shift_of_all_logits_is_no_difference() -> None:
    figures = ladder().measure(Rung("merged", "merged", lambda: Fake(shifted(1e-5) + 3.0)))
    assert figures.fault is None
    assert figures.max_difference is not None
    assert figures.max_difference < 1e-4


@pytest.mark.parametrize("kind", ["merged", "onnx-fp32"])
def test_exact_rungs_may_lose_nothing(kind: str) -> None:
    figures = ladder().measure(Rung(kind, kind, lambda: Fake(shifted(0.2))))  # pyright: ignore[reportArgumentType]
    assert figures.fault is not None
    assert "KL" in figures.fault
    with pytest.raises(FidelityError, match=f"rung '{kind}'"):
        require(figures)


def test_a_quantised_rung_may_lose_what_is_allowed() -> None:
    rung = Rung("int8", "quantised", lambda: Fake(shifted(0.2), right=19))
    assert ladder(Limits(max_drop=0.1)).measure(rung).fault is None
    assert ladder(Limits(max_drop=0.05)).measure(rung).fault is None  # 1 - 0.95 is more than 0.05 in floating point
    assert ladder(Limits(max_drop=0.01)).measure(rung).fault is None  # one row of twenty says nothing about a point
    assert "exact match falls by 5.0 points" in str(ladder(Limits(max_drop=0.0)).measure(rung).fault)
    two = Rung("int8", "quantised", lambda: Fake(shifted(0.2), right=18))
    assert "exact match falls by 10.0 points, allowed 5.0" in str(ladder(Limits(max_drop=0.01)).measure(two).fault)
    assert "KL" in str(ladder(Limits(max_drop=0.1, max_kl=1e-3)).measure(rung).fault)


def test_logits_that_are_no_numbers_are_a_fault() -> None:
    figures = ladder().measure(Rung("int8", "quantised", lambda: Fake(LOGITS * np.nan)))
    assert "KL nan" in str(figures.fault)


def test_answers_that_no_longer_end_are_the_runtimes_fault() -> None:
    figures = ladder().measure(Rung("genai", "runtime", lambda: Fake(stops=10)))
    assert "50 % of the answers end by themselves" in str(figures.fault)
    assert "stop ids" in str(figures.fault)


def test_prompts_that_become_other_ids_are_the_runtimes_fault() -> None:
    rung = Rung("genai", "runtime", Fake, encode=lambda _, i: (1, 2, 3) if i < 15 else (1, 2, 9))
    assert "25 % of the prompts become other ids" in str(ladder().measure(rung).fault)


def many() -> Ladder:
    rows = [Encoded((1, i, 3, 4, 5), (3, 4), 3, i) for i in range(40)]
    made = Ladder(rows, ["yes"] * 40, Limits(max_drop=1.0))
    made.measure(Rung("torch", "torch", Fake))
    made.measure(Rung("int8", "quantised", lambda: Fake(right=40), weights="a"))
    return made


@pytest.mark.parametrize(
    ("weights", "stop_ids", "right", "asked"),
    [
        ("a", (2,), 40, [25]),  # the same file, the same ids: a part is enough
        ("b", (2,), 40, [40]),  # another file
        ("a", (2, 3), 40, [40]),  # another end
        ("a", (2,), 20, [25, 15]),  # it does not repeat itself: all are asked
    ],
)
def test_what_the_rung_below_answered_is_asked_again_in_part(
    weights: str, stop_ids: tuple[int, ...], right: int, asked: list[int]
) -> None:
    model = Fake(right=right, stop_ids=stop_ids)
    rung = Rung("genai", "runtime", lambda: model, encode=lambda _, i: (1, i, 3), weights=weights)
    figures = many().measure(rung)
    assert model.asked == asked
    assert figures.same_ids == 1
    assert figures.exact_match == (1 if right == 40 else 35 / 40)  # 20 of 25 and all 15 of the second call


def test_what_the_logits_tell_is_not_asked() -> None:
    """Two of four rows: in one the answer is not the likeliest, one does not end with a stop id."""
    rows = [Encoded((1, i, 3, 4 + (i == 1), 2 + (i == 2)), (3, 4), 3, i) for i in range(4)]
    likely = np.zeros((2, 11), np.float32)
    likely[0, 4] = likely[1, 2] = 1.0
    model = Fake(likely, right=2)
    figures = Ladder(rows, ["4", "yes", "yes", "4"], Limits()).measure(Rung("torch", "torch", lambda: model))
    assert model.asked == [2]
    assert figures.exact_match == figures.natural_stop == 1


def test_a_model_that_does_not_load_is_its_rungs_fault() -> None:
    def load() -> Fake:
        raise ModelError("broken contract")

    assert "broken contract" in str(ladder().measure(Rung("genai", "runtime", load)).fault)


def test_without_references_answers_are_shown_but_set_no_limit() -> None:
    free = Ladder(ROWS, None, Limits())
    free.measure(Rung("torch", "torch", Fake))
    figures = free.measure(Rung("int8", "quantised", lambda: Fake(right=5)))
    assert figures.exact_match == 0.25
    assert figures.fault is None


def test_wilson_interval_at_the_ends_and_in_the_middle() -> None:
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-3)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-3)
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-3)
