"""Rows that occur again: within a part, across parts, and with another answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from oleaster.data.augmented import MADE_BY, is_augmented
from oleaster.data.split import find_repeats
from oleaster.quality.checks.table import checks
from oleaster.quality.findings import Finding, Named, excerpt, many
from oleaster.quality.material import TRAIN, Item, Material
from oleaster.quality.nearness import NEAR, likeness, normalised, pieces

NEAR_CONFLICT = 0.9
"""Likeness of two prompts from which another label is suspicious rather than natural."""


class Neighbours(NamedTuple):
    """Two items that ask the same or nearly the same, by number."""

    first: int
    second: int
    likeness: float


def neighbours(material: Material) -> Iterator[Neighbours]:
    """All pairs, also between further rows of equal questions, of which `material.near` compares only the first."""
    alike: defaultdict[str, list[int]] = defaultdict(list)
    for number, key in enumerate(material.keys):
        alike[key].append(number)
    for pair in material.near:
        firsts, seconds = alike[material.keys[pair.first]], alike[material.keys[pair.second]]
        if firsts is seconds:
            yield Neighbours(*pair)
        else:
            yield from (Neighbours(min(a, b), max(a, b), pair.likeness) for a in firsts for b in seconds)


@checks.register("duplicates")
def duplicates(material: Material) -> Iterator[Finding]:
    """The same prompt with the same answer, in the same part; a pair of equal chats as well."""
    rows: list[Named] = []
    for part in material.parts:
        items = material.of(part)
        for group in find_repeats([item.example for item in items]).groups:
            first = items[group[0]]
            rows += [items[i].named(f"the same as {first.place}: '{excerpt(first.asked)}'") for i in group[1:]]
    if rows:
        yield Finding(
            "duplicates",
            "warning",
            f"{many(len(rows), 'row repeats', 'rows repeat')} an earlier row of the same part exactly: they "
            "weigh more in training, and in a validation part they make intervals too narrow",
            "oleaster data clean drops them",
            tuple(rows),
        )


@checks.register("near_duplicates")
def near_duplicates(material: Material) -> Iterator[Finding]:
    """Nearly the same prompt with nearly the same answer, in the same part."""
    found = {
        second: material.items[second].named(
            f"{how:.0%} of {material.items[first].place}: '{excerpt(material.items[first].asked)}'"
        )
        for second, (first, how) in near_repeats(material).items()
    }
    if found:
        yield Finding(
            "near_duplicates",
            "warning" if len(found) > 0.02 * len(material.items) else "note",
            f"{many(len(found), 'row nearly repeats', 'rows nearly repeat')} an earlier row of the same part, "
            "with the same answer",
            "oleaster data clean --also near_duplicates drops them; oleaster data split keeps them on one side",
            tuple(found[i] for i in sorted(found)),
        )


def near_repeats(material: Material) -> dict[int, tuple[int, float]]:
    """Item -> (an earlier item of its part that it nearly repeats, likeness)."""
    found: dict[int, tuple[int, float]] = {}
    for first, second, how in neighbours(material):
        a, b = material.items[first], material.items[second]
        if a.part == b.part and second not in found and not _equal(a, b) and _same_answer(a, b, material):
            found[second] = first, how
    return found


def contradictions(material: Material) -> list[list[int]]:
    """Groups of items that ask the same and are answered otherwise."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for number, item in enumerate(material.items):
        if item.prompt and material.keys[number]:
            groups[material.keys[number] if material.labels else item.prompt].append(number)
    return [numbers for numbers in groups.values() if len({_verdict(n, material) for n in numbers}) > 1]


@checks.register("conflicts")
def conflicts(material: Material) -> Iterator[Finding]:
    """One question with several labels; for free answers, several answers to one prompt."""
    rows = [_contradiction(n, numbers, material) for numbers in contradictions(material) for n in numbers]
    if rows and material.labels:
        yield Finding(
            "conflicts",
            "error",
            f"{many(len(rows), 'row has', 'rows have')} a prompt that also occurs with another label: one of "
            "them is wrong",
            "decide which label is right; oleaster data clean --also conflicts drops all of them",
            tuple(rows),
        )
    elif rows:
        yield Finding(
            "several_answers",
            "note",
            f"{many(len(rows), 'row has', 'rows have')} a prompt that also occurs with another answer",
            "good where several answers are right; else keep the best one",
            tuple(rows),
        )
    yield from _near_conflicts(material)


