"""The blocks `search_strategy` and `search_space` of a recipe.

    search_strategy:
      type: tpe
      num_trials: 20
    search_space:
      learning_rate: {type: float, low: 1e-5, high: 1e-3, log: true}
      lora_r: {type: int, low: 8, high: 64, step: 8}
      lr_scheduler_type: [cosine, linear]
      warmup_ratio: {type: float, low: 0.0, high: 0.2, when: {lr_scheduler_type: cosine}}

Any setting of a recipe can be searched; names of other tools (`batch_size`) mean the same as on the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from oleaster.config.fields import NonNegativeInt, PositiveFloat, PositiveInt, Section, Words

Sampler = Literal["random", "grid", "tpe", "cma", "gp"]


class SearchStrategyConfig(Section):
    """How `oleaster search` looks for the best settings."""

    type: Sampler = Field(default="tpe", json_schema_extra={"flag": "search_strategy"})
    """How the next trial is chosen: random; grid = every combination; tpe, gp and cma learn from the trials before."""
    num_trials: PositiveInt | None = None
    """Trainings, those that are pruned or fail included; default: 20, or the whole grid."""
    objectives: Words = ["eval_loss"]
    """What is best: eval_loss, a metric of `evaluate` (accuracy, macro_f1, ...), size_mb, latency_ms, train_seconds; of
    several, the trials that none beats in all are kept. The direction is known, or is said: my_metric:max."""
    budget_minutes: PositiveFloat | None = None
    """Time for this command; a trial under way is put off, --resume goes on with it."""
    pruning: Literal["none", "median", "asha"] = "none"
    """Stop a trial early whose validation loss is worse than the median of the others; asha: than the best third."""
    pruning_warmup: NonNegativeInt = 1
    """Validations that every trial gets before it can be pruned."""
    num_startup_trials: PositiveInt | None = None
    """Trials at random before tpe, gp and cma learn, and before the median counts; default: a quarter, 4 to 10."""
    start_with_recipe: bool = True
    """Try the recipe's own settings first, where they lie in the space (not with grid)."""
    workers: PositiveInt = Field(default=1, json_schema_extra={"flag": "search_workers"})
    """Processes that train trials at the same time; they share the CPU threads."""
    trials_together: PositiveInt = 1
    """Trials that a process trains in one pass over the shared base, where methods and base allow it (LoRA)."""
    engine: Literal["local", "ray"] = Field(default="local", json_schema_extra={"flag": "search_engine"})
    """ray = trials run on the machines of a Ray cluster."""
    ray_address: str | None = None
    """Address of the cluster's head, or auto; default: a cluster of this machine alone."""
    storage: Literal["journal", "sqlite"] = Field(default="journal", json_schema_extra={"flag": "search_storage"})
    """File that Optuna keeps the study in."""


@dataclass(frozen=True)
class Dimension:
    """One setting that is searched."""

    name: str
    """Name of the setting in `Config`, whatever alias the recipe uses."""
    type: Literal["float", "int", "choice"]
    low: float = 0.0
    high: float = 0.0
    """Both ends belong to it."""
    log: bool = False
    """Draw the logarithm evenly."""
    step: float | None = None
    values: tuple[str, ...] = ()
    """Of a choice, as a recipe would have them (`q_proj,v_proj` is one value)."""
    when: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """The setting is searched only while each of these settings has one of these values."""


DIMENSION_KEYS = ("type", "low", "high", "log", "step", "values", "when")
SPACE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "default": {},
    "additionalProperties": {
        "anyOf": [
            {"type": "array", "description": "The values of a choice."},
            {
                "type": "object",
                "required": ["type"],
                "additionalProperties": False,
                "properties": {
                    "type": {"enum": ["float", "int", "choice"]},
                    "low": {"type": ["number", "string"]},
                    "high": {"type": ["number", "string"]},
                    "log": {"type": "boolean", "description": "Draw the logarithm evenly."},
                    "step": {"type": ["number", "string"]},
                    "values": {"type": "array"},
                    "when": {
                        "type": "object",
                        "description": "Searched only while these settings have these values.",
                    },
                },
            },
        ]
    },
}


def read_space(value: object) -> object:
    """A space typed on a command line is YAML; plain data is made the same whether a recipe or Python gave it."""
    if isinstance(value, str):
        import yaml  # here, because `--help` loads this module and needs no YAML

        try:
            value = yaml.safe_load(value) or {}
        except yaml.YAMLError:
            raise ValueError("not valid YAML; write {learning_rate: {type: float, low: 1e-5, high: 1e-3}}") from None
    return {str(name): _plain(entry) for name, entry in value.items()} if isinstance(value, Mapping) else value


def _plain(entry: object) -> object:
    """Scalars as text, which is how a recipe gives them; `[a, b]` is a choice."""
    if isinstance(entry, list | tuple):
        return {"type": "choice", "values": [text_of(item) for item in entry]}
    if not isinstance(entry, Mapping):
        return text_of(entry)
    return {str(key): _inner(part) for key, part in entry.items() if part is not None}


def _inner(part: object) -> object:
    if isinstance(part, Mapping):
        return {str(key): _inner(value) for key, value in part.items()}
    return [text_of(item) for item in part] if isinstance(part, list | tuple) else text_of(part)


def text_of(value: object) -> str:
    """A value as a recipe would have it, on one line without quotes."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list | tuple):
        return ",".join(map(text_of, value))
    return str(value)
