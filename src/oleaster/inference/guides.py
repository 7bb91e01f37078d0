"""Which tokens an answer may go on with: one of given answers, or JSON that fits a schema. No torch here.

The grammar of a schema, and which tokens of a vocabulary go on with it, is llguidance's work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from oleaster.core.errors import ConfigError
from oleaster.inference.choosing import Logits, choice_tree, restrict
from oleaster.inference.predictor import Sampling

AS_WRITTEN = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON as `json.dumps` writes it, and as answers of training rows have it."""


class Guide(Protocol):
    """What holds the answers of one call to a form."""

    def restrict(self, logits: Logits, rows: Sequence[int], begun: Sequence[Sequence[int]]) -> Logits:
        """Logits [rows, vocabulary] with all at minus infinity that an answer cannot go on with.

        Args:
            rows: which prompt each row answers.
            begun: the tokens that each answer has so far.
        """
        ...


def guide_of(sampling: Sampling, tokenizer_json: Callable[[], str], stop_ids: Sequence[int]) -> Guide | None:
    """The guide that `sampling` asks for; None: any answer is allowed.

    Args:
        tokenizer_json: gives the contents of the model's tokenizer.json.
        stop_ids: ids that end an answer.

    Raises: ConfigError for a schema that is none.
    """
    if sampling.choices:
        return _Choices(sampling)
    return _Schema(sampling.json_schema, tokenizer_json(), stop_ids) if sampling.json_schema else None


class _Choices:
    def __init__(self, sampling: Sampling) -> None:
        self._tree = choice_tree(sampling.choices)

    def restrict(self, logits: Logits, rows: Sequence[int], begun: Sequence[Sequence[int]]) -> Logits:
        return restrict(logits, self._tree, begun)


class _Schema:
    def __init__(self, schema: str, tokenizer_json: str, stop_ids: Sequence[int]) -> None:
        import llguidance

        self._tokenizer = llguidance.LLTokenizer(tokenizer_json, eos_token=sorted(stop_ids))
        self._grammar = _grammar(schema)
        if problem := llguidance.LLMatcher.validate_grammar(self._grammar, self._tokenizer):
            raise ConfigError(f"no answer can be held to this schema: {problem}", where="json_schema")
        self._matchers: dict[int, tuple[Any, int]] = {}
        """By prompt: where its answer stands in the grammar, and how many tokens brought it there."""

    def restrict(self, logits: Logits, rows: Sequence[int], begun: Sequence[Sequence[int]]) -> Logits:
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

        words = allocate_token_bitmask(len(rows), self._tokenizer.vocab_size)
        for i, (row, tokens) in enumerate(zip(rows, begun, strict=True)):
            fill_next_token_bitmask(self._at(row, tokens), words, i)
        allowed = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")[:, : self._tokenizer.vocab_size]
        restricted = np.full_like(logits, -np.inf)
        width = min(logits.shape[1], allowed.shape[1])  # a vocabulary may be padded beyond its tokenizer
        np.copyto(restricted[:, :width], logits[:, :width], where=allowed[:, :width].astype(bool))
        return restricted

    def _at(self, row: int, tokens: Sequence[int]) -> Any:
        """The matcher of a row's answer, brought to where the answer stands."""
        import llguidance

        matcher, taken = self._matchers.get(row) or (llguidance.LLMatcher(self._tokenizer, self._grammar), 0)
        if not matcher.consume_tokens(list(tokens[taken:])):
            raise RuntimeError(f"tokens {tokens[taken:]} were chosen against the grammar: {matcher.get_error()}")
        self._matchers[row] = (matcher, len(tokens))
        return matcher


def _grammar(schema: str) -> str:
    import llguidance

    try:
        described = json.loads(schema)
    except ValueError as error:
        raise ConfigError(f"the schema is no JSON: {error}", where="json_schema") from error
    if not isinstance(described, dict):
        raise ConfigError("a schema is a JSON object", where="json_schema", remedy='{"type": "object", ...}')
    return llguidance.LLMatcher.grammar_from_json_schema({"x-guidance": AS_WRITTEN, **described})
