"""Dividing rows into parts: the same share of every label in each, what belongs together on one side."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oleaster.core.errors import ConfigError, DataError, collect, near_names
from oleaster.core.files import atomic_write_json_lines
from oleaster.data.augmented import beside, set_apart
from oleaster.data.papers import Example
from oleaster.data.split import hold_out
from oleaster.quality.material import TRAIN, Item, Material
from oleaster.quality.nearness import clusters

PARTS = (TRAIN, "validation", "test")


@dataclass(frozen=True)
class Division:
    """Rows by part, and what was seen on the way."""

    parts: dict[str, list[dict[str, Any]]]
    labels: dict[str, dict[str, int]]
    """Part -> rows of each label; empty where answers are no labels."""
    tied: int
    """Rows that stand on the side of another row because they nearly repeat it or are of its group."""
    left_out: int
    """Augmented rows that were made from held-out ones."""


def divide(
    material: Material,
    validation: float,
    test: float,
    seed: int,
    group_field: str | None = None,
    keep_near: bool = True,
) -> Division:
    """Divide all rows, whatever file they come from.

    Args:
        validation, test: share of the rows; together below 1.
        group_field: column whose equal values must not be divided (a customer, a document).
        keep_near: near duplicates stand on one side.

    Raises: DataError when there are rows that cannot be examples, ConfigError for impossible shares.
    """
    collect([*material.unreadable, *material.unusable])
    if not 0 <= test < 1 or validation + test >= 1 or validation + test == 0:
        remedy = "for instance --validation_fraction 0.15 --test_fraction 0.1"
        raise ConfigError("the shares held out must lie between 0 and 1 together", remedy=remedy)
    written, _ = set_apart([item.example for item in material.items])
    own = {id(example) for example in written}
    numbers = [i for i, item in enumerate(material.items) if id(item.example) in own]
    items = [material.items[i] for i in numbers]
    labels = [material.labels[i] for i in numbers] if material.labels else None
    groups = _groups(material, numbers, items, group_field, keep_near)
    rest, tested = _hold_out(groups, labels, test, seed) if test else (list(range(len(items))), [])
    held: list[int] = []
    if validation:
        left = set(rest)
        train, held = _hold_out([g for g in groups if g[0] in left], labels, validation / (1 - test), seed + 1)
    else:
        train = rest
    sides = {TRAIN: train, "validation": held, "test": tested}
    for part, share in (("validation", validation), ("test", test)):
        if share and not sides[part]:
            found = f"no row is left for {part}: {len(items):,} rows hang together in {len(groups):,} groups"
            raise DataError(found, remedy="--keep_near false, another --group_field, or a larger share")
    chosen = {part: [items[i] for i in side] for part, side in sides.items() if side}
    made, left_out = _made_rows(material, chosen)
    parts = {part: [item.example.row for item in side] for part, side in chosen.items()}
    parts[TRAIN] = parts.get(TRAIN, []) + [example.row for example in made]
    counts = {part: _count([labels[i] for i in sides[part]]) for part in parts} if labels else {}
    return Division(parts, counts, len(items) - len(groups), left_out)


def _hold_out(
    groups: list[list[int]], labels: list[str] | None, fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Even over the labels; where groups are so large that no label can spare one, without regard to them."""
    kept, held = hold_out(groups, labels, fraction, seed)
    return (kept, held) if held or labels is None else hold_out(groups, None, fraction, seed)


def write_parts(division: Division, folder: Path) -> dict[str, Path]:
    """`train.jsonl`, `validation.jsonl`, `test.jsonl` in a folder. Raises: DataError when one of them is there."""
    paths = {part: folder / f"{part}.jsonl" for part in PARTS if part in division.parts}
    remedy = "name another folder; nothing is overwritten"
    there = [folder / f"{part}.jsonl" for part in PARTS if (folder / f"{part}.jsonl").exists()]
    collect([DataError("the file exists already", where=str(path), remedy=remedy) for path in there])
    for part, path in paths.items():
        atomic_write_json_lines(path, division.parts[part])
    return paths


def _groups(
    material: Material, numbers: list[int], items: list[Item], group_field: str | None, keep_near: bool
) -> list[list[int]]:
    """A partition of the items into what must stand on one side."""
    place = {number: i for i, number in enumerate(numbers)}
    pairs: list[tuple[int, int]] = []
    if keep_near:
        pairs += [(place[p.first], place[p.second]) for p in material.near if p.first in place and p.second in place]
    firsts: dict[str, int] = {}
    if group_field is not None:
        columns = {key for item in items for key in item.example.row}
        if group_field not in columns:
            remedy = near_names(group_field, columns)
            raise ConfigError(f"no row has the column '{group_field}'", where="--group_field", remedy=remedy)
        for i, item in enumerate(items):
            value = item.example.row.get(group_field)
            if value is not None:
                pairs.append((firsts.setdefault(json.dumps(value, sort_keys=True, default=str), i), i))
    same: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for i, item in enumerate(items):
        same[item.prompt, item.answer].append(i)
    pairs += [(group[0], i) for group in same.values() for i in group[1:]]
    return clusters(pairs, len(items))


def _made_rows(material: Material, chosen: dict[str, list[Item]]) -> tuple[list[Example], int]:
    _, made = set_apart([item.example for item in material.items])
    train = [item.example for item in chosen.get(TRAIN, ())]
    held = [item.example for part, side in chosen.items() if part != TRAIN for item in side]
    return beside(made, train, held, divided_here=True)


def _count(labels: Sequence[str]) -> dict[str, int]:
    return dict(Counter(labels).most_common())
