"""One model on rows that the caller has, and two models side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from oleaster.config.load import load_config
from oleaster.config.schema import Config
from oleaster.core.errors import ConfigError, DataError
from oleaster.core.line import run_of
from oleaster.pipeline.loading import recipe_of
from oleaster.pipeline.scoring import default_output, evaluate, score

if TYPE_CHECKING:
    from oleaster.evaluation.report import Report


def evaluate_model(
    model_path: Path | str,
    test_dataset: Iterable[Mapping[str, Any]] | Path | str,
    metric_type: str | Sequence[str] = "accuracy",
    **settings: object,
) -> Report:
    """Score a model on rows: `evaluate_model("runs/first", rows, "f1")["macro_f1"].value`.

    Args:
        model_path: run, model folder, hub id, .gguf file or artifact; of a run the tuned model.
        test_dataset: rows as mappings (a list, a `datasets.Dataset`), or a file, folder or hub data set. Their shape is
            that of the run's recipe, else found by their columns.
        metric_type: names of metrics (docs/metrics.md); usual other names such as F1 or ROUGE are understood.
        settings: of a recipe, by their names: `prompt_field="text"`, `max_new_tokens=20`.

    Returns:
        a report with these figures, and those of every evaluation; `report[name]` is a figure with its interval.

    Raises: UserError for settings, rows and models that cannot be used.
    """
    words = [metric_type] if isinstance(metric_type, str) else list(metric_type)
    settings = {**settings, "metrics": [*_listed(settings.get("metrics")), *words]}
    rows: Iterable[Mapping[str, Any]] | None = None
    if isinstance(test_dataset, Path | str):
        place = "data_files" if Path(test_dataset).is_file() else "data_name"
        settings |= {"data_files": None, "eval_data_files": None, "data_name": None, place: str(test_dataset)}
    else:
        rows = test_dataset
    config = load_config(recipe_of(model_path), settings)
    return score(model_path, config, base=False, rows=rows)[-1]


def report_of(path: Path | str, config: Config | None = None, output: Path | None = None) -> Report:
    """How a model did: evaluated now when there is a `config`, else as its last evaluation says.

    Args:
        path: whatever `evaluate` takes; without `config` also a folder with a report.

    Returns: the report under the name of `path`.

    Raises: DataError when there is no saved report, or there are several.
    """
    from oleaster.evaluation.report import REPORT, load_report

    if config is not None:
        return replace(evaluate(path, config, base=False, output=output)[-1], model=str(path))
    run = run_of(path)
    places = [Path(path), *([run.predictions] if run else []), default_output(path)]
    found = [place / name for place in places for name in ("", "tuned", "artifact", "base")]
    saved = next((folder for folder in found if (folder / REPORT).is_file()), None)
    if saved is None:
        remedy = f"name rows (-d test.jsonl), or: oleaster evaluate {quote(str(path))} -d test.jsonl"
        raise DataError("there is no report of an evaluation", where=str(path), remedy=remedy)
    return replace(load_report(saved), model=str(path))


def _listed(metrics: object) -> list[str]:
    if metrics is None:
        return []
    if isinstance(metrics, str):
        return metrics.split(",")
    if isinstance(metrics, Sequence):
        return [str(name) for name in metrics]
    raise ConfigError(f"{metrics!r} is no list of names", where="metrics")
