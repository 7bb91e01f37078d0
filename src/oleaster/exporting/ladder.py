"""The fidelity ladder: the same rows through every form the model takes on its way, each held against the first.

    torch -> merged -> onnx-fp32 -> quantised -> runtime

Merging and the graph must be exact but for rounding; quantising may lose what the user allows; the runtime with its
own tokenizer, template and stop ids must lose nothing more. The first rung that loses too much stops the export, with
its name and the likely cause.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from operator import eq
from typing import Any, Literal, Protocol

import numpy as np

from oleaster.core.errors import FidelityError, ModelError
from oleaster.data.papers import Encoded
from oleaster.inference.predictor import Completion, Sampling

POSITIONS = 1024
"""Target tokens whose logits are kept (200 MB at a vocabulary of 49,152); later rows are answered, not compared."""
EXACT_KL = 1e-4
"""Nats; what float32 rounding leaves is below 1e-7, a wrong rope table or adapter is above 1e-2."""
EXACT_ROWS = 25
"""Rows on the rungs that must be exact: what is wrong there is wrong in every row."""
STOP_SLACK = 0.02
"""Share of answers that may no longer end by themselves."""

CAUSES = {
    "merged": "the adapter's scale (alpha / r), an adapter of another base, or a module that was not merged",
    "onnx-fp32": "the graph computes something else: rope table, tied head, attention window or norm of this family",
    "quantised": "too few bits for this model: take more, or calibrate the 4-bit weights on the task's rows",
    "runtime": "the runtime asks differently: tokenizer, chat template or stop ids beside the weights",
}


class Decoder(Protocol):
    """The part of a tokenizer that turns answers into text."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of `token_ids` without special tokens."""
        ...


class Model(Protocol):
    """What a rung needs; `inference.OnnxPredictor` and `rungs.TorchModel` have it."""

    @property
    def stop_ids(self) -> Iterable[int]:
        """Ids that end an answer."""
        ...

    def target_logits(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterable[np.ndarray]:
        """For each (input_ids, targets) the logits [targets, vocabulary] from which these positions are predicted."""
        ...

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling = ...) -> list[Completion]:
        """See `inference.predictor.Predictor.generate`."""
        ...

    @property
    def tokenizer(self) -> Decoder:
        """Its own."""
        ...


@dataclass(frozen=True)
class Rung:
    """One form of the model."""

    name: str
    """`torch`, `merged`, `onnx-fp32`, a precision, or what runs it: `genai`, `transformers`, `llama.cpp`."""
    kind: Literal["torch", "merged", "onnx-fp32", "quantised", "runtime"]
    load: Callable[[], Model]
    """The model; it is dropped before the next rung loads its own. A ModelError here is the rung's fault."""
    encode: Callable[[Model, int], Sequence[int]] | None = None
    """Prompt ids of row i by the rung's own tokenizer and template; None = it has none of its own."""
    weights: str = ""
    """Names the file that answers and the engine that runs it; rungs that share it answer the same ids the same way."""


@dataclass(frozen=True)
class Limits:
    """What a rung may lose."""

    max_drop: float = 0.01
    """Share of exact matches (0.01 = one point), against torch on the same rows."""
    max_kl: float = 0.1
    """Nats per target token, mean, against torch; for the quantised rung."""

    def drop_among(self, rows: int) -> float:
        """Share that may be lost among so many rows: `max_drop`, and one row where that is less; of 0 nothing."""
        return max(self.max_drop, 1 / rows) if self.max_drop else 0.0


@dataclass(frozen=True)
class Figures:
    """What one rung showed. Differences are against the first rung, on the same rows; None = not measured there."""

    rung: str
    rows: int = 0
    same_ids: float | None = None
    """Share of rows that the rung's own tokenizer and template turn into the same prompt ids."""
    positions: int = 0
    """Target tokens whose logits were compared."""
    max_difference: float | None = None
    """Largest absolute difference of a logit, after each position's mean is taken off."""
    kl: float | None = None
    """Mean KL(torch || rung) in nats per target token."""
    top1: float | None = None
    """Share of positions with the same likeliest token."""
    exact_match: float | None = None
    exact_interval: tuple[float, float] | None = None
    """95 % Wilson interval of exact_match."""
    natural_stop: float | None = None
    """Share of answers that ended by themselves."""
    fault: str | None = None
    """What was lost beyond the limits, and why it probably was; None = the rung holds."""

    def as_json(self) -> dict[str, Any]:
        """For the manifest."""
        return {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(self).items()}


