"""Rows are asked of a model with a head."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oleaster.config.schema import Config
from oleaster.core.artifact import Artifact
from oleaster.core.errors import ConfigError, DataError
from oleaster.core.line import run_of
from oleaster.pipeline.loading import attach, load_part, load_tuned, parts, recipe_of, use_threads
from oleaster.pipeline.rows import rows_to_ask

if TYPE_CHECKING:
    from oleaster.data.papers import Encoded, Example, Head
    from oleaster.evaluation.report import Report
    from oleaster.inference.head_predictor import HeadPredictor


Given = Iterable[Mapping[str, Any]] | None
"""Rows in memory, to ask instead of those that anything names."""


def evaluate_head(
    path: Path | str, config: Config, head: Head, base: bool, output: Path | None, given: Given = None
) -> list[Report]:
    """Score a model with a head; see `scoring.score`. Only an embedding has a base to be compared with."""
    if Artifact.is_artifact(Path(path)):
        predictor = load_head(path, config, head)
        examples, encoded = _rows(path, config, predictor.tokenizer, head, given)
        return [_score(predictor, examples, encoded, config, output and output / "artifact")]
    use_threads(config)
    reports: list[Report] = []
    for predictor in _torch_predictors(path, config, head, base):
        if not reports:
            examples, encoded = _rows(path, config, predictor.tokenizer, head, given)
        reports.append(_score(predictor, examples, encoded, config, output and output / predictor.name))
    return reports


def _torch_predictors(path: Path | str, config: Config, head: Head, base: bool) -> Iterator[HeadPredictor]:
    """As in `scoring`: use each before the next one is asked for."""
    from oleaster.config.load import load_config
    from oleaster.inference.torch_heads import head_predictor

    run, (source, adapter) = run_of(path), parts(path, config)
    compared = base and head.kind == "embedding"
    if run is not None and adapter is None:  # trained whole
        if compared:
            began = config.model_copy(update={"model": load_config(run.recipe).model})
            loaded = load_part(str(began.model.model_name_or_path), began, head=head)
            yield head_predictor(loaded, head, "base")
        yield head_predictor(load_part(source, config, head=head), head, "tuned")
        return
    loaded = load_part(source, config, adapter, head)
    if adapter is None:
        yield head_predictor(loaded, head, "base" if head.kind == "embedding" else "tuned")
        return
    if compared:
        yield head_predictor(loaded, head, "base")
    attach(loaded, adapter)
    yield head_predictor(loaded, head, "tuned")


def load_head(path: Path | str, config: Config, head: Head) -> HeadPredictor:
    """A run, model folder or artifact with a head, ready to answer."""
    if Artifact.is_artifact(Path(path)) and Artifact.open(Path(path)).kind != "hf":
        from oleaster.inference.onnx_heads import onnx_head_predictor

        return onnx_head_predictor(Path(path), head, threads=config.training.num_threads)
    from oleaster.inference.torch_heads import head_predictor

    use_threads(config)
    return head_predictor(load_tuned(path, config, head), head, str(path))


def _rows(
    path: Path | str, config: Config, tokenizer: Any, head: Head, given: Given
) -> tuple[Sequence[Example], Sequence[Encoded]]:
    from oleaster.config.load import load_config
    from oleaster.data.encode_heads import encode_for_head
    from oleaster.data.prepare import build_given

    found = recipe_of(path)
    recipe = load_config(found) if found else None
    examples = rows_to_ask(config, recipe)[0] if given is None else build_given(config.data, given)
    if not examples and given is None:
        raise DataError("no rows were held out in training", where=str(path), remedy="name rows: -d test.jsonl")
    if examples and examples[0].text_parts and head.kind == "embedding" and len(examples[0].text_parts) != 2:
        raise ConfigError("the rows are no pairs of texts", where="data_format", remedy="--data_format pairs")
    return examples, encode_for_head(examples, tokenizer, config.data, head)[0]


def _score(
    predictor: HeadPredictor,
    examples: Sequence[Example],
    encoded: Sequence[Encoded],
    config: Config,
    output: Path | None,
) -> Report:
    from oleaster import tasks
    from oleaster.evaluation.evaluate import evaluate
    from oleaster.evaluation.similarity import evaluate_pairs

    names = tasks.get_task(config.task.type).metrics_of(config)
    if predictor.head.kind == "embedding":
        return evaluate_pairs(predictor, examples, encoded, [*config.evaluation.metrics, *names], output)
    labels = predictor.head.labels if predictor.head.kind == "sequence" else ()
    return evaluate(predictor, examples, encoded, config.evaluation, output, labels=labels, metrics=names)
