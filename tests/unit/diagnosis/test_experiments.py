"""What trials are taken to say, with laboratories that compute losses and opinions instead of training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from oleaster.config.load import replace
from oleaster.config.schema import Config
from oleaster.data.papers import Encoded, Example
from oleaster.diagnosis.experiments import Best, _is_hopeless, label_noise, optimisation
from oleaster.reporting.causes import Finding, Opinion, Trial
from oleaster.training.reports import EvalReport

STEPS, BASE, BEST = 40, 7.5, 5e-4


@dataclass
class PaperLaboratory:
    """A loss that is lowest at `BEST`, that of the base far below it, and infinite far above."""

    rate: float
    is_scaled_down: bool = True
    tried: list[tuple[float, int]] = field(default_factory=list)
    """(rate, steps)"""

    @property
    def config(self) -> Config:
        return replace(Config(), learning_rate=self.rate)

    def try_out(
        self,
        name: str,
        changes: dict[str, Any] | None = None,
        *,
        longer: float = 1.0,
        enough: Callable[[EvalReport], bool] = lambda report: False,
    ) -> Trial:
        rate = (changes or {}).get("learning_rate", self.rate)
        away = math.log10(rate / BEST)
        end = BASE if away < -2 else 0.2 * 10 ** (0.7 * abs(away))
        curve = []
        for step in range(5, STEPS + 1, 5):
            curve.append((step, BASE + (end - BASE) * step / STEPS))
            if enough(EvalReport(step, STEPS, 1.0, curve[-1][1], 1.0, 40, 1.0, True)):
                break
        self.tried.append((rate, curve[-1][0]))
        lowest = min(loss for _, loss in curve)
        return Trial(name, lowest, curve[-1][1], lowest, BASE, curve[-1][0], curve[-1][0], tuple(curve))


@pytest.mark.parametrize("rate", [5e-7, 2e-6, 1e-5, 5e-5])
def test_a_rate_that_is_too_low_by_any_order_is_found(rate: float) -> None:
    findings, best = optimisation(PaperLaboratory(rate))  # type: ignore[arg-type]
    assert [finding.cause for finding in findings] == ["learning_rate_low"]
    assert BEST / 3.2 <= findings[0].changes["learning_rate"] <= BEST * 3.2
    assert best.changes == findings[0].changes


def test_a_rate_that_is_too_high_is_found() -> None:
    findings, best = optimisation(PaperLaboratory(1e-2))  # type: ignore[arg-type]
    assert [finding.cause for finding in findings] == ["learning_rate_high"]
    assert best.changes["learning_rate"] < 2e-3


def test_a_good_rate_is_left_alone() -> None:
    laboratory = PaperLaboratory(BEST)
    findings, best = optimisation(laboratory)  # type: ignore[arg-type]
    assert (findings, best.changes) == ([], {})
    assert [rate for rate, _ in laboratory.tried] == pytest.approx([5e-4, 1.5e-3, 1.7e-4])


def test_a_short_trial_with_a_higher_rate_must_be_better_than_the_whole_run() -> None:
    short, whole = PaperLaboratory(5e-5), PaperLaboratory(5e-5, is_scaled_down=False)
    assert optimisation(short, reached=0.1)[0] == []  # type: ignore[arg-type]
    assert optimisation(short, reached=0.5)[0] != []  # type: ignore[arg-type]
    assert optimisation(whole, reached=0.1)[0] != []  # type: ignore[arg-type]


def test_a_trial_that_is_far_behind_half_way_is_hopeless_and_not_before() -> None:
    start = PaperLaboratory(BEST).try_out("as it was")
    assert _is_hopeless(start, EvalReport(20, STEPS, 0.5, BASE, 1.0, 40, 1.0, False))
    assert not _is_hopeless(start, EvalReport(10, STEPS, 0.5, BASE, 1.0, 40, 1.0, False))
    assert not _is_hopeless(start, EvalReport(20, STEPS, 0.5, 1.1 * dict(start.curve)[20], 1.0, 40, 1.0, False))


@dataclass
class Judges:
    """A laboratory whose models have fixed opinions: row i is wrongly labelled, or hard, or neither."""

    opinion: Callable[[int], Opinion]
    rows: list[Encoded] = field(default_factory=lambda: [Encoded((5, 6, 7, i), (2, 3), 2, i) for i in range(200)])
    whole_steps: int = STEPS
    steps: int = STEPS
    tried: list[str] = field(default_factory=list)

    def try_out(self, name: str, changes: dict[str, Any], *, ask: list[Encoded], **_: Any) -> Trial:
        self.tried.append(name)
        return Trial(name, 1, 1, 1, 1, 1, 1, opinions=tuple(self.opinion(row.example) for row in ask))


def findings_of(opinion: Callable[[int], Opinion]) -> tuple[list[Finding], Judges]:
    lab, train = Judges(opinion), [Example(f"rows:{i}", target="late", row={"number": i}) for i in range(200)]
    shuffled = Trial("answers shuffled", 1.2, 1, 1, 1, 1, 1)
    best = Best(shuffled, {}, 1.0)
    return [*label_noise(SimpleNamespace(train=train), lab, best, shuffled)], lab  # type: ignore[arg-type]


def test_wrong_labels_stand_among_the_surest_rows_as_elsewhere_and_are_left_out_of_the_recipe() -> None:
    ((finding,), lab) = findings_of(lambda i: Opinion(9.0 if i % 5 == 0 else 0.1, i % 5 != 0, 0.5 + i / 500))
    assert len(lab.tried) == 2
    assert finding.severity == pytest.approx(0.2)
    assert "rows:0 'late'" in finding.evidence
    assert finding.rows is not None
    assert [row["number"] for row in finding.rows] == [i for i in range(200) if i % 5]


def test_rows_that_are_only_hard_are_no_noise_however_many_and_however_unlikely_their_answers() -> None:
    (findings, lab) = findings_of(lambda i: Opinion(9.0, False, 0.6) if i % 5 < 2 else Opinion(0.1, True, 0.9))
    assert findings == []
    assert lab.tried == ["first half judged by the second"]


def test_models_that_know_nothing_judge_nothing() -> None:
    (findings, _) = findings_of(lambda i: Opinion(3.0, False, 0.3))
    assert findings == []