class Ladder:
    """Measures rungs one after another; the first one is the reference.

    Logits are compared on every rung but `runtime`, which runs the file of the rung below; `torch`, `quantised` and
    `runtime` answer. On the first two an answer is generated only where the logits have not told it already.

    Args:
        rows: held-out rows; their prompts are answered, their targets' logits compared.
        references: the right answer of each row, for exact match (both sides stripped); None = answers are held
            against those of the first rung, which is shown but sets no limit, as free text parts early.
    """

    def __init__(
        self, rows: Sequence[Encoded], references: Sequence[str] | None, limits: Limits, max_new_tokens: int = 64
    ) -> None:
        self.rows, self.limits = rows, limits
        self._expected, self._scored = references, references is not None
        self._sampling = Sampling(max_new_tokens=max_new_tokens)
        self._compared = _within_budget(rows)
        """Numbers of the rows whose logits are compared."""
        self._logits: list[np.ndarray] = []
        self._first: Figures | None = None
        self._known: tuple[tuple[str, tuple[int, ...]], dict[tuple[int, ...], Completion]] = (("", ()), {})

    def measure(self, rung: Rung) -> Figures:
        """The rung's figures, with its fault if it has one: the caller decides (see `require`)."""
        try:
            model = rung.load()
        except ModelError as error:
            return Figures(rung.name, fault=f"{error}. Likely cause: {CAUSES.get(rung.kind, 'the model itself')}")
        exact = rung.kind in ("merged", "onnx-fp32")
        compared = self._compared[:EXACT_ROWS] if exact else self._compared
        figures = Figures(rung.name, rows=len(compared) if exact else len(self.rows))
        told: dict[int, Completion] = {}
        if rung.kind != "runtime":
            asked = [self.rows[i] for i in compared]
            logits = list(model.target_logits([(row.input_ids, row.targets) for row in asked]))
            self._logits = self._logits or logits
            figures = replace(figures, **_distance(logits, self._logits[: len(logits)]))
            told = self._told(model, dict(zip(compared, logits, strict=True)))
        prompts = [row.prompt_ids for row in self.rows]
        if rung.encode is not None:
            own = [tuple(rung.encode(model, i)) for i in range(len(prompts))]
            figures = replace(figures, same_ids=sum(map(eq, own, prompts)) / len(prompts))
            prompts = own
        if not exact:
            figures = replace(figures, **self._answers(self._asked(rung, model, prompts, told)))
        self._first = self._first or figures
        return replace(figures, fault=_fault(rung, figures, self._first, self.limits, self._scored))

    def climb(self, rungs: Iterable[Rung], on_progress: Callable[[Figures], None]) -> list[Figures]:
        """Measure rungs that must all hold, one after another. Raises: FidelityError at the first that does not."""
        climbed = []
        for rung in rungs:
            climbed.append(self.measure(rung))
            on_progress(climbed[-1])
            require(climbed[-1])
        return climbed

    def _told(self, model: Model, logits: Mapping[int, np.ndarray]) -> dict[int, Completion]:
        """Greedy answers that logits give away: where each target of a row is the likeliest token, the targets."""
        told = {}
        for i, found in logits.items():
            row = self.rows[i]
            ids = row.input_ids[row.prompt_length :]
            whole = row.targets == tuple(range(row.prompt_length, len(row.input_ids)))
            ends = [place for place, token in enumerate(ids) if token in model.stop_ids]
            short = len(ids) <= self._sampling.max_new_tokens
            if whole and short and ends == [len(ids) - 1] and (found.argmax(-1) == ids).all():
                told[i] = Completion(ids[:-1], model.tokenizer.decode(ids[:-1]), "stop")
        return told

    def _asked(
        self, rung: Rung, model: Model, prompts: Sequence[Sequence[int]], told: Mapping[int, Completion]
    ) -> list[Completion]:
        """The model's answers.

        Those that its logits told are not asked again. What the rung below was asked with the same ids, and answered
        with the same weights and stop ids, is asked again only for `EXACT_ROWS` rows, unless one of these comes out
        otherwise.
        """
        key = (rung.weights, tuple(sorted(model.stop_ids)))
        known = self._known[1] if rung.weights and self._known[0] == key else {}
        fresh = dict(told)
        unsure = [i for i, ids in enumerate(prompts) if i not in told and (i < EXACT_ROWS or tuple(ids) not in known)]
        fresh |= zip(unsure, model.generate([prompts[i] for i in unsure], self._sampling), strict=True)
        rest = [i for i in range(len(prompts)) if i not in fresh]
        if any(known.get(tuple(prompts[i]), answer) != answer for i, answer in fresh.items()):
            fresh |= zip(rest, model.generate([prompts[i] for i in rest], self._sampling), strict=True)
        answers = [fresh[i] if i in fresh else known[tuple(ids)] for i, ids in enumerate(prompts)]
        self._known = key, dict(zip(map(tuple, prompts), answers, strict=True))
        return answers

    def _answers(self, answers: Sequence[Completion]) -> dict[str, Any]:
        self._expected = self._expected or [answer.text for answer in answers]
        hits = sum(a.text.strip() == b.strip() for a, b in zip(answers, self._expected, strict=True))
        return {
            "exact_match": hits / len(answers),
            "exact_interval": wilson(hits, len(answers)),
            "natural_stop": sum(answer.finish == "stop" for answer in answers) / len(answers),
        }