def _near_conflicts(material: Material) -> Iterator[Finding]:
    if not material.labels:
        return
    found: dict[int, Named] = {}
    for first, second, how in neighbours(material):
        a, b = material.items[first], material.items[second]
        different = _verdict(first, material) != _verdict(second, material)
        if different and how >= NEAR_CONFLICT and material.keys[first] != material.keys[second]:
            text = f"'{material.labels[second]}', but '{material.labels[first]}' at {a.place}: '{excerpt(a.asked)}'"
            found.setdefault(second, b.named(text))
    if found:
        yield Finding(
            "near_conflicts",
            "warning",
            f"{many(len(found), 'row has', 'rows have')} nearly the prompt of another row, and another label",
            "look at the pairs: either the few letters matter, or one of the labels is wrong",
            tuple(found[i] for i in sorted(found)),
        )


@checks.register("leakage")
def leakage(material: Material) -> Iterator[Finding]:
    """Rows of a validation or test part that stand, or nearly stand, in an earlier part."""
    order = {part: number for number, part in enumerate(material.parts)}
    exact: dict[int, Named] = {}
    near: dict[int, Named] = {}
    for pair in neighbours(material):
        a, b = sorted((pair.first, pair.second), key=lambda i: order[material.items[i].part])
        first, second = material.items[a], material.items[b]
        if first.part == second.part:
            continue
        seen = second.named(f"{pair.likeness:.0%} of {first.place}: '{excerpt(first.asked)}'")
        if material.keys[a] == material.keys[b]:
            exact.setdefault(b, seen)
        elif material.labels or _same_answer(first, second, material):
            near.setdefault(b, seen)
    near = {i: seen for i, seen in near.items() if i not in exact}
    if exact:
        yield Finding(
            "leakage",
            "error",
            f"{many(len(exact), 'row of a later part stands', 'rows of later parts stand')} in an earlier part, "
            f"capitals and punctuation aside ({_by_part(exact, material)}): figures on them tell nothing",
            "oleaster data clean LATER_PART --against EARLIER_PART drops them",
            tuple(exact[i] for i in sorted(exact)),
        )
    if near:
        yield Finding(
            "near_leakage",
            "warning",
            f"{many(len(near), 'row of a later part is', 'rows of later parts are')} nearly in an earlier part "
            f"({_by_part(near, material)})",
            "oleaster data clean LATER_PART --against EARLIER_PART --also near_duplicates drops them; or divide anew: "
            "oleaster data split",
            tuple(near[i] for i in sorted(near)),
        )


@checks.register("augmented")
def augmented(material: Material) -> Iterator[Finding]:
    """Rows made by `oleaster data augment` outside the training part."""
    rows = [i.named(i.example.row[MADE_BY]) for i in material.items if _is_misplaced(i)]
    if rows:
        yield Finding(
            "augmented_held_out",
            "error",
            f"{many(len(rows), 'row')} outside the training part made by augmentation: no evidence of anything",
            "augment the training part only; finetune leaves these rows out",
            tuple(rows),
        )


def _is_misplaced(item: Item) -> bool:
    return item.part != TRAIN and is_augmented(item.example.row)


def _equal(a: Item, b: Item) -> bool:
    return (a.prompt, a.answer) == (b.prompt, b.answer)


def _same_answer(a: Item, b: Item, material: Material) -> bool:
    if a.answer == b.answer or not a.prompt:
        return True
    one, other = normalised(a.answer), normalised(b.answer)
    if material.labels:
        return one == other
    return one == other or likeness(pieces(one), pieces(other)) >= NEAR


def _verdict(number: int, material: Material) -> str:
    """The label without capitals and blanks (another spelling is no contradiction), or the answer."""
    return normalised(material.labels[number]) if material.labels else material.items[number].answer


def _contradiction(number: int, numbers: list[int], material: Material) -> Named:
    mine = _verdict(number, material)
    other = material.items[next(n for n in numbers if _verdict(n, material) != mine)]
    return material.items[number].named(
        f"'{excerpt(material.items[number].answer, 30)}', but '{excerpt(other.answer, 30)}' at {other.place}"
    )


def _by_part(found: dict[int, Named], material: Material) -> str:
    parts = [material.items[i].part for i in found]
    sizes = {part: len(material.of(part)) for part in set(parts)}
    return ", ".join(f"{parts.count(part)} of {size:,} in {part}" for part, size in sorted(sizes.items()))
