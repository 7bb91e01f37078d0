"""Score an embedding: do its cosines order the pairs as people did?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from oleaster.core.errors import DataError
from oleaster.data.papers import Encoded, Example
from oleaster.evaluation.figures import values
from oleaster.evaluation.metrics import check_metrics, measure_rows
from oleaster.evaluation.report import Report, Row, Value


class Embedder(Protocol):
    """What gives vectors."""

    name: str

    def embed(self, texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """[texts, C]"""
        ...


def evaluate_pairs(
    embedder: Embedder,
    examples: Sequence[Example],
    encoded: Sequence[Encoded],
    metrics: Sequence[str],
    output: Path | None = None,
) -> Report:
    """Cosine of each pair (the prediction) against its score (the reference), by `metrics`.

    Raises: DataError when there are no rows, or rows do not say how alike the texts are.
    """
    names = check_metrics(metrics)
    if not encoded:
        raise DataError("there are no rows to evaluate", remedy="name a validation set or a larger split")
    if unknown := [examples[row.example].source for row in encoded if not examples[row.example].target]:
        raise DataError("the row does not say how alike its texts are", where=unknown[0], remedy="--score_field COLUMN")
    started = time.perf_counter()
    pairs = [row.pair for row in encoded if row.pair is not None]
    vectors = embedder.embed([line.prompt_ids for line in (*encoded, *pairs)]).astype(np.float64)
    seconds = time.perf_counter() - started
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosines = (vectors[: len(encoded)] * vectors[len(encoded) :]).sum(1)
    rows = tuple(_row(examples[row.example], cosine) for row, cosine in zip(encoded, cosines.tolist(), strict=True))
    found = {name: figure for each in names for name, figure in measure_rows(each, rows).items()}
    speed = {"embed_seconds": Value(seconds, None, None, 2 * len(rows), "s")}
    report = Report(model=embedder.name, metrics=values(found, len(rows)) | speed, rows=rows)
    return report.save(output) if output is not None else report


def _row(example: Example, cosine: float) -> Row:
    return Row(
        source=example.source,
        prompt=" | ".join(text for text, _ in example.text_parts),
        reference=example.target,
        nll=0.0,
        targets=0,
        correct=0,
        learned_bytes=None,
        prediction=f"{cosine:.6f}",
        finish="stop",
    )
