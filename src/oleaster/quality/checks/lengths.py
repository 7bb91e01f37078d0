"""Rows too long for the model or the settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from oleaster.quality.checks.table import checks
from oleaster.quality.findings import Finding, Lengths, many
from oleaster.quality.material import Material


def quantiles(lengths: Sequence[int]) -> Lengths:
    """Median, 95th percentile (nearest rank) and maximum; zeros for no rows."""
    if not lengths:
        return Lengths(0, 0, 0)
    ordered = sorted(lengths)
    median, p95 = (ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95))
    return Lengths(median, p95, ordered[-1])


@checks.register("overlong")
def overlong(material: Material) -> Iterator[Finding]:
    """Rows above --max_length, in tokens of the chosen model."""
    limit = material.config.max_length
    measured = [(item, sum(item.tokens)) for item in material.items if item.tokens is not None]
    rows = tuple(item.named(f"{length:,} tokens") for item, length in measured if length > limit)
    if rows:
        longest = max(length for _, length in measured)
        yield Finding(
            "overlong",
            "error",
            f"{many(len(rows), 'row is', 'rows are')} longer than --max_length {limit} tokens: training would stop",
            f"--max_length {longest}, --overlong truncate (shortens prompts) or --overlong drop",
            rows,
        )
