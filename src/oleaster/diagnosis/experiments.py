"""Causes that only trials show. Each experiment changes one thing and compares it with the run as it was."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

from oleaster.config.methods import LoraConfig, MethodConfig
from oleaster.data.papers import Encoded
from oleaster.diagnosis.laboratory import Laboratory
from oleaster.diagnosis.subject import Subject
from oleaster.reporting.causes import Finding, Opinion, Trial
from oleaster.training.reports import EvalReport

GAIN, SCALED_GAIN = 0.15, 0.35
"""Shares of the validation loss that a change must take away to count; more where trials are shorter than the run."""
_FEW, _FIT_STEPS, _LOOK, _FITTED = 8, 40, 5, 0.1
"""Rows that any method must be able to learn by heart, steps it is given, steps between two looks, and the share of the
first loss left at the end."""
_ROOM: dict[str, Any] = {"method": "lora", "lora_r": 16, "target_modules": "all-linear"}
"""What is large enough for whatever eight rows say."""
_WORTH = 0.05
"""Share of the first loss that a longer training must take away to be worth its time."""
_NO_BETTER = 0.95
"""Validation loss over that with shuffled answers, from which on the prompts explain nothing."""
_NOISE, _SURELY = 0.1, 0.3
"""Share of the surest rows that counts, and nats by which a suspect's answer is less likely than chance."""
_EVEN = 0.5
"""Part of the share of all rows that it must be: where rows are only hard, the surest are right."""
_KNOWN = 0.5
"""Share of the surest rows that may have another answer where the model knows enough to judge."""
_LONGER_TO_JUDGE = 2.0
"""Times the steps of another trial, where it does not."""
_FEWEST_TO_JUDGE = 100
"""Rows; half of fewer teaches too little to judge the other half."""
_MOST_NAMED = 8
_STRIDE, _CLIMBS = 3.0, 3
"""Of the learning rate from trial to trial, and how many of them."""
_LEAP, _LEAPS = 10.0, 4
"""The same where the rate is so low that nothing moves: it may be wrong by orders of magnitude."""
_MOVED = 0.03
"""Share of the loss by which two differ, if they do."""
_SPREAD = 1 / 3
"""Share by which the loss of one batch may be off that of all rows."""
_HOPELESS = 1.25
"""Times the other's loss at the same step, half way, with which no training catches up."""
_PATIENCE = 2
"""Validations without a better one that end a trial whose lowest loss is all that is asked for."""


@dataclass(frozen=True)
class Best:
    """The best trial so far, and what makes it."""

    trial: Trial
    changes: dict[str, Any]
    longer: float


def optimisation(lab: Laboratory, reached: float = math.inf) -> tuple[list[Finding], Best]:
    """Learning rate up and down, longer; which way the loss falls says what was wrong.

    Args:
        reached: the run's own lowest validation loss. A trial that is shorter than the run has to be below it, as short
            trainings favour high rates.
    """
    as_it_was = lab.try_out("as it was")
    rate = lab.config.training.learning_rate
    best = Best(as_it_was, {}, 1.0)
    found: list[Finding] = []
    for upwards, cause in ((True, "learning_rate_low"), (False, "learning_rate_high")):
        factor, better = _climb(lab, rate, upwards, as_it_was)
        gain = _gain(as_it_was, better)
        if better is not as_it_was and better.loss < best.trial.loss:
            best = Best(better, {"learning_rate": _rounded(rate * factor)}, 1.0)
        if gain >= SCALED_GAIN and better.loss < reached if lab.is_scaled_down else gain >= GAIN:
            way = "lower" if upwards else "higher"
            found.append(
                Finding(
                    cause,  # type: ignore[arg-type]
                    gain,
                    f"With learning rate {_rounded(rate * factor):g} ({factor:.2g} times as much) and all else the "
                    f"same the validation loss is {better.loss:.3f} instead of {as_it_was.loss:.3f}; the run's "
                    f"{rate:g} is {way} than rows and base want.",
                    f"learning_rate {_rounded(rate * factor):g}",
                    {"learning_rate": _rounded(rate * factor)},
                )
            )
            break
    if not lab.is_scaled_down:
        # At the best rate: what another rate mends as well need not take longer.
        longer = lab.try_out("twice as long", best.changes, longer=2.0)
        if best.trial.loss - longer.loss >= _WORTH * as_it_was.first_loss:
            alone = longer if not best.changes else lab.try_out("twice as long, rate as it was", longer=2.0)
            found += _too_short(as_it_was, alone)
            best = Best(longer, best.changes, 2.0)
    return found, best


