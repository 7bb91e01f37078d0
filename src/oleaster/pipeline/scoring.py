"""A run, model or artifact is asked rows and scored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oleaster.config.schema import Config
from oleaster.core.errors import DataError
from oleaster.core.run import Run
from oleaster.pipeline.loading import attach, load_part, parts, run_of, use_threads

if TYPE_CHECKING:
    from oleaster.data.papers import Encoded, Example
    from oleaster.evaluation.report import Report
    from oleaster.inference.predictor import Predictor


def evaluate(path: Path | str, config: Config, base: bool = True, output: Path | None = None) -> list[Report]:
    """Score a run, model or artifact on rows; a run also against its base.

    The rows are those that `config.data` names; for a run whose recipe names the same, its held-out rows.

    Args:
        base: score the base as well, first.
        output: folder for the reports and predictions; default: `predictions` of a run.
    """
    from oleaster.core.artifact import Artifact
    from oleaster.core.plugins import load_plugins
    from oleaster.evaluation.evaluate import evaluate as score
    from oleaster.inference.torch_predictor import TorchPredictor

    load_plugins(config.plugins)
    run = run_of(path)
    if run is not None and output is None:
        output = run.predictions

    def scored(predictor: Predictor, folder: str) -> Report:
        where = None if output is None else output / folder
        return score(predictor, examples, encoded, config.evaluation, where)

    if Artifact.is_artifact(Path(path)):
        from oleaster.inference.onnx_predictor import OnnxPredictor
        from oleaster.models.tokenizer import load_tokenizer

        examples, encoded = _rows_to_score(config, load_tokenizer(Path(path)), run)
        return [scored(OnnxPredictor(Path(path), name=Path(path).name), "artifact")]
    use_threads(config)
    source, adapter = parts(path, config)
    loaded = load_part(source, config)
    examples, encoded = _rows_to_score(config, loaded.tokenizer, run)
    reports = [scored(TorchPredictor(loaded, "base"), "base")] if adapter is None or base else []
    if adapter is not None:
        attach(loaded, adapter)
        reports.append(scored(TorchPredictor(loaded, "tuned"), "tuned"))
    return reports


def _rows_to_score(config: Config, tokenizer: Any, run: Run | None) -> tuple[Sequence[Example], list[Encoded]]:
    from oleaster.config.load import load_config
    from oleaster.data.encode import encode
    from oleaster.data.prepare import prepare, read_test_rows

    data = config.data
    recipe = load_config(run.recipe) if run is not None else None
    if recipe is not None and _names_rows(recipe.data) == _names_rows(data):
        examples = prepare(recipe.data, recipe.seed).validation
        if not examples:
            raise DataError(
                "the run held no rows out",
                where=str(run.folder) if run else None,
                remedy="name test rows: -d test.jsonl",
            )
    else:
        names = data.data_files or [data.data_name or ""]
        examples = tuple(e for name in names for e in read_test_rows(data, name, data.eval_split))
    return examples, encode(examples, tokenizer, data, every_turn=False)[0]


def _names_rows(data: Any) -> tuple[Any, ...]:
    return data.data_name, tuple(data.data_files or ()), data.eval_split, tuple(data.eval_data_files or ())
