"""What the data room hands on: a readable example, and the same as token ids."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
"""`{"role": ..., "content": ...}` plus `tool_calls`, `tool_call_id` where present: OpenAI's shape."""


@dataclass(frozen=True)
class Example:
    """One row as a person would read it.

    Exactly one of two forms: `text_parts` (templates and plain text) or `messages` (chats). In both, what is learned
    is marked: a part with `learn=True`, or the assistant turns.
    """

    source: str
    """`file:line` or `name[row]`, for messages to the user."""
    text_parts: tuple[tuple[str, bool], ...] = ()
    """(text, learn) in reading order."""
    messages: tuple[Message, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    target: str = ""
    """The reference answer: the last learned part or the last assistant turn."""
    label: str | None = None
    """Value of the label column, where one is known."""
    row: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The raw row."""


@dataclass(frozen=True)
class Encoded:
    """One row as token ids.

    `input_ids` holds prompt and answer and ends with the stop token that is learned. `targets` are the positions i of
    `input_ids` whose token is learned; the model predicts token i from the tokens before it, so i >= 1.
    """

    input_ids: tuple[int, ...]
    targets: tuple[int, ...]
    prompt_length: int
    """Tokens before the last learned answer begins: what is given to the model when it is asked."""
    example: int
    """Index of the row's `Example`."""

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.input_ids[: self.prompt_length]