def _climb(lab: Laboratory, rate: float, upwards: bool, start: Trial) -> tuple[float, Trial]:
    """The best multiple of the learning rate in one direction."""
    still = upwards and _stands_still(start)
    stride, climbs = (_LEAP, _LEAPS) if still else (_STRIDE if upwards else 1 / _STRIDE, _CLIMBS)
    factor, best, factor_of_best = 1.0, start, 1.0
    for _ in range(climbs):
        factor *= stride
        trial = lab.try_out(
            f"learning rate x{factor:.2g}",
            {"learning_rate": _rounded(rate * factor)},
            enough=partial(_is_hopeless, best),
        )
        if trial.loss < best.loss * (1 - _MOVED):
            best, factor_of_best = trial, factor
        elif not (still and _stands_still(trial)):
            break
    return factor_of_best, best


def _stands_still(trial: Trial) -> bool:
    """Is its loss that of the base from beginning to end?"""
    first = trial.curve[0][1] if trial.curve else 0.0
    last = trial.last_loss
    return abs(last - first) <= _MOVED * first and abs(last - trial.first_loss) <= _SPREAD * trial.first_loss


def _is_hopeless(other: Trial, report: EvalReport) -> bool:
    """Half way, is it so far behind the other trial that it will not catch up?"""
    loss = dict(other.curve).get(report.step)
    return loss is not None and report.step >= report.total_steps / 2 and not report.eval_loss < _HOPELESS * loss


def _too_short(as_it_was: Trial, longer: Trial) -> Iterator[Finding]:
    gain = _gain(as_it_was, longer)
    if gain < GAIN:
        return
    yield Finding(
        "too_short",
        gain,
        f"Twice as many steps ({longer.steps}) bring the validation loss from {as_it_was.loss:.3f} to "
        f"{longer.loss:.3f}; the run's {as_it_was.steps} were not enough.",
        f"max_steps {longer.steps}",
        {"max_steps": longer.steps},
    )


def capacity(lab: Laboratory, best: Best) -> Iterator[Finding]:
    """Eight rows must be learnable by heart; a method that leaves them to another one has too little room."""
    few = lab.rows[:_FEW]
    base = float(best.changes.get("learning_rate", lab.config.training.learning_rate))
    shape = {"per_device_train_batch_size": _FEW, "gradient_accumulation_steps": 1, "lr_scheduler_type": "constant"}
    fixed = {**shape, "max_steps": _FIT_STEPS, "eval_steps": _LOOK, "warmup_ratio": 0.0, "warmup_steps": 0}
    left = []
    for factor in (1.0, 3.0, 0.3):
        name = "8 rows by heart" + (f", learning rate x{factor:g}" if factor != 1 else "")
        trial = _by_heart(lab, name, {**fixed, "learning_rate": _rounded(base * factor)}, few)
        if _is_fitted(trial.loss):
            return
        left.append(trial.loss / max(trial.first_loss, 1e-9))
        if left[-1] <= _FITTED:
            return
    if _has_room(lab.config.method):
        return
    other = _by_heart(lab, "8 rows by heart, LoRA 16 everywhere", {**fixed, **_ROOM, "learning_rate": 3e-3}, few)
    share = other.loss / max(other.first_loss, 1e-9)
    if share > 0.6 * min(left):
        return
    yield Finding(
        "cannot_fit",
        min(left),
        f"Eight rows cannot be learned by heart: {min(left):.0%} of their loss is left after {_FIT_STEPS} steps at the "
        f"best of three learning rates; LoRA of rank 16 on all linear layers leaves {share:.0%}. What is trained is "
        "too small for the task.",
        "a larger lora_r, target_modules all-linear",
        {**_ROOM, "learning_rate": 1e-3},
    )


def _has_room(method: MethodConfig) -> bool:
    """Is it as large as `_ROOM`?"""
    if isinstance(method, LoraConfig):
        return method.lora_r >= _ROOM["lora_r"] and method.target_modules == _ROOM["target_modules"]
    return method.type == "full"


def _by_heart(lab: Laboratory, name: str, changes: dict[str, Any], few: Sequence[Encoded]) -> Trial:
    return lab.try_out(name, changes, rows=few, validation=few, enough=lambda report: _is_fitted(report.eval_loss))


def _is_fitted(loss: float) -> bool:
    return loss < 0.05


def signal(lab: Laboratory, best: Best) -> tuple[list[Finding], Trial]:
    """With the answers shuffled there is nothing to learn but their frequencies: the real ones must do better."""
    shuffled = _with_shuffled_answers(lab.rows, lab.config.seed)
    patient = {**best.changes, "early_stopping_patience": _PATIENCE}
    trial = lab.try_out("answers shuffled", patient, longer=best.longer, rows=shuffled)
    if best.trial.loss < _NO_BETTER * trial.loss:
        return [], trial
    finding = Finding(
        "no_signal",
        1.0,
        f"Trained on answers that were shuffled among the rows, the validation loss is {trial.loss:.3f}; with the real "
        f"answers it is {best.trial.loss:.3f}, no better. The prompts, as the model sees them, do not say what the "
        "answer is.",
        "look at the rows: is the prompt's column the right one, are prompts and answers still paired as they belong? "
        "No setting helps; oleaster finetune --dry_run shows the first row as the model sees it",
    )
    return [finding], trial


