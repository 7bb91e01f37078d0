"""Named entities in their two forms: BIO tags on words, and the JSON that a model writes.

The JSON maps each kind to the texts that are of it, in the order of the sentence: `{"person": ["Ada Lovelace"]}`. It is
short, a schema can hold a model to it, and a kind that does not occur is simply not there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

OUTSIDE = "O"
TRAILING = re.compile(r"^([\"'(\[{]*)(.*?)([\"')\]}.,;:!?]*)$", re.DOTALL)
"""Marks that stand at a word without being part of it."""


class Entity(NamedTuple):
    """Some words in a row that name something."""

    kind: str
    text: str


def from_tags(words: Sequence[str], tags: Sequence[str]) -> list[Entity]:
    """The entities that BIO tags mark. An I- that continues nothing of its kind begins one, as in conlleval."""
    found: list[Entity] = []
    open_kind = ""
    for word, tag in zip(words, tags, strict=True):
        mark, _, kind = tag.partition("-")
        if mark == "I" and kind == open_kind:
            found[-1] = Entity(kind, f"{found[-1].text} {word}")
        elif kind:
            found.append(Entity(kind, word))
        open_kind = kind
    return found


def to_json(entities: Iterable[Entity]) -> str:
    """What a model learns to write; kinds in alphabetical order, as in `schema`."""
    kinds: dict[str, list[str]] = {}
    for kind, text in entities:
        kinds.setdefault(kind, []).append(text)
    return json.dumps(dict(sorted(kinds.items())), ensure_ascii=False)


def kinds_of(tags: Iterable[str]) -> list[str]:
    """The kinds that occur, sorted."""
    return sorted({kind for tag in tags if (kind := tag.partition("-")[2])})


def bio_labels(kinds: Sequence[str]) -> tuple[str, ...]:
    """The labels of a token head: O, then B- and I- of each kind."""
    return (OUTSIDE, *(f"{mark}-{kind}" for kind in kinds for mark in "BI"))


def schema(kinds: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of `to_json` for these kinds."""
    texts: Mapping[str, Any] = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    return {"type": "object", "properties": dict.fromkeys(sorted(kinds), texts), "additionalProperties": False}


def split_words(text: str) -> list[str]:
    """The words of a text, with the marks at their ends as words of their own, as tagged corpora have them."""
    pieces = [match.groups() for word in text.split() if (match := TRAILING.match(word))]
    return [part for front, core, back in pieces for part in (*front, core, *back) if part]
