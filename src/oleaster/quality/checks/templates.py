"""Do all rows keep to one form? Columns, roles, system prompts, openings and edges."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

from oleaster.core.errors import DataError
from oleaster.data.augmented import MARKS
from oleaster.quality.checks.table import checks
from oleaster.quality.findings import Finding, Named, excerpt, many, quoted
from oleaster.quality.material import Item, Material

USUAL = 0.9
"""Share of the rows that makes a form the rule."""
OPENING_WORDS = 2
SEVERAL = 3
RECURS = 0.005
"""Share of the rows in which an opening must occur (and in three at least) to be one of another template."""
FEWEST = 20
"""Rows below which no rule is read from them."""


@checks.register("columns")
def columns(material: Material) -> Iterator[Finding]:
    """Rows that lack a column of the others, or have one of their own."""
    for part, rows in material.raw.items():
        if len(rows.rows) < FEWEST:
            continue
        counts = Counter(key for row in rows.rows for key in row)
        usual = {name for name, count in counts.items() if count >= USUAL * len(rows.rows)}
        odd = {name for name, count in counts.items() if count <= (1 - USUAL) * len(rows.rows)} - set(MARKS)
        named = [
            Named(place, _difference(usual - row.keys(), row.keys() & odd))
            for row, place in zip(rows.rows, rows.places, strict=True)
            if usual - row.keys() or row.keys() & odd
        ]
        if named:
            yield Finding(
                "columns",
                "warning",
                f"{many(len(named), 'row')} of {part} with other columns than the rest",
                "give every row the same columns",
                tuple(named),
            )


def _difference(missing: set[str], odd: set[str]) -> str:
    said = [f"lacks {quoted(sorted(missing))}"] if missing else []
    return ", ".join(said + ([f"has {quoted(sorted(odd))}"] if odd else []))


@checks.register("roles")
def roles(material: Material) -> Iterator[Finding]:
    """Conversations whose turns do not alternate, or that this model's chat template refuses."""
    rows = [item.named(fault) for item in material.items if (fault := _turn_fault(item))]
    if rows:
        yield Finding(
            "roles",
            "warning",
            f"{many(len(rows), 'conversation is', 'conversations are')} out of order",
            "user and assistant in turn, a system message only in front",
            tuple(rows),
        )
    if material.tokenizer is not None:
        refused = [item.named(_refusal(item, material)) for item in material.items if item.tokens is None]
        if refused:
            yield Finding(
                "refused_by_template",
                "error",
                f"{many(len(refused), 'row')} cannot be rendered by the model's chat template",
                "bring the messages into the order and form that it expects",
                tuple(refused),
            )


@checks.register("openings")
def openings(material: Material) -> Iterator[Finding]:
    """A system prompt, an opening ("Question:"), or an end that nearly all rows have, and some have not."""
    if len(material.items) < FEWEST:
        return
    odd: dict[str, list[str]] = {}
    places = {item.place: item for item in material.items}
    forms = _forms(material.items)
    if material.labels:  # how labels are written is another check's
        forms = {what: values for what, values in forms.items() if not what.endswith("answer")}
    for what, values in forms.items():
        for item, text in _exceptions(material.items, values, what):
            odd.setdefault(item.place, []).append(text)
    if odd:
        yield Finding(
            "template",
            "warning",
            f"{many(len(odd), 'row does', 'rows do')} not keep to the form of the others",
            "bring them into the same form: what differs in form is learned as if it meant something",
            tuple(places[place].named("; ".join(texts)) for place, texts in odd.items()),
        )


def _forms(items: Sequence[Item]) -> dict[str, list[str]]:
    """Name of a formal feature -> its value in each row."""
    prompts, answers = [i.prompt for i in items], [i.answer for i in items]
    return {
        "system message": _systems(items),
        "opening of the prompt": [_opening(text) for text in prompts],
        "opening of the answer": [_opening(text) for text in answers],
        "edges of the prompt": [_edges(text) for text in prompts],
        "edges of the answer": [_edges(text) for text in answers],
    }


def _exceptions(items: Sequence[Item], values: Sequence[str], what: str) -> Iterator[tuple[Item, str]]:
    """Rows whose value is another one than that of nearly all. Where nearly all have none, a single row that has one
    means nothing (a sentence may begin "Monday:"); several with the same one come from another template."""
    counts = Counter(values)
    rule, count = counts.most_common(1)[0]
    if count < USUAL * len(values) or count == len(values):
        return
    for item, value in zip(items, values, strict=True):
        if value != rule and (rule or what.startswith("edges") or counts[value] >= max(SEVERAL, RECURS * len(values))):
            yield item, f"{what}: {_shown(value)}, the rule is {_shown(rule)}"


def _shown(value: str) -> str:
    return f"'{excerpt(value, 40)}'" if value else "none"


def _systems(items: Sequence[Item]) -> list[str]:
    """System messages; where they differ from row to row anyway, only whether there is one."""
    texts = [
        str(first["content"]) if first["role"] in ("system", "developer") else ""
        for first in (item.example.messages[0] if item.example.messages else {"role": ""} for item in items)
    ]
    if Counter(texts).most_common(1)[0][1] >= USUAL * len(texts):
        return texts
    return ["one" if text else "" for text in texts]


def _opening(text: str) -> str:
    """`Question:` of `Question: where is it`; empty where the text does not begin with a word or two and a mark."""
    head = text.lstrip()[:40]
    for mark in (":", "###"):
        word, found, _ = head.partition(mark)
        if found and len(word.split()) <= OPENING_WORDS and "\n" not in word.strip():
            return word + mark
    return ""


def _edges(text: str) -> str:
    """What kind of blanks stand around a text."""
    front, behind = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    words = [
        f"{_kinds(blank)} {where}"
        for blank, where in ((front, "in front"), (behind, "behind"))
        if blank and text.strip()
    ]
    return " and ".join(words)


def _kinds(blank: str) -> str:
    return "line end" if "\n" in blank else "blank"


def _turn_fault(item: Item) -> str | None:
    said = [m["role"] for m in item.example.messages if m["role"] != "tool"]
    if not said or any(message.get("tool_calls") for message in item.example.messages):
        return None
    if any(role in ("system", "developer") for role in said[1:]):
        return "a system message after the first turn"
    turns = [role for role in said if role in ("user", "assistant")]
    if turns[0] == "assistant":
        return "the assistant speaks first"
    twice = next((a for a, b in itertools.pairwise(turns) if a == b), None)
    return f"two turns of the {twice} in a row" if twice else None


def _refusal(item: Item, material: Material) -> str:
    from oleaster.data.render import render, voice_of

    try:
        render(item.example, voice_of(material.tokenizer, material.config), material.config, every_turn=False)
    except DataError as fault:
        return excerpt(fault.message, 120)
    return ""
