"""Ask a model every row and score its answers."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from oleaster.config.schema import EvaluationConfig
from oleaster.core.errors import DataError, NonFiniteError
from oleaster.data.papers import Encoded, Example
from oleaster.evaluation.figures import find_labels, make_report
from oleaster.evaluation.metrics import check_metrics, wants
from oleaster.evaluation.report import Report, Row, Value
from oleaster.inference.head_predictor import HeadPredictor
from oleaster.inference.predictor import Completion, Predictor, Sampling


def evaluate(
    predictor: Predictor,
    examples: Sequence[Example],
    encoded: Sequence[Encoded],
    config: EvaluationConfig,
    output: Path | None = None,
    *,
    labels: Sequence[str] | None = None,
    metrics: Sequence[str] = (),
    choices: tuple[tuple[int, ...], ...] = (),
    json_schema: str = "",
) -> Report:
    """Score the learned tokens of each row and the greedy answer to its prompt (in a conversation, the last turn).

    Args:
        encoded: rows; `Encoded.example` counts in `examples`.
        config: with `eval_max_samples` rows are drawn with a fixed seed, so that two models get the same ones.
        output: folder for report.json and predictions.jsonl.
        labels: the labels of the task, best those of the training rows; default: found by `find_labels`.
        metrics: names of the metric registry, besides those that every evaluation has and those of `config.metrics`.
        choices, json_schema: see `Sampling`.

    Raises:
        ConfigError: an unknown metric, before any work is done.
        DataError: there is nothing to evaluate.
        NonFiniteError: the model's probabilities are not numbers.
    """
    metrics = check_metrics([*config.metrics, *metrics])
    if not encoded:
        raise DataError("there are no rows to evaluate", remedy="name a validation set or a larger split")
    encoded = _at_most(config.eval_max_samples, encoded)
    rows, seconds = _score(predictor, examples, encoded, config.references_field)
    speed = {"score_seconds": Value(seconds, None, None, len(rows), "s")}
    asked = [i for i, row in enumerate(encoded) if _has_prompt(examples[row.example], row)]
    if asked:
        started = time.perf_counter()
        sampling = Sampling(config.max_new_tokens, choices=choices, json_schema=json_schema)
        answers = predictor.generate([encoded[i].prompt_ids for i in asked], sampling)
        seconds = time.perf_counter() - started
        tokens = sum(len(answer.token_ids) for answer in answers)
        speed["generate_seconds"] = Value(seconds, None, None, len(asked), "s")
        speed["generate_speed"] = Value(tokens / seconds, None, None, len(asked), "tokens/s")
        sure: Sequence[float | None] = [None] * len(asked)
        if any("confidences" in wants(name) for name in metrics):
            sure = confidences(predictor, [encoded[i] for i in asked], answers)
        for i, answer, confidence in zip(asked, answers, sure, strict=True):
            rows[i] = replace(rows[i], prediction=answer.text, finish=answer.finish, confidence=confidence)
    if labels is None:
        labels = find_labels([rows[i].reference for i in asked])
    report = make_report(predictor.name, rows, labels, metrics, speed)
    return report.save(output) if output is not None else report


def confidences(predictor: Predictor, asked: Sequence[Encoded], answers: Sequence[Completion]) -> list[float]:
    """The probability of each answer to the model that gave it, its stop token included."""
    # A learned row ends with the stop token, which an answer is given without; a head's row ends with its label.
    has_stop = not isinstance(predictor, HeadPredictor)
    rows = []
    for row, answer in zip(asked, answers, strict=True):
        stop = row.input_ids[-1:] if has_stop and answer.finish == "stop" else ()
        ids = (*row.prompt_ids, *answer.token_ids, *stop)
        rows.append((ids, tuple(range(row.prompt_length, len(ids)))))
    return [math.exp(score.total) for score in predictor.score(rows)]


def prompt_text(example: Example) -> str:
    """What the model is asked, for people to read: without the template's marks."""
    if example.messages:
        before = [message for message in example.messages[:-1] if message.get("content")]
        if len(before) == 1:
            return str(before[0]["content"])
        return "\n".join(f"{message['role']}: {message['content']}" for message in before)
    last = max((i for i, (_, learn) in enumerate(example.text_parts) if learn), default=0)
    return "".join(text for text, _ in example.text_parts[:last])


def _score(
    predictor: Predictor, examples: Sequence[Example], encoded: Sequence[Encoded], references_field: str | None
) -> tuple[list[Row], float]:
    """The rows without answers, and the seconds it took."""
    also = [_further_references(examples[row.example], references_field) for row in encoded]
    started = time.perf_counter()
    scores = predictor.score([(row.input_ids, row.targets) for row in encoded])
    seconds = time.perf_counter() - started
    rows = []
    for row, score, further in zip(encoded, scores, also, strict=True):
        example = examples[row.example]
        what = {"source": example.source, "prompt": prompt_text(example), "reference": example.target, "also": further}
        size = _learned_bytes(example)
        rows.append(Row(**what, nll=-score.total, targets=score.count, correct=score.correct, learned_bytes=size))
    if broken := [row.source for row in rows if not math.isfinite(row.nll)]:
        named = ", ".join(broken[:5]) + (", ..." if len(broken) > 5 else "")
        raise NonFiniteError(f"{predictor.name} gives no finite loss on {len(broken)} of {len(rows)} rows: {named}")
    return rows, seconds


def _at_most(limit: int | None, encoded: Sequence[Encoded]) -> Sequence[Encoded]:
    """`limit` rows from all over the set, as a sorted file's first rows would be all of one kind; order kept."""
    if limit is None or len(encoded) <= limit:
        return encoded
    chosen = np.random.default_rng(0).choice(len(encoded), limit, replace=False)
    return [encoded[i] for i in sorted(chosen.tolist())]


def _has_prompt(example: Example, row: Encoded) -> bool:
    if row.prompt_length == 0:
        return False
    return bool(example.messages) or any(text.strip() for text, learn in example.text_parts if not learn)


def _learned_bytes(example: Example) -> int | None:
    if not example.messages:
        return sum(len(text.encode()) for text, learn in example.text_parts if learn)
    turns = [message for message in example.messages if message["role"] == "assistant"]
    if any(message.get("tool_calls") for message in turns):
        return None
    return sum(len(str(message.get("content") or "").encode()) for message in turns)


def _further_references(example: Example, column: str | None) -> tuple[str, ...]:
    """The acceptable answers of a column besides the one that is learned. Raises: DataError when it holds none."""
    if column is None:
        return ()
    found = example.row.get(column)
    texts = [found] if isinstance(found, str) else found
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        known = ", ".join(example.row)
        message = f"the column '{column}' is no list of texts" if column in example.row else f"no column '{column}'"
        raise DataError(message, where=example.source, remedy=f"--references_field one of: {known}")
    return tuple(text for text in dict.fromkeys(texts) if text != example.target)
