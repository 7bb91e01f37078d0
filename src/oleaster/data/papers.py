"""What the data room hands on: a readable example, and the same as token ids."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

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
    sources: tuple[int, ...] = ()
    """Positions of the tokens whose states predict the targets (a word's tag is read off its last token), or whose
    states make up the embedding. Empty: each target is predicted from the token before it."""
    pair: Encoded | None = None
    """The other text of a pair; neither has targets, `sources` say what of each is pooled."""
    similarity: float | None = None
    """How alike the two texts of a pair are, 0 to 1; None where the rows do not say."""

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.input_ids[: self.prompt_length]


@dataclass(frozen=True)
class Head:
    """What answers in the place of the language model's vocabulary."""

    kind: Literal["sequence", "token", "embedding"]
    labels: tuple[str, ...] = ()
    """By id; of a token head BIO tags. An embedding has none."""
    pooling: Literal["mean", "last"] = "mean"
    """States that make up an embedding."""
    normalize: bool = True
    """Embeddings have length 1."""
