"""Which column asks and which answers, where their names do not say it: by what is in them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from oleaster.core.errors import DataError
from oleaster.data.readers import Rows
from oleaster.data.shapes import BYSTANDERS
from oleaster.data.split import are_labels
from oleaster.tasks.rewriting import LANGUAGES

ANSWER_NAMES = ("label", "category", "class", "intent", "answer", "target", "summary", "translation", "completion")
"""Names of columns that are more often the answer than the question, the likeliest first."""
Texts = Mapping[str, Sequence[str]]
"""Column -> its texts."""


class Guess(NamedTuple):
    """What the rows are taken for."""

    prompt: str
    answer: str
    why: str


def guess_columns(table: Rows) -> Guess:
    """The likeliest reading of the rows. Raises: DataError when no two columns hold text."""
    texts = _texts(table)
    full = {name: values for name, values in texts.items() if 2 * len(values) >= len(table.rows)}
    if len(full) < 2:
        raise DataError(
            f"no two columns hold texts: {', '.join(sorted(texts)) or 'none'}",
            where=table.places[0].rpartition(":")[0] if table.places else None,
            remedy="rows need a question and an answer; name plain text with --text_field",
        )
    return _by_references(table, full) or _by_languages(full) or _by_labels_and_lengths(full)


def is_language(column: str) -> bool:
    """Is a column named after a language: `en`, `pl`, `pt_BR`?"""
    return re.fullmatch(r"[a-z]{2}([-_][a-z]{2})?", column.lower()) is not None and column[:2].lower() in LANGUAGES


def _texts(table: Rows) -> Texts:
    """The texts of each column that could ask or answer."""
    texts: dict[str, list[str]] = {}
    for row in table.rows:
        for name, value in row.items():
            if isinstance(value, str) and value.strip() and name.lower() not in BYSTANDERS:
                texts.setdefault(name, []).append(value)
    return texts


def _by_references(table: Rows, texts: Texts) -> Guess | None:
    """A column whose texts stand in a list of the same row too, among the answers that were taken as right."""
    for name in texts:
        for listed in {column for row in table.rows[:1] for column, value in row.items() if isinstance(value, list)}:
            if all(name not in row or row[name] in (row.get(listed) or ()) for row in table.rows):
                return Guess(_longest(texts, name), name, f"'{listed}' lists what '{name}' may say")
    return None


def _by_languages(texts: Texts) -> Guess | None:
    """Two columns named after languages: a translation, from English where it is one of them."""
    spoken = sorted(filter(is_language, texts), key=lambda name: not name.lower().startswith("en"))
    if len(spoken) != 2:
        return None
    first, second = spoken
    return Guess(first, second, f"'{first}' and '{second}' are languages; the other way round is as good")


def _by_labels_and_lengths(texts: Texts) -> Guess:
    """The answer is a column of labels, else one with a telling name, else the shortest; the longest asks."""
    labels = [name for name, values in texts.items() if are_labels(values)]
    named = [name for name in ANSWER_NAMES if name in texts]
    answer = next(iter([name for name in named if name in labels] or labels or named), None)
    answer = answer or min(texts, key=lambda name: _mean_length(texts[name]))
    prompt = _longest(texts, answer)
    why = f"'{prompt}' holds the longest texts"
    if answer in labels:
        why += f", '{answer}' {len(set(texts[answer]))} different words"
        others = [name for name in labels if name not in (answer, prompt)]
        why += f"; '{others[0]}' could be the answer too" if others else ""
    return Guess(prompt, answer, why)


def _longest(texts: Texts, but: str) -> str:
    return max((name for name in texts if name != but), key=lambda name: _mean_length(texts[name]))


def _mean_length(values: Sequence[str]) -> float:
    return sum(map(len, values)) / len(values)
