"""Kinds of task: what their rows look like, what answers, which answers there can be, what is measured.

One file per kind; each enters a `Task` in the table `tasks`.
"""

from __future__ import annotations

from oleaster.config.schema import Config
from oleaster.data.prepare import Prepared
from oleaster.tasks import classification, embedding, extraction, generation, rewriting
from oleaster.tasks.task import Constraint, Task, constraint, head, tasks

__all__ = ["Constraint", "Task", "constraint", "get_task", "head", "settle", "tasks"]

for _each in (generation.TASK, classification.TASK, extraction.TASK, *rewriting.TASKS, embedding.TASK):
    tasks.register(_each.name)(_each)


def get_task(name: str) -> Task:
    """The kind of task called `name`. Raises: ConfigError for an unknown one."""
    return tasks.get(name)


def settle(config: Config, prepared: Prepared) -> Config:
    """See `Task.settle`; the same rows settle the same again."""
    return get_task(config.task.type).settle(config, prepared)
