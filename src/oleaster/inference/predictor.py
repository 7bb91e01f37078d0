"""The one way to ask a model, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. `temperature=0` is greedy."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    """Keep only the k likeliest tokens (0 = all)."""
    top_p: float = 1.0
    """Keep the smallest set of tokens with this share of the probability."""
    seed: int = 0
    choices: tuple[tuple[int, ...], ...] = ()
    """Token sequences, each with its stop token: the answer is one of them. Empty = anything."""
    json_schema: str = ""
    """JSON schema, as text, that the answer fits. Empty = anything."""


@dataclass(frozen=True)
class Completion:
    """An answer."""

    token_ids: tuple[int, ...]
    """Generated ids, without the stop token."""
    text: str
    finish: Literal["stop", "length"]
    """`stop`: the model ended by itself; `length`: max_new_tokens was reached."""


@dataclass(frozen=True)
class Score:
    """Log-likelihood of the marked tokens of one row."""

    total: float
    """Sum of ln p(token) over the targets, in nats."""
    count: int
    """Number of targets."""
    correct: int
    """Targets that were also the likeliest token."""


class Predictor(Protocol):
    """A model that answers. All token ids are those of its own tokenizer."""

    name: str

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling = Sampling(),
        on_token: Callable[[int, int], None] | None = None,
    ) -> list[Completion]:
        """One completion per prompt, in the order given. `on_token(prompt index, token id)` is called as they come."""
        ...

    def score(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Score]:
        """For each (input_ids, target positions): how likely the targets are. See `data.papers.Encoded`."""
        ...
