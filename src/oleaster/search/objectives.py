"""What can be the aim of a search, and which way each measure is good."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from oleaster.config.schema import Config
from oleaster.core.errors import ConfigError, UserError, collect, near_names
from oleaster.search.papers import Objective

TRAINING = {"eval_loss": False, "train_seconds": False}
"""Known when a trial is trained -> is more better?"""
SHIPPING = {"size_mb": False, "latency_ms": False}
"""Of what ships: MB (1,000,000 bytes) of weights that were trained, or of the artifact where export settings are
searched; milliseconds to answer one held-out row, median."""
LOWER = ("loss", "perplexity", "bits_per_byte", "outside_labels", "calibration")
HIGHER = (
    *("accuracy", "exact_match", "token_accuracy", "natural_stop", "micro_f1", "macro_f1", "entity_f1"),
    *("bleu", "chrf", "rouge_1", "rouge_2", "rouge_l", "spearman", "json_validity", "json_match"),
)
"""Measures of `evaluate` whose direction is known; of others it is said: `my_metric:max`."""


def read_objectives(
    config: Config, metrics: Iterable[str], full_name: Callable[[str], str] = str
) -> tuple[Objective, ...]:
    """The objectives of a recipe, the first one the most important.

    Args:
        metrics: names of all measures of answers that are registered, plug-ins among them.
        full_name: the one of them that a name means.

    Raises: ConfigError when one is unknown, or its direction is; all of them together.
    """
    registered = frozenset(metrics)
    found: list[Objective] = []
    problems: list[UserError] = []
    for written in config.search_strategy.objectives:
        try:
            found.append(_read(written, registered, full_name))
        except ConfigError as problem:
            problems.append(problem)
    collect(problems)
    return tuple(found)


def _read(written: str, metrics: frozenset[str], full_name: Callable[[str], str]) -> Objective:
    name, _, direction = written.partition(":")
    if direction not in ("", "min", "max"):
        raise ConfigError(
            f"'{direction}' is no direction", where=f"objectives: {written}", remedy=f"{name}:max or :min"
        )
    said = {"max": True, "min": False}.get(direction)
    if name in TRAINING or name in SHIPPING:
        known_direction = {**TRAINING, **SHIPPING}[name]
        kind = "training" if name in TRAINING else "shipping"
        return Objective(name, known_direction if said is None else said, kind)
    name = full_name(name)
    if name in LOWER or name in HIGHER:
        return Objective(name, name in HIGHER if said is None else said, "answers")
    if name not in metrics:
        known = [*TRAINING, *SHIPPING, *LOWER, *HIGHER, *metrics]
        raise ConfigError(f"there is no measure '{name}'", where="objectives", remedy=near_names(name, known))
    if said is None:
        message = f"nothing says whether more or less of '{name}' is better"
        raise ConfigError(message, where="objectives", remedy=f"{name}:max or {name}:min")
    return Objective(name, said, "answers")
