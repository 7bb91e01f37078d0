"""Rows packed into one line of tokens: no padding, the common beginning once.

Shape legend: N packed tokens, P tokens of the shared prefix, M targets, L lines, Q pairs.
The packed line is `prefix | row 0 | row 1 | ...`, rows sorted from long to short. A row's tokens see the prefix and
the row's own earlier tokens, nothing else, so the result is that of the rows one by one. Two kinds of token never
enter: a row's last target (nothing is predicted from it) and whatever follows it. So a label is simply the token that
follows its text, and tags are those that follow its words. The two texts of a pair are two lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from oleaster.data.papers import Encoded
from oleaster.data.prefix import common_prefix

PADDED_SHARE = 1.3
"""A bucket may hold this many times as many places as tokens; only attention scores are computed on the excess."""


@dataclass(frozen=True)
class Bucket:
    """Rows of similar length that attention treats as one padded block."""

    start: int
    """First packed token."""
    lengths: tuple[int, ...]
    """Tokens of each row, longest first; the rows lie one behind the other."""
    prefix: int
    """Tokens at the front of the line that these rows see as well."""

    @property
    def longest(self) -> int:
        return self.lengths[0]

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @cached_property
    def offsets(self) -> tuple[Tensor, Tensor]:
        """([B] first token of each row behind `start`, [B] its length), int64"""
        lengths = torch.tensor(self.lengths)
        return lengths.cumsum(0) - lengths, lengths

    @cached_property
    def places(self) -> Tensor:
        """[tokens] place of each token in the padded block [B * longest]"""
        offsets, lengths = self.offsets
        shift = torch.arange(len(self.lengths)) * self.longest - offsets
        return torch.arange(self.tokens) + shift.repeat_interleave(lengths)


@dataclass(frozen=True)
class Batch:
    """One forward pass."""

    ids: Tensor
    """[N] int64"""
    positions: Tensor
    """[N] int64, place of each token in its row"""
    prefix: int
    """P"""
    lengths: tuple[int, ...]
    """Packed tokens of each row behind the prefix, longest first."""
    target_sources: Tensor
    """[M] packed token whose hidden state predicts the target"""
    target_ids: Tensor
    """[M] the token to be predicted"""
    rows: tuple[int, ...]
    """`Encoded.example` of each row, in packed order."""
    target_rows: Tensor
    """[M] which of `rows` the target belongs to"""
    pairs: Tensor | None = None
    """[Q, 2] the lines of each pair's two texts; None where the rows are no pairs"""
    similarity: Tensor | None = None
    """[Q] float32, 0 to 1; None where the rows do not say"""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def units(self) -> int:
        """What the loss is a mean of: pairs where the rows are pairs, else targets."""
        return len(self.target_ids) if self.pairs is None else len(self.pairs)

    @property
    def examples(self) -> int:
        """Rows of the data: lines, or pairs of them."""
        return len(self) if self.pairs is None else len(self.pairs)

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on `device`."""
        if self.ids.device == device:
            return self
        names = ("ids", "positions", "target_sources", "target_ids", "target_rows", "pairs", "similarity")
        held = {name: getattr(self, name) for name in names}
        return replace(self, **{name: tensor.to(device) for name, tensor in held.items() if tensor is not None})

    def without_targets(self) -> Batch:
        """The same forward pass, of which nothing is learned or counted."""
        none = torch.empty(0, dtype=torch.int64)
        return replace(self, target_sources=none, target_ids=none, target_rows=none)

    @cached_property
    def buckets(self) -> tuple[Bucket, ...]:
        """The rows in as few blocks as keep padding small; the prefix, if any, is a block of its own, first."""
        found = [Bucket(0, (self.prefix,), 0)] if self.prefix else []
        start, open_rows, filled = self.prefix, [], 0
        for length in self.lengths:
            if open_rows and open_rows[0] * (len(open_rows) + 1) > PADDED_SHARE * (filled + length):
                found.append(Bucket(start, tuple(open_rows), self.prefix))
                start, open_rows, filled = start + filled, [], 0
            open_rows.append(length)
            filled += length
        found.append(Bucket(start, tuple(open_rows), self.prefix))
        return tuple(found)

    def unpacked(self) -> Iterator[Tensor]:
        """The ids of each row with its prefix: what a padded computation would be given."""
        at = self.prefix
        for length in self.lengths:
            yield torch.cat([self.ids[: self.prefix], self.ids[at : at + length]])
            at += length


def pack(rows: Sequence[Encoded], share_prefix: bool = True) -> Batch:
    """Pack rows that each have at least one target, or pairs of texts."""
    lines = [line for row in rows for line in (row, row.pair) if line is not None]
    read = [line.sources or tuple(t - 1 for t in line.targets) for line in lines]
    order = sorted(range(len(lines)), key=lambda i: -max(read[i]))
    inputs = [lines[i].input_ids[: max(read[i]) + 1] for i in order]
    # Every line keeps a token of its own.
    prefix = common_prefix(inputs, min(map(len, inputs)) - 1) if share_prefix and len(lines) > 1 else 0
    ids, positions = list(inputs[0][:prefix]), list(range(prefix))
    sources, targets, owners = [], [], []
    for owner, (i, line) in enumerate(zip(order, inputs, strict=True)):
        offset = len(ids) - prefix
        sources += [s if s < prefix else offset + s for s in read[i]]
        targets += [lines[i].input_ids[t] for t in lines[i].targets]
        owners += [owner] * len(read[i])
        ids += line[prefix:]
        positions += range(prefix, len(line))
    batch = Batch(
        ids=torch.tensor(ids),
        positions=torch.tensor(positions),
        prefix=prefix,
        lengths=tuple(len(line) - prefix for line in inputs),
        target_sources=torch.tensor(sources),
        target_ids=torch.tensor(targets, dtype=torch.int64),
        rows=tuple(lines[i].example for i in order),
        target_rows=torch.tensor(owners),
    )
    return _with_pairs(batch, rows, order) if rows[0].pair is not None else batch


def _with_pairs(batch: Batch, rows: Sequence[Encoded], order: Sequence[int]) -> Batch:
    """Say which packed lines the texts of each pair have become; `order`: line of `rows` by packed line."""
    place = torch.empty(len(order), dtype=torch.int64)
    place[torch.tensor(order)] = torch.arange(len(order))
    alike = [row.similarity for row in rows if row.similarity is not None]
    similarity = torch.tensor(alike, dtype=torch.float32) if len(alike) == len(rows) else None
    return replace(batch, pairs=place.view(-1, 2), similarity=similarity)
