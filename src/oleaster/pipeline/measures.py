"""What came of a trial, in numbers: of its training, of its answers to the held-out rows, of what would ship."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from oleaster.config.flags import config_flags
from oleaster.config.schema import Config
from oleaster.config.search import Dimension
from oleaster.core.artifact import Artifact
from oleaster.core.errors import ConfigError
from oleaster.core.run import Run
from oleaster.search.papers import Objective

if TYPE_CHECKING:
    from oleaster.evaluation.report import Report
    from oleaster.inference.predictor import Predictor
    from oleaster.pipeline.shelf import Ready, Shelf

_SPEEDS = ("s", "tokens/s")
"""Units of what is no quality."""
ASKED_FOR_LATENCY = 9
"""Held-out rows that are answered one by one; the first one warms up."""


def measure(
    run: Run, config: Config, dimensions: Sequence[Dimension], objectives: Sequence[Objective], shelf: Shelf
) -> dict[str, float]:
    """Everything the objectives ask for, of a finished run, and what is known of it anyway.

    Where export settings are searched, answers, size and latency are those of the artifact.

    Raises: ConfigError when an objective cannot be had; FidelityError when the artifact lost too much.
    """
    values = {"train_seconds": seconds_of(run)}
    if (loss := run.summary.get("eval_loss")) is not None:
        values["eval_loss"] = loss
    names = {objective.name for objective in objectives}
    artifact = _export(run, config) if ships(dimensions) else None
    values["size_mb"] = _megabytes([artifact] if artifact else [run.adapter, run.model])
    asked = [o.name for o in objectives if o.kind == "answers"]
    if asked or "latency_ms" in names:
        values |= _answers(run, config, shelf, artifact, asked, latency="latency_ms" in names)
    missing = [name for name in names if name not in values]
    if missing:
        remedy = "hold out validation rows" if missing == ["eval_loss"] else "another objective, or other rows"
        raise ConfigError("these rows do not support it", where=f"objectives: {', '.join(missing)}", remedy=remedy)
    return values


def ships(dimensions: Sequence[Dimension]) -> bool:
    """Is a setting of the export searched?"""
    return any(config_flags()[dimension.name].section == "export" for dimension in dimensions)


def seconds_of(run: Run) -> float:
    """Of all training and validation of a run, however often it was broken off."""
    return round(sum(event.get("seconds", 0.0) for event in run.read_log()), 3)


def _export(run: Run, config: Config) -> Path:
    """The run as an artifact inside its folder."""
    from oleaster.pipeline.shipping import auto_opt

    artifact = auto_opt(run.folder, config, run.folder / "artifact")
    return artifact.folder


def _megabytes(folders: Sequence[Path]) -> float:
    """MB (1,000,000 bytes) of weights in the first folder that is there: the adapter, else the model or artifact."""
    folder = next(folder for folder in folders if folder.is_dir())
    if Artifact.is_artifact(folder):
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e6


def _answers(
    run: Run, config: Config, shelf: Shelf, artifact: Path | None, names: Sequence[str], latency: bool
) -> dict[str, float]:
    """The measures of the answers, and how long one takes."""
    ready = shelf.ready(config)
    if ready.head is not None or artifact is not None or not run.adapter.is_dir():
        return _read_again(run, config, ready, artifact, names, latency)
    from oleaster.inference.torch_predictor import TorchPredictor

    with shelf.tuned(run, config) as loaded:
        predictor = TorchPredictor(loaded, f"trial {run.folder.name}")
        values = {"latency_ms": _latency(predictor, ready)} if latency else {}
        return values | (_scores(predictor, run, ready, names) if names else {})


def _scores(predictor: Predictor, run: Run, ready: Ready, names: Sequence[str]) -> dict[str, float]:
    from oleaster.evaluation.evaluate import evaluate
    from oleaster.evaluation.figures import find_labels
    from oleaster.pipeline.constraints import allowed_answers

    config = ready.config.evaluation
    allowed = allowed_answers(ready.config, run.recipe, ready.tokenizer)
    limits = {"choices": allowed.choices, "json_schema": allowed.json_schema}
    labels = find_labels([example.target for example in ready.prepared.train])
    rows, examples = ready.data.validation, ready.prepared.validation
    return _figures(evaluate(predictor, examples, rows, config, labels=labels, metrics=_asked(names), **limits))


def _read_again(
    run: Run, config: Config, ready: Ready, artifact: Path | None, names: Sequence[str], latency: bool
) -> dict[str, float]:
    """Of what does not stand on the shared base: an artifact, a model trained whole, a head."""
    from oleaster.config.load import load_config
    from oleaster.pipeline.loading import load_artifact
    from oleaster.pipeline.scoring import score

    values: dict[str, float] = {}
    if latency and artifact is not None:
        values["latency_ms"] = _latency(load_artifact(artifact, config)[0], ready)
    if names:
        settled = load_config(run.recipe)
        evaluation = settled.evaluation.model_copy(update={"metrics": [*settled.evaluation.metrics, *_asked(names)]})
        settled = settled.model_copy(update={"evaluation": evaluation})
        values |= _figures(score(artifact or run.folder, settled, base=False, recipe=run.recipe)[-1])
    return values


def _asked(names: Sequence[str]) -> list[str]:
    from oleaster.evaluation.metrics import metrics

    return [name for name in names if name in metrics]


def _figures(report: Report) -> dict[str, float]:
    return {name: value.value for name, value in report.metrics.items() if value.unit not in _SPEEDS}


def _latency(predictor: Predictor, ready: Ready) -> float:
    """Milliseconds to answer one row, median."""
    from oleaster.inference.predictor import Sampling

    times = []
    for row in ready.data.validation[:ASKED_FOR_LATENCY]:
        begun = time.perf_counter()
        predictor.generate([row.prompt_ids], Sampling(ready.config.evaluation.max_new_tokens))
        times.append(time.perf_counter() - begun)
    return round(1000 * statistics.median(times[1:] or times), 3)
