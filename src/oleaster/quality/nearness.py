"""Which texts are nearly the same.

Near means: the sets of three-letter pieces of the two texts, in lower case and without punctuation, have a Jaccard
index of at least 0.8. One typing error in forty letters, a "please" more, other capitals are near; another city or
product name in a short sentence is not. Candidates come from MinHash (Broder 1997) with banding, by `rensa`; each is
then compared exactly, so nothing is near by chance.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

NEAR = 0.8
"""Jaccard index from which texts are near."""
PIECE = 3
PERMUTATIONS, BANDS = 252, 28
"""A pair at 0.8 is missed in 2 of 100 cases, one at 0.85 in 1 of 1,000; one at 0.4 is compared in 1 of 100."""
SEED = 7
_OTHER = re.compile(r"[\W_]+")


class Pair(NamedTuple):
    """Two texts by number, the earlier one first."""

    first: int
    second: int
    likeness: float
    """Jaccard index; 1.0 also for texts that differ in case and punctuation only."""


def normalised(text: str) -> str:
    """Lower case, compatible characters made one, punctuation and blanks a single blank."""
    return _OTHER.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def pieces(text: str) -> frozenset[str]:
    """The three-letter pieces of a normalised text."""
    return frozenset(text[i : i + PIECE] for i in range(max(1, len(text) - PIECE + 1)))


def likeness(a: frozenset[str], b: frozenset[str]) -> float:
    """Jaccard index, 0 to 1."""
    return len(a & b) / len(a | b) if a or b else 1.0


def find_near(texts: Sequence[str]) -> list[Pair]:
    """Pairs of near texts. Of texts that are equal once normalised each is paired with the first one, and only that one
    is compared with others. Texts without a letter or digit are near to nothing."""
    from rensa import RMinHash, RMinHashLSH  # pyright: ignore[reportAttributeAccessIssue]  # has no stubs

    firsts: dict[str, int] = {}
    pairs: list[Pair] = []
    for number, text in enumerate(texts):
        key = normalised(text)
        if key and firsts.setdefault(key, number) != number:
            pairs.append(Pair(firsts[key], number, 1.0))
    numbers = list(firsts.values())
    sets = [pieces(key) for key in firsts]
    sketches = RMinHash.from_token_sets([list(s) for s in sets], PERMUTATIONS, SEED)
    table = RMinHashLSH(NEAR, PERMUTATIONS, BANDS)
    for i, sketch in enumerate(sketches):
        for j in sorted(table.query(sketch)):
            if (found := likeness(sets[i], sets[j])) >= NEAR:
                pairs.append(Pair(numbers[j], numbers[i], found))
        table.insert(i, sketch)
    return sorted(pairs)


def clusters(pairs: Iterable[tuple[int, int]], count: int) -> list[list[int]]:
    """A partition of the numbers 0 to `count` - 1 in which the two of every pair stand together."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in pairs:
        a, b = root(a), root(b)
        parent[max(a, b)] = min(a, b)
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for i in range(count):
        groups[root(i)].append(i)
    return list(groups.values())
