"""Rows packed into one line of tokens: no padding, the common beginning once.

Shape legend: N packed tokens, P tokens of the shared prefix, M targets.
The packed line is `prefix | row 0 | row 1 | ...`, rows sorted from long to short. A row's tokens see the prefix and
the row's own earlier tokens, nothing else, so the result is that of the rows one by one. Two kinds of token never
enter: a row's last target (nothing is predicted from it) and whatever follows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from oleaster.data.papers import Encoded

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

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on `device`."""
        if self.ids.device == device:
            return self
        names = ("ids", "positions", "target_sources", "target_ids", "target_rows")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

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
    """Pack rows that each have at least one target."""
    used = sorted(((row.input_ids[: row.targets[-1]], row) for row in rows), key=lambda pair: -len(pair[0]))
    prefix = _common_prefix([ids for ids, _ in used]) if share_prefix and len(used) > 1 else 0
    ids, positions = list(used[0][0][:prefix]), list(range(prefix))
    sources, targets, owners = [], [], []
    for owner, (inputs, row) in enumerate(used):
        offset = len(ids) - prefix
        sources += [t - 1 if t - 1 < prefix else offset + t - 1 for t in row.targets]
        targets += [row.input_ids[t] for t in row.targets]
        owners += [owner] * len(row.targets)
        ids += inputs[prefix:]
        positions += range(prefix, len(inputs))
    return Batch(
        ids=torch.tensor(ids),
        positions=torch.tensor(positions),
        prefix=prefix,
        lengths=tuple(len(inputs) - prefix for inputs, _ in used),
        target_sources=torch.tensor(sources),
        target_ids=torch.tensor(targets),
        rows=tuple(row.example for _, row in used),
        target_rows=torch.tensor(owners),
    )


def _common_prefix(lines: Sequence[tuple[int, ...]]) -> int:
    """Length of the longest common beginning that leaves every line at least one token."""
    low, high = min(lines), max(lines)
    limit = min(len(line) for line in lines) - 1
    return next((i for i in range(limit) if low[i] != high[i]), max(limit, 0))
