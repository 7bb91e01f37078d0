"""Classification: one of a few labels for each text, written by the language model or read off by a head."""

from __future__ import annotations

from collections.abc import Sequence

from oleaster.config.rules import head_of
from oleaster.config.schema import Config
from oleaster.core.errors import DataError
from oleaster.data.papers import Example
from oleaster.data.prepare import Prepared
from oleaster.tasks.generation import refuse_pairs
from oleaster.tasks.task import Task, settled, with_instruction

MOST_LABELS, LONGEST_LABEL = 1000, 200
"""More different answers than this, or longer ones (characters), are no labels."""
FEW = 20
"""Labels that an instruction may list."""


def settle(config: Config, prepared: Prepared) -> Config:
    """The labels are the different answers of the training rows; few of them are listed in the instruction."""
    refuse_pairs(config, prepared)
    labels = list(config.task.labels or labels_of(prepared.train))
    config = settled(config, task={"labels": labels})
    if head_of(config) == "text" and len(labels) <= FEW:
        return with_instruction(config, f"Classify the text as one of: {', '.join(labels)}.")
    return config


def labels_of(examples: Sequence[Example]) -> list[str]:
    """The different answers, sorted. Raises: DataError when they are no labels."""
    labels = sorted({example.target.strip() for example in examples})
    long = next((label for label in labels if len(label) > LONGEST_LABEL), None)
    found = f"{len(labels):,} different answers" if len(labels) > MOST_LABELS else "one and the same answer"
    remedy = "name the label column with --completion_field, or leave --task classification out"
    if long is not None:
        message = f"the answers are no labels: one has {len(long)} characters ({long[:40]!r}...)"
        raise DataError(message, where="task", remedy=remedy)
    if not 2 <= len(labels) <= MOST_LABELS:
        raise DataError(f"the answers are no labels: the training rows have {found}", where="task", remedy=remedy)
    return labels


TASK = Task(
    "classification", settle, {"text": ("accuracy", "macro_f1"), "sequence": ("accuracy", "macro_f1")}, "labels"
)
