"""Rows that are no prompt and answer: tagged words, and pairs of texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from oleaster.data.cells import BadRowError, as_text
from oleaster.data.entities import OUTSIDE, from_tags, to_json
from oleaster.data.papers import Example

TAGGED = (("tokens", "tags"), ("words", "tags"), ("tokens", "ner_tags"), ("words", "ner_tags"))
PAIRS = (("sentence1", "sentence2"), ("text1", "text2"), ("anchor", "positive"))
"""Columns by which the shape is known."""
SCORES = ("score", "similarity", "label")


def tagged_row(words_column: str, tags_column: str, label: str | None, row: dict[str, Any], place: str) -> Example:
    """The words as a text that is asked about, the entities in JSON as the answer."""
    words, tags = words_and_tags(row, words_column, tags_column)
    answer = to_json(from_tags(words, tags))
    turn = {"role": "user", "content": " ".join(words)}, {"role": "assistant", "content": answer}
    stratum = None if label is None else as_text(row.get(label), label)
    return Example(place, messages=turn, target=answer, label=stratum, row=row)


def words_and_tags(row: dict[str, Any], words_column: str, tags_column: str) -> tuple[list[str], list[str]]:
    """Words and BIO tags of a row, as many of each. Raises: BadRowError."""
    words, tags = row[words_column], row[tags_column]
    for name, value in ((words_column, words), (tags_column, tags)):
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
            raise BadRowError(f"'{name}' is not a list of texts")
    if len(words) != len(tags):
        raise BadRowError(f"{len(words)} words, but {len(tags)} tags")
    if not words or any(word.split() != [word] for word in words):
        raise BadRowError(f"'{words_column}' holds no words, an empty one, or one with white space in it")
    wrong = [tag for tag in tags if tag != OUTSIDE and not (tag[:2] in ("B-", "I-") and tag[2:])]
    if wrong:
        raise BadRowError(f"'{wrong[0]}' is no BIO tag (O, B-kind or I-kind)")
    return list(words), list(tags)


def pair_row(columns: Sequence[str], row: dict[str, Any], place: str) -> Example:
    """Two texts; where there is a third column it says how alike they are, and is the answer."""
    first, second = (as_text(row[name], name) for name in columns[:2])
    empty = [name for name, text in zip(columns, (first, second), strict=False) if not text.strip()]
    if empty:
        raise BadRowError(f"'{empty[0]}' is empty")
    target = ""
    if len(columns) > 2:
        score = row[columns[2]]
        if isinstance(score, bool) or not isinstance(score, (int, float, str)):
            raise BadRowError(f"'{columns[2]}' is no number")
        try:
            target = str(float(score))
        except ValueError as error:
            raise BadRowError(f"'{columns[2]}' is '{score}', no number") from error
        if not math.isfinite(float(score)):
            raise BadRowError(f"'{columns[2]}' is '{score}', no finite number")
    return Example(place, text_parts=((first, False), (second, False)), target=target, row=row)
