"""What an evaluation found, on paper."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from oleaster.core.errors import DataError
from oleaster.core.files import atomic_write_json, atomic_write_json_lines

REPORT = "report.json"
PREDICTIONS = "predictions.jsonl"


@dataclass(frozen=True)
class Value:
    """A figure with what it is worth."""

    value: float
    low: float | None
    """Lower end of the 95 % interval; None where there is none (speed, a metric without rows)."""
    high: float | None
    count: int
    """Rows behind the figure."""
    unit: str
    """`share` (0 to 1), `nats/token`, `bits/byte`, `perplexity`, `F1`, `tokens/s`, ..."""

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        """`92.1 % [89.4, 94.1]`: shares in per cent."""
        scale, unit = (100.0, " %") if self.unit == "share" else (1.0, self.unit and f" {self.unit}")
        shown = f"{_digits(self.value * scale)}{unit}"
        if self.low is None or self.high is None:
            return shown
        return f"{shown} [{_digits(self.low * scale)}, {_digits(self.high * scale)}]"

    def beside(self, name: str) -> str:
        """The same where `name` stands beside it and may say the unit already."""
        return str(replace(self, unit="") if self.unit in name else self)


@dataclass(frozen=True)
class Row:
    """One row, asked and scored: a line of predictions.jsonl."""

    source: str
    """`file:line` or `name[row]`"""
    prompt: str
    """For people: the user's message, or the turns of a conversation; not the rendered template."""
    reference: str
    nll: float
    """Sum of -ln p over the learned tokens, in nats."""
    targets: int
    """Learned tokens, the stop token among them."""
    correct: int
    """Learned tokens that were also the likeliest."""
    learned_bytes: int | None
    """UTF-8 bytes of the learned text; None where it is not plain text (tool calls)."""
    prediction: str | None = None
    """None: the row has no prompt to be asked with."""
    finish: str | None = None
    """`stop` or `length`"""
    confidence: float | None = None
    """Probability that the model gives to its own answer; None where no metric asked for it."""
    also: tuple[str, ...] = ()
    """Further acceptable answers."""


@dataclass(frozen=True)
class Confusion:
    """A mistake made several times."""

    reference: str
    prediction: str
    count: int


@dataclass(frozen=True)
class Report:
    """One model on one set of rows."""

    model: str
    metrics: Mapping[str, Value]
    labels: tuple[str, ...] = ()
    """The labels that count as answers; empty where the answers are free text."""
    confusions: tuple[Confusion, ...] = ()
    """Most frequent wrong answers where the answers are labels, most frequent first."""
    worst: tuple[Row, ...] = ()
    """Rows with the highest loss per token: hard, mislabelled, or unlike the training rows."""
    notes: tuple[str, ...] = ()
    """What whoever reads the figures should know, in sentences."""
    predictions: Path | None = None
    """The file with all rows, when they were saved."""
    rows: tuple[Row, ...] = field(default=(), repr=False)

    def __getitem__(self, metric: str) -> Value:
        """The figure called `metric`. Raises: KeyError with the names there are."""
        if metric not in self.metrics:
            raise KeyError(f"{metric}; there are {', '.join(self.metrics)}")
        return self.metrics[metric]

    def __str__(self) -> str:
        """A line per figure."""
        width = max(map(len, self.metrics), default=0)
        return "\n".join(f"{name:<{width}}  {value.beside(name)}" for name, value in self.metrics.items())

    def save(self, folder: Path) -> Report:
        """Write predictions.jsonl, then report.json, into `folder`; each is there whole or not at all.

        Returns:
            this report with `predictions` set.
        """
        atomic_write_json_lines(folder / PREDICTIONS, map(asdict, self.rows))
        content = asdict(self) | {"predictions": PREDICTIONS, "rows": len(self.rows)}
        atomic_write_json(folder / REPORT, content)
        return replace(self, predictions=folder / PREDICTIONS)


def load_report(folder: Path) -> Report:
    """What `Report.save` wrote into `folder`, equal to what was written.

    Raises:
        DataError: the folder holds no report, or a damaged one.
    """
    try:
        content = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        # Line by line from the file: `str.splitlines` also breaks at U+0085 and others, which JSON does not escape.
        with (folder / PREDICTIONS).open(encoding="utf-8") as lines:
            rows = tuple(_row(json.loads(line)) for line in lines)
        if len(rows) != content["rows"]:
            raise ValueError(f"{len(rows)} rows of {content['rows']}")
        return Report(
            model=content["model"],
            metrics={name: Value(**value) for name, value in content["metrics"].items()},
            labels=tuple(content["labels"]),
            confusions=tuple(Confusion(**found) for found in content["confusions"]),
            worst=tuple(_row(row) for row in content["worst"]),
            notes=tuple(content.get("notes", ())),
            predictions=folder / PREDICTIONS,
            rows=rows,
        )
    except FileNotFoundError as error:
        name = Path(error.filename).name
        raise DataError(f"there is no {name}", where=str(folder), remedy="evaluate with an output folder") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("the report is damaged", where=str(folder), remedy="evaluate again") from error


def _row(content: dict[str, Any]) -> Row:
    return Row(**{**content, "also": tuple(content.get("also", ()))})


def _digits(value: float) -> str:
    """Four digits that matter."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
