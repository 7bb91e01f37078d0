"""The steps of a recipe, `passes:`, in the short forms that people write.

    passes:
      - finetune                      # a step of that type
      - prune: {sparsity: 0.3}        # with settings
      - tone:                         # with a name of its own
          type: finetune
          task_name: tone

A mapping of the same entries, and `finetune,onnx` as text, mean the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_serializer

_NAME = re.compile(r"[A-Za-z0-9][\w-]*")


class Step(BaseModel):
    """One step of a recipe: what it is called, which pass does it, and the settings that are its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Names the step's folder."""
    type: str
    settings: dict[str, Any] = {}
    """As written; the pass knows their types."""

    @model_serializer
    def short(self) -> str | dict[str, dict[str, Any]]:
        """The form that a person would write."""
        type_ = {"type": self.type} if self.type != self.name else {}
        return {self.name: {**type_, **self.settings}} if type_ or self.settings else self.name


def read_steps(value: object) -> object:
    """Every form -> a list of what `Step` is made of. Raises: ValueError for entries that are no steps."""
    if isinstance(value, str):
        value = [word.strip() for word in value.split(",") if word.strip()]
    if isinstance(value, Mapping):
        value = [{name: settings} for name, settings in value.items()]
    if not isinstance(value, list | tuple):
        return value
    steps = [_read_step(entry) for entry in value]
    names = [step["name"] for step in steps]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two steps are called '{twice}'; give one a name of its own: {twice}2: {{type: {twice}}}")
    return steps


def _read_step(entry: object) -> dict[str, Any]:
    if isinstance(entry, Step):
        return {"name": entry.name, "type": entry.type, "settings": entry.settings}
    name, settings = _named(entry)
    if not _NAME.fullmatch(name):
        raise ValueError(f"'{name}' is no name for a step; letters, digits, - and _ make one")
    if settings is not None and not isinstance(settings, Mapping):
        raise ValueError(f"the settings of '{name}' are no mapping; write {name}: {{setting: value}}")
    own = dict(settings or {})
    return {"name": name, "type": str(own.pop("type", name)), "settings": own}


def _named(entry: object) -> tuple[str, object]:
    if isinstance(entry, str):
        return entry, None
    if isinstance(entry, Mapping) and len(entry) == 1:
        return next((str(name), settings) for name, settings in entry.items())
    raise ValueError(f"{entry!r} is no step; write its name, or name: {{setting: value}}")