def require(figures: Figures) -> None:
    """Raises: FidelityError (exit code 3) when a rung lost more than allowed."""
    if figures.fault:
        raise FidelityError(f"rung '{figures.rung}': {figures.fault}")


def _within_budget(rows: Sequence[Encoded]) -> list[int]:
    """Numbers of the first rows with targets, until `POSITIONS` targets are reached; at least one."""
    kept: list[int] = []
    positions = 0
    for number, row in enumerate(rows):
        positions += len(row.targets)
        if kept and positions > POSITIONS:
            break
        if row.targets:
            kept.append(number)
    return kept


def _distance(logits: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> dict[str, Any]:
    """KL, largest difference and top-1 agreement over all compared positions."""
    divergence, largest, agreeing, positions = 0.0, 0.0, 0, 0
    for ours, theirs in zip(logits, reference, strict=True):
        p, q = log_softmax(theirs), log_softmax(ours)
        divergence += float((np.exp(p) * (p - q)).sum())
        centred = (ours - ours.mean(-1, keepdims=True)) - (theirs - theirs.mean(-1, keepdims=True))
        largest = max(largest, float(np.abs(centred).max()))
        agreeing += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        positions += len(ours)
    return {
        "positions": positions,
        "kl": divergence / positions,
        "max_difference": largest,
        "top1": agreeing / positions,
    }


def _fault(rung: Rung, now: Figures, first: Figures, limits: Limits, scored: bool) -> str | None:
    """What is beyond the limits, and why it probably is; None when the rung holds."""
    if rung.kind == "torch":
        return None
    found = []
    allowed = limits.max_kl if rung.kind == "quantised" else EXACT_KL
    if now.kl is not None and not now.kl <= allowed:  # NaN is a fault too
        found.append(f"KL {now.kl:.4g} nats per token, allowed {allowed:g}")
    if now.same_ids is not None and now.same_ids < 1:
        found.append(f"{100 * (1 - now.same_ids):.0f} % of the prompts become other ids")
    if scored and now.exact_match is not None and first.exact_match is not None:
        drop, allowed_drop = first.exact_match - now.exact_match, limits.drop_among(now.rows)
        if drop > allowed_drop + 1e-9:  # 0.92 - 0.91 is more than 0.01 in floating point
            found.append(f"exact match falls by {100 * drop:.1f} points, allowed {100 * allowed_drop:.1f}")
    endings = rung.kind == "runtime" or (scored and rung.kind == "quantised")
    if endings and (first.natural_stop or 0.0) - (now.natural_stop or 0.0) > STOP_SLACK:
        ending = f"{100 * (now.natural_stop or 0.0):.0f} % of the answers end by themselves"
        found.append(f"{ending}, {100 * (first.natural_stop or 0.0):.0f} % in torch")
    return f"{'; '.join(found)}. Likely cause: {CAUSES[rung.kind]}" if found else None


def wilson(hits: int, count: int) -> tuple[float, float]:
    """95 % Wilson score interval of a share."""
    z, share = 1.959964, hits / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
