"""What rows begin with in common, and can be computed once."""

from __future__ import annotations

from collections.abc import Sequence

SHARING_PAYS = 64
"""Tokens that a shared prefix must save before it is worth a forward pass of its own."""


def common_prefix(rows: Sequence[Sequence[int]], limit: int) -> int:
    """Number of tokens, at most `limit`, that all rows begin with; no row may be shorter than `limit`."""
    lines = [tuple(row) for row in rows]
    low, high = min(lines), max(lines)  # what the first and the last in order share, those between share too
    return next((i for i in range(limit) if low[i] != high[i]), max(limit, 0))
