"""What a kind of task is, and what of it a recipe settles."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from oleaster.config.rules import head_of
from oleaster.config.schema import Config
from oleaster.core.registry import Registry
from oleaster.data.entities import bio_labels, schema
from oleaster.data.papers import Head
from oleaster.data.prepare import Prepared


@dataclass(frozen=True)
class Task:
    """A kind of task."""

    name: str
    settle: Callable[[Config, Prepared], Config]
    """Decide from the checked rows what the recipe leaves open (labels, instruction, range of scores), so that the
    recipe says everything an artifact needs. Raises: DataError when the rows are none of this kind."""
    metrics: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Head -> names of the metrics that answers of this kind are measured by, beside those of every evaluation."""
    answers: str = "text"
    """What `answer_with: auto` means where the language model answers: text, labels or json."""

    def metrics_of(self, config: Config) -> tuple[str, ...]:
        """The metrics for what answers under this recipe."""
        return self.metrics.get(head_of(config), ())


@dataclass(frozen=True)
class Constraint:
    """Which answers there can be; empty: any text."""

    labels: tuple[str, ...] = ()
    json_schema: str = ""
    """JSON text."""


tasks: Registry[Task] = Registry("task")


def head(config: Config) -> Head | None:
    """What answers in the place of the vocabulary under a settled recipe; None: the language model itself."""
    task, kind = config.task, head_of(config)
    labels = tuple(task.labels or ())
    if kind == "sequence":
        return Head("sequence", labels)
    if kind == "token":
        return Head("token", bio_labels(labels))
    if kind == "embedding":
        return Head("embedding", pooling=task.pooling, normalize=task.normalize)
    return None


def constraint(config: Config, answers: str) -> Constraint:
    """Which answers a settled recipe allows, `answers` being what `auto` means."""
    wanted = config.evaluation.answer_with if config.evaluation.answer_with != "auto" else answers
    kinds = config.task.labels
    if wanted == "labels" and kinds:
        return Constraint(labels=tuple(kinds))
    if wanted == "json":
        if config.task.json_schema:
            return Constraint(json_schema=config.task.json_schema.read_text("utf-8"))
        return Constraint(json_schema=json.dumps(schema(kinds) if kinds else {"type": "object"}))
    return Constraint()


def settled(config: Config, **changes: object) -> Config:
    """`config` with fields of its sections changed: `settled(config, data={...}, task={...})`."""
    sections = {name: getattr(config, name).model_copy(update=fields) for name, fields in changes.items()}  # type: ignore[arg-type]
    return config.model_copy(update=sections)


def with_instruction(config: Config, instruction: str) -> Config:
    """`config` with a system prompt where rows are chats and nobody has said another one ("" = none)."""
    data = config.data
    if data.system_prompt is not None or data.data_format in ("template", "text", "messages", "sharegpt", "alpaca"):
        return config
    return settled(config, data={"system_prompt": instruction})
