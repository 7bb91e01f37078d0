"""A run, model or artifact is asked rows and scored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oleaster.config.load import load_config
from oleaster.config.schema import Config
from oleaster.core.errors import DataError, UserError
from oleaster.core.line import run_of
from oleaster.pipeline.constraints import Allowed, allowed_answers
from oleaster.pipeline.head_scoring import evaluate_head
from oleaster.pipeline.heads import head_behind
from oleaster.pipeline.loading import (
    attach,
    load_artifact,
    load_part,
    parts,
    recipe_of,
    refuse_adapter,
    use_threads,
)
from oleaster.pipeline.rows import rows_to_ask

if TYPE_CHECKING:
    from oleaster.data.papers import Encoded, Example, Head
    from oleaster.evaluation.report import Report
    from oleaster.inference.predictor import Predictor
    from oleaster.inference.torch_predictor import TorchPredictor


def evaluate(
    path: Path | str,
    config: Config,
    base: bool = True,
    output: Path | None = None,
    adapter: str | None = None,
    recipe: Path | None = None,
) -> list[Report]:
    """Score a run, model or artifact on rows; a run also against its base.

    The rows are those that `config.data` names; where the recipe of the run or artifact names the same, those that
    were held out in training.

    Args:
        base: score the base as well, first.
        output: folder for the reports and predictions; default: `predictions` of a run, else `evaluations/NAME`.
        adapter: name of one that an artifact of `generate_adapter` carries.
        recipe: that of the training behind a model that carries none; it says which rows were held out.
    """
    if output is None:
        output = run.predictions if (run := run_of(path)) is not None else default_output(path)
    return score(path, config, base=base, output=output, adapter=adapter, recipe=recipe)


def score(
    path: Path | str,
    config: Config,
    *,
    base: bool = True,
    output: Path | None = None,
    adapter: str | None = None,
    recipe: Path | None = None,
    rows: Iterable[Mapping[str, Any]] | None = None,
) -> list[Report]:
    """As `evaluate`, but nothing is saved without `output`.

    Args:
        rows: rows in memory, to ask instead of those that anything names.
    """
    from oleaster import tasks
    from oleaster.core.artifact import Artifact
    from oleaster.core.plugins import load_plugins
    from oleaster.evaluation.evaluate import evaluate as ask
    from oleaster.evaluation.metrics import check_metrics

    load_plugins(config.plugins)
    check_metrics(config.evaluation.metrics)
    if (head := head_behind(path, adapter) or _embedding(config)) is not None:
        return evaluate_head(path, config, head, base, output, rows)

    def scored(predictor: Predictor, folder: str) -> Report:
        where = None if output is None else output / folder
        allowed = {"choices": answers.choices, "json_schema": answers.json_schema}
        return ask(predictor, examples, encoded, settings, where, labels=labels, metrics=metrics, **allowed)

    settings = config.evaluation
    metrics = tasks.get_task(config.task.type).metrics_of(config)
    if Artifact.is_artifact(Path(path)):
        predictor, tokenizer = load_artifact(path, config, adapter)
        examples, encoded, labels, answers = _rows_to_score(config, tokenizer, recipe_of(path, adapter) or recipe, rows)
        return [scored(predictor, "artifact")]
    refuse_adapter(path, adapter)
    use_threads(config)
    reports: list[Report] = []
    for predictor in _torch_predictors(path, config, base):
        if not reports:
            tokenizer, found = predictor.loaded.tokenizer, recipe_of(path) or recipe
            examples, encoded, labels, answers = _rows_to_score(config, tokenizer, found, rows)
        reports.append(scored(predictor, predictor.name))
    return reports


def _torch_predictors(path: Path | str, config: Config, base: bool) -> Iterator[TorchPredictor]:
    """The base of a run (with `base`) and the tuned model; of a model that is no run, that model as `base`.

    A base and its adapter are one model in memory: use each predictor before the next one is asked for.
    """
    from oleaster.inference.torch_predictor import TorchPredictor

    run, (source, adapter) = run_of(path), parts(path, config)
    if run is not None and not run.adapter.is_dir():  # trained whole: its base is another model
        if base:
            began = config.model_copy(update={"model": load_config(run.recipe).model})
            yield TorchPredictor(load_part(str(began.model.model_name_or_path), began), "base")
        yield TorchPredictor(load_part(source, config), "tuned")
        return
    loaded = load_part(source, config, adapter)
    if adapter is None or base:
        yield TorchPredictor(loaded, "base")
    if adapter is not None:
        attach(loaded, adapter)
        yield TorchPredictor(loaded, "tuned")


def default_output(path: Path | str) -> Path:
    """Where the evaluation of something that is no run is kept: an exported model ships without its test rows."""
    place = Path(path)
    return Path("evaluations") / (place.resolve().name if place.exists() else str(path).replace("/", "--"))


def _embedding(config: Config) -> Head | None:
    """The one head that any language model has without training."""
    from oleaster import tasks

    return tasks.head(config) if config.task.type == "embedding" else None


def _rows_to_score(
    config: Config, tokenizer: Any, found: Path | None, given: Iterable[Mapping[str, Any]] | None
) -> tuple[Sequence[Example], list[Encoded], list[str] | None, Allowed]:
    """Rows to ask, as they are and as token ids; the labels, as far as a recipe knows them; and the answers there may
    be (none: any)."""
    from oleaster.data.encode import encode
    from oleaster.data.prepare import build_given

    recipe = load_config(found) if found else None
    examples = rows_to_ask(config, recipe)[0] if given is None else build_given(config.data, given)
    if not examples and given is None:
        remedy = "name rows: -d test.jsonl"
        raise DataError("no rows were held out in training", where=str(found), remedy=remedy)
    encoded = encode(examples, tokenizer, config.data, every_turn=False)[0]
    known = config.task.labels if config.task.type == "classification" else None
    return examples, encoded, known or _labels(recipe), allowed_answers(config, found, tokenizer)


def _labels(recipe: Config | None) -> list[str] | None:
    """The labels of the training rows, empty where their answers are no labels; None where the rows are not here."""
    from oleaster.data.prepare import prepare
    from oleaster.evaluation.figures import find_labels

    if recipe is None:
        return None
    try:
        return find_labels([example.target for example in prepare(recipe.data, recipe.seed).train])
    except UserError:  # an artifact on another machine, or rows that have moved: the references must do
        return None
