"""Rows that nothing is wrong with, and what a report says about others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oleaster.quality.findings import DataReport, Finding

Row = dict[str, Any]
THINGS = (
    *("lamp", "kettle", "sofa", "rug", "mirror", "blanket", "ladder", "toaster", "wardrobe", "bicycle"),
    *("umbrella", "guitar", "freezer", "drill", "curtain", "pillow", "helmet", "printer", "kayak", "violin"),
)
ASKED = (
    ("when will {} and {} be brought here", "delivery"),
    ("i want my money back for {} with {}", "refund"),
    ("both {} and {} came broken", "damage"),
)


def good_rows() -> list[Row]:
    """Sixty phrases and intents, no two alike."""
    pairs = [(thing, THINGS[(i + 7) % len(THINGS)]) for i, thing in enumerate(THINGS)]
    return [{"prompt": text.format(*pair), "completion": label} for pair in pairs for text, label in ASKED]


def found(seen: DataReport, kind: str) -> Finding | None:
    return next((finding for finding in seen.findings if finding.kind == kind), None)


def lines_of(seen: DataReport, kind: str) -> list[str]:
    """`train:3` for each row that a finding names."""
    finding = found(seen, kind)
    assert finding is not None, f"no {kind} among {[f.kind for f in seen.findings]}"
    return [f"{Path(row.place.rpartition(':')[0]).stem}:{row.place.rpartition(':')[2]}" for row in finding.rows]
