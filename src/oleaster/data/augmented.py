"""Rows that `oleaster data augment` made, and why none of them may be validated on.

Two columns mark such a row: how it was made, and which rows it was made from. A made row resembles those; where one of
them is held out, the made row must not be trained on either, or the model has met what it is tested with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from oleaster.data.papers import Example

MADE_BY = "augmented_by"
"""Column with the way a row was made: typos, masking, paraphrase, back_generation."""
MADE_FROM = "augmented_from"
"""Column with the `row_id` of every row it was made from, separated by blanks."""
MARKS = (MADE_BY, MADE_FROM)

NOT_HELD_OUT = "augmented rows are never validated on"
MADE_FROM_HELD_OUT = "made from a held-out row"


class Kept(NamedTuple):
    """Made rows that may be trained on, and how many may not."""

    rows: list[Example]
    left_out: int


def is_augmented(row: Mapping[str, Any]) -> bool:
    """Was the row made by augmentation?"""
    return bool(row.get(MADE_BY))


def row_id(row: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that stand for a row's content, the marks aside."""
    content = {key: value for key, value in row.items() if key not in MARKS}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def sources(row: Mapping[str, Any]) -> list[str]:
    """`row_id` of the rows that a made row was made from."""
    return str(row.get(MADE_FROM) or "").split()


def set_apart(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """(rows that somebody wrote, rows that were made of them), each in the order given."""
    written = [example for example in examples if not is_augmented(example.row)]
    return written, [example for example in examples if is_augmented(example.row)]


def beside(made: Sequence[Example], train: Sequence[Example], held: Sequence[Example], divided_here: bool) -> Kept:
    """Made rows that can stand beside `train` without telling of `held`.

    Args:
        divided_here: `train` and `held` are one set divided just now, so a source that is in neither has been changed
            since, and may be a held-out one: such rows are left out. Otherwise only known sources are looked at.
    """
    if not made:
        return Kept([], 0)
    told: Collection[str] = {row_id(example.row) for example in held}
    known: Collection[str] = {row_id(example.row) for example in train} if divided_here and held else ()

    def may_stay(example: Example) -> bool:
        origin = sources(example.row)
        if any(source in told for source in origin):
            return False
        return not known or (bool(origin) and all(source in known for source in origin))

    rows = [example for example in made if may_stay(example)]
    return Kept(rows, len(made) - len(rows))