def label_noise(subject: Subject, lab: Laboratory, best: Best, shuffled: Trial) -> Iterator[Finding]:
    """Cross-validation: each half of the rows is judged by a model trained on the other half.

    The model errs as well. But where it errs because rows are hard, it is right in those it is surest of; wrong labels
    stand among these as often as elsewhere. After Northcutt et al. 2021 (confident learning). A row that is only unlike
    all others looks the same as a wrong one, so the suspects are named to be read.
    """
    judged = _cross_judged(lab, best)
    wrong, everywhere = _disagreement(judged)
    if not (_NOISE <= wrong <= _KNOWN and wrong >= _EVEN * everywhere):
        return
    chance = {id(row): shuffled.loss * len(row.targets) for row, _ in judged}
    suspects = [(o.nats - chance[id(row)], row) for row, o in judged if o.nats > chance[id(row)] + _SURELY]
    suspects.sort(key=lambda suspect: -suspect[0])
    examples = [subject.train[row.example] for _, row in suspects]
    named = "; ".join(f"{e.source} {e.target!r}" for e in examples[:_MOST_NAMED])
    left_out = {id(example) for example in examples}
    yield Finding(
        "label_noise",
        wrong,
        f"A model trained on one half of the rows gives another answer to {everywhere:.0%} of the other half, and to "
        f"{wrong:.0%} of those rows that it is surest of, where rows that are only hard are not found. Suspects, the "
        f"least likely first: {named}.",
        f"read these rows and correct what is wrong; the recipe leaves out the {len(examples)} whose answer is less "
        "likely than one drawn at random, hard ones among them",
        rows=tuple(example.row for example in subject.train if id(example) not in left_out),
    )


Judged: TypeAlias = list[tuple[Encoded, Opinion]]


def _cross_judged(lab: Laboratory, best: Best) -> Judged:
    """Rows with the opinion of a model that was trained on the other half; one half alone, where it has no noise."""
    rows = [row for row in lab.rows if row.prompt_length]
    if len(rows) < _FEWEST_TO_JUDGE:
        return []
    one, other = rows[::2], rows[1::2]
    patient = {**best.changes, "early_stopping_patience": _PATIENCE}

    def judge(name: str, asked: list[Encoded], by: list[Encoded], longer: float) -> Judged:
        trial = lab.try_out(name, patient, longer=longer, rows=by, ask=asked)
        return list(zip(asked, trial.opinions, strict=False))

    longer, most = best.longer, max(best.longer, min(_LONGER_TO_JUDGE, lab.whole_steps / lab.steps))
    found = judge("first half judged by the second", one, other, longer)
    if _disagreement(found)[0] > _KNOWN and longer < most:
        longer = most
        found = judge("the same, trained longer", one, other, longer)
    if _NOISE / 2 <= _disagreement(found)[0] <= _KNOWN:
        found += judge("second half judged by the first", other, one, longer)
    return found


def _disagreement(judged: Judged) -> tuple[float, float]:
    """Share of the rows to which the model gives another answer: of the half it is surest of, and of all."""
    opinions = sorted((opinion for _, opinion in judged), key=lambda opinion: -opinion.confidence)
    surest = opinions[: (len(opinions) + 1) // 2]
    return _share_of_others(surest), _share_of_others(opinions)


def _share_of_others(opinions: Sequence[Opinion]) -> float:
    return sum(not opinion.agrees for opinion in opinions) / max(1, len(opinions))


def _with_shuffled_answers(rows: Sequence[Encoded], seed: int) -> list[Encoded]:
    """Each row with the last answer of another one."""
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    made = []
    for row, other in zip(rows, (rows[i] for i in order), strict=True):
        answer = other.input_ids[other.prompt_length :]
        moved = tuple(t - other.prompt_length + row.prompt_length for t in other.targets if t >= other.prompt_length)
        made.append(replace(row, input_ids=row.prompt_ids + answer, targets=moved))
    return [row for row in made if row.targets and row.prompt_length]


def _gain(before: Trial, after: Trial) -> float:
    """Share of the loss that went away."""
    if before.loss == float("inf"):
        return 1.0 if after.loss < before.loss else 0.0
    return max(0.0, 1 - after.loss / before.loss) if before.loss > 0 else 0.0


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")
