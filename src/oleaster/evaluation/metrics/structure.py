"""Metrics of answers with a form: JSON, and the named entities of a text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from oleaster.core.errors import DataError
from oleaster.evaluation.metrics.labels import f1, texts
from oleaster.evaluation.metrics.registry import Reference, metrics
from oleaster.evaluation.tally import Tally, share


@metrics.register("json_validity")
def json_validity(predictions: Sequence[str]) -> Tally:
    """Share of answers that are JSON and nothing else, 0 to 1 (RFC 8259: no NaN, no text or code fence around it).

    Misleads alone: `{}` is valid. An answer cut off by `max_new_tokens` is not; see `natural_stop`.
    """
    return share([_parsed(prediction) is not _BROKEN for prediction in predictions])


@metrics.register("json_match")
def json_match(predictions: Sequence[str], references: Sequence[Reference]) -> Tally:
    """Share of answers that are the same JSON value as a reference, 0 to 1; spaces and the order of keys aside.

    Misleads as `exact_match` does: one wrong field of twenty makes the whole answer wrong, and 1 is not 1.5, nor "1".
    """
    return share([_same_json(p, r) for p, r in zip(predictions, references, strict=True)])


@metrics.register("entity_f1")
def entity_f1(predictions: Sequence[str], references: Sequence[Reference]) -> Tally:
    """F1 over all entities of all rows (micro), 0 to 1; an entity counts only with its kind and its whole extent.

    Two forms, by what the first reference is. Tags with a space between (`O B-person I-person`): an entity is kind and
    place; an I- that continues nothing begins one, as in conlleval and seqeval. JSON (`{"person": ["Ada"]}`): an entity
    is kind and text, as often as it occurs. An answer that is not of the form has no entities.

    Misleads on rows without entities, which an empty answer gets right and which then count nothing; and where half of
    a name is worth something: a missed word costs both a wrong and a missing entity.
    """
    spans = _json_entities if texts(references[0])[0].startswith("{") else _tagged_entities
    rows = []
    for prediction, reference in zip(predictions, references, strict=True):
        wanted = spans(texts(reference)[0])
        if wanted is None:
            remedy = 'tags ("O B-person") or JSON ({"person": ["Ada"]}) in all rows'
            raise DataError(f"entity_f1 cannot read the reference {reference!r}", remedy=remedy)
        answered = spans(prediction.strip()) or Counter()
        rows.append([(wanted & answered).total(), answered.total(), wanted.total()])
    return Tally(np.array(rows, np.float64), f1, "F1")


_BROKEN = object()


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _BROKEN


def _same_json(prediction: str, reference: Reference) -> bool:
    answered = _parsed(prediction)
    return answered is not _BROKEN and any(_frozen(answered) == _frozen(_parsed(text)) for text in texts(reference))


def _frozen(value: Any) -> Hashable:
    """A value in which True is not 1, as Python has it."""
    if isinstance(value, dict):
        return frozenset((key, _frozen(each)) for key, each in value.items())
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    return isinstance(value, bool), value


def _json_entities(text: str) -> Counter[Hashable] | None:
    """(kind, text) as often as it occurs; None where the text is not of the form."""
    kinds = _parsed(text)
    if not isinstance(kinds, dict):
        return None
    return Counter((kind, str(each).strip()) for kind, found in kinds.items() for each in _listed(found))


def _listed(found: Any) -> list[Any]:
    return found if isinstance(found, list) else [] if found is None else [found]


def _tagged_entities(text: str) -> Counter[Hashable] | None:
    """(kind, first, last) of BIO tags; None where a word is no tag."""
    tags = text.split()
    if any(tag != "O" and tag[:2] not in ("B-", "I-") for tag in tags):
        return None
    return Counter(_spans(tags))


def _spans(tags: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    kind, start = "", 0
    for place, tag in enumerate([*tags, "O"]):
        mark, _, next_kind = tag.partition("-")
        if kind and (mark != "I" or next_kind != kind):
            yield kind, start, place - 1
            kind = ""
        if next_kind and not kind:
            kind, start = next_kind, place
