"""What one cell of a row may hold."""

from __future__ import annotations

import json
from typing import Any


class BadRowError(ValueError):
    """What is wrong with one row; the caller knows which one."""


def as_text(value: Any, column: str) -> str:
    """The text of a cell: text as it stands, numbers and booleans as JSON writes them. Raises: BadRowError."""
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    if value is None:
        raise BadRowError(f"'{column}' is empty (null), not text")
    if isinstance(value, (dict, list)):
        kind = "an object" if isinstance(value, dict) else "a list"
        raise BadRowError(f"'{column}' is {kind}, not text; where JSON is to be learned, write it as text")
    raise BadRowError(f"'{column}' is a {type(value).__name__}, not text")
