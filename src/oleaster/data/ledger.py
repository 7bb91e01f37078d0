"""Where every row and every token went. The sums must balance, or the program is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Part:
    """The rows of one side, training or validation. Token counts stay 0 until the rows are encoded."""

    rows: int = 0
    """Rows chosen for this side."""
    used: int = 0
    """Rows that are really trained on (or validated on)."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Rows left out, by reason."""
    truncated: int = 0
    """Used rows that were shortened to max_length."""
    answers_cut: int = 0
    """Truncated rows whose answer itself had to be cut: they do not learn to stop."""
    escaped: int = 0
    """Used rows whose text contained a control token of the model; it was encoded as plain text."""
    sequences: int = 0
    """Token sequences made of the used rows; more than `used` where each turn of a chat became one."""
    tokens_read: int = 0
    """Tokens of all rows before anything was cut or dropped."""
    tokens_trained: int = 0
    """Target tokens: those the loss is taken of."""
    tokens_masked: int = 0
    """Tokens that are read by the model but not learned (prompts)."""
    tokens_truncated: int = 0
    tokens_dropped: int = 0


@dataclass(frozen=True)
class Ledger:
    """Rows and tokens from the file to the training step.

    `read = sliced_away + train.rows + validation.rows`; in each part `rows = used + dropped` and
    `tokens_read = trained + masked + truncated + dropped`.
    """

    read: int
    """Rows read from all sources."""
    sliced_away: int
    """Rows outside the asked slices, or beyond max_samples."""
    train: Part
    validation: Part
    duplicated: int = 0
    """Rows that repeat an earlier row exactly; they are kept, on the same side as the first one."""
    conflicting: int = 0
    """Rows whose prompt also occurs with another answer."""

    def check(self) -> None:
        """Raises: AssertionError when a sum does not balance (a bug of ours, never of the data)."""
        chosen = self.sliced_away + self.train.rows + self.validation.rows
        assert self.read == chosen, f"rows: read {self.read}, accounted for {chosen}"
        for name, part in (("train", self.train), ("validation", self.validation)):
            rows = part.used + sum(part.dropped.values())
            assert part.rows == rows, f"{name} rows: {part.rows} chosen, {rows} accounted for"
            tokens = part.tokens_trained + part.tokens_masked + part.tokens_truncated + part.tokens_dropped
            assert part.tokens_read == tokens, f"{name} tokens: {part.tokens_read} read, {tokens} accounted for"
            assert part.truncated <= part.used <= part.rows, f"{name}: more rows truncated than used"
            counts = [value for value in asdict(part).values() if isinstance(value, int)]
            assert min(counts) >= 0, f"{name}: a count is negative"

    def rows(self) -> Iterator[tuple[str, int, int]]:
        """(what, training, validation) for a table; what is 0 on both sides is left out, except the totals."""
        train, validation = self.train, self.validation
        yield "rows", train.rows, validation.rows
        for reason in sorted({*train.dropped, *validation.dropped}):
            yield f"dropped: {reason}", train.dropped.get(reason, 0), validation.dropped.get(reason, 0)
        yield "rows used", train.used, validation.used
        optional = (
            ("rows truncated", "truncated"),
            ("answers cut", "answers_cut"),
            ("rows with control tokens as text", "escaped"),
            ("token sequences", "sequences"),
            ("tokens read", "tokens_read"),
            ("tokens trained", "tokens_trained"),
            ("tokens masked", "tokens_masked"),
            ("tokens truncated", "tokens_truncated"),
            ("tokens dropped", "tokens_dropped"),
        )
        for title, name in optional:
            pair = getattr(train, name), getattr(validation, name)
            if any(pair):
                yield title, *pair

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and numbers, for the run's folder."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Ledger:
        """The inverse of `to_json`."""
        return cls(**{**data, "train": Part(**data["train"]), "validation": Part(**data["validation"])})
