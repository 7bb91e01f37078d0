"""The table of metrics, and how a metric gets what it asks for."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from oleaster.core.errors import ConfigError, DataError, MissingExtraError, UserError, collect
from oleaster.core.registry import Registry
from oleaster.evaluation.report import Row
from oleaster.evaluation.tally import Tally, mean

Reference = str | Sequence[str]
"""The acceptable answer, or several of them."""
Found = Tally | Sequence[float] | float | Mapping[str, Tally]
Metric = Callable[..., Found]

metrics: Registry[Metric] = Registry("metric")

COLUMNS: Mapping[str, Callable[[Row], Any]] = {
    "predictions": lambda row: row.prediction,
    "references": lambda row: [row.reference, *row.also] if row.also else row.reference,
    "prompts": lambda row: row.prompt,
    "finishes": lambda row: row.finish,
    "confidences": lambda row: row.confidence,
    "nats": lambda row: row.nll if row.targets else None,
    "targets": lambda row: row.targets or None,
    "correct": lambda row: row.correct if row.targets else None,
    "sizes": lambda row: row.learned_bytes or None,
}
"""What a metric may ask for by the name of a parameter: one value per row. A row without it takes no part."""
LABELS = "labels"
"""The one parameter that is no column: the labels of the task; empty where answers are free text."""

_OTHER_NAMES = {
    "f1": "macro_f1",
    "f1_score": "macro_f1",
    "em": "exact_match",
    "rouge": "rouge_l",
    "rouge1": "rouge_1",
    "rouge2": "rouge_2",
    "rougel": "rouge_l",
    "ece": "calibration",
    "bpb": "bits_per_byte",
    "sacrebleu": "bleu",
    "seqeval": "entity_f1",
    "spearmanr": "spearman",
}


def full_name(name: str) -> str:
    """The registered name that `name` means: `F1`, `ROUGE-L` and `BLEU` are understood; others are left as they are."""
    if name in metrics:
        return name
    plain = name.lower().replace("-", "_").replace(" ", "_")
    return plain if plain in metrics else _OTHER_NAMES.get(plain.replace("_", ""), _OTHER_NAMES.get(plain, name))


def needs_library(package: str) -> Callable[[Metric], Metric]:
    """Decorator of a metric that needs a package of the extra `metrics`: it is missed before a model is asked."""

    def mark(metric: Metric) -> Metric:
        _libraries[metric] = package
        return metric

    return mark


_libraries: dict[Metric, str] = {}


def library_of(name: str) -> str | None:
    """The package of the extra `metrics` that a metric needs, if any; an unknown metric needs none."""
    return _libraries.get(metrics.get(full_name(name))) if full_name(name) in metrics else None


def check_metrics(names: Sequence[str]) -> list[str]:
    """The full names, in order and each once.

    Raises: ConfigError for all unknown metrics, and those that ask for something that rows do not have;
        MissingExtraError where a metric's library is not installed.
    """
    problems: list[UserError] = []
    for name in names:
        try:
            wants(full_name(name))
        except ConfigError as error:
            problems.append(error)
            continue
        library = library_of(name)
        if library and not find_spec(library):
            message = f"the metric '{name}' needs {library.replace('_', '-')}, which is not installed"
            problems.append(MissingExtraError(message, remedy="pip install 'oleaster[metrics]'"))
    collect(problems)
    return list(dict.fromkeys(map(full_name, names)))


def wants(name: str) -> tuple[str, ...]:
    """The parameters of a metric that rows fill; others need defaults.

    Raises: ConfigError for an unknown metric, or one that asks for what there is not.
    """
    known = (*COLUMNS, LABELS)
    parameters = inspect.signature(metrics.get(name)).parameters.values()
    strange = [p.name for p in parameters if p.name not in known and p.default is p.empty]
    if strange:
        message = f"the metric '{name}' asks for {', '.join(strange)}"
        raise ConfigError(message, remedy=f"name its parameters by what it needs: {', '.join(known)}")
    return tuple(p.name for p in parameters if p.name in known)


def measure(
    name: str, predictions: Sequence[str], references: Sequence[Reference], labels: Sequence[str] = ()
) -> Tally | float:
    """A metric of answers; numbers per row become a `Tally` of their mean.

    Raises: ConfigError when there is no such metric, or it returned another count of numbers than there are rows.
    """
    offered = {"predictions": predictions, "references": references, LABELS: labels}
    found = metrics.get(name)(**{each: offered[each] for each in wants(name)})
    return _settle(name, found, len(predictions))[name]


def measure_rows(name: str, rows: Sequence[Row], labels: Sequence[str] = ()) -> dict[str, Tally | float]:
    """A metric over the rows that have what it asks for; a metric of several figures gives `name[part]` each.

    Returns: nothing where no row has it.
    """
    asked = wants(name)
    columns = [each for each in asked if each != LABELS]
    values = [[COLUMNS[each](row) for each in columns] for row in rows]
    complete = [value for value in values if None not in value]
    if not complete:
        return {}
    offered: dict[str, Any] = dict(zip(columns, map(list, zip(*complete, strict=True)), strict=True))
    if LABELS in asked:
        offered[LABELS] = labels
    return _settle(name, metrics.get(name)(**offered), len(complete))


def refuse_missing(name: str, rows: Sequence[Row]) -> None:
    """Raises: DataError that says what the rows lack for the metric."""
    missing = [each for each in wants(name) if each != LABELS and all(COLUMNS[each](row) is None for row in rows)]
    why = {"predictions": "a prompt to be asked with", "sizes": "text that is learned", "confidences": "an answer"}
    lack = " and ".join(why.get(each, each) for each in missing) or "all that it asks for"
    raise DataError(f"no row has {lack}", where=f"the metric '{name}'", remedy="leave it out for these rows")


def _settle(name: str, found: Found, count: int) -> dict[str, Tally | float]:
    if isinstance(found, Tally):
        return {name: found}
    if isinstance(found, Mapping):
        return {f"{name}[{part}]": tally for part, tally in found.items()}
    if isinstance(found, int | float):
        return {name: float(found)}
    if len(found) != count:
        raise ConfigError(
            f"the metric '{name}' returned {len(found)} numbers for {count} rows",
            remedy="return one number per row, or a single number",
        )
    if broken := [i for i, number in enumerate(found) if not math.isfinite(number)]:
        raise ConfigError(f"the metric '{name}' returned no number for row {broken[0]}: {found[broken[0]]}")
    return {name: mean([float(number) for number in found], "")}
