"""What is wrong inside a text: broken encodings, invisible characters, control tokens, markup, missing ends."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from oleaster.data.template import CONTROL
from oleaster.quality.checks.table import checks
from oleaster.quality.findings import Finding, Named, excerpt, many
from oleaster.quality.material import Item, Material

INVISIBLE = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069\ufff9-\ufffb]"
)
"""Control characters but for tab and line ends, zero-width blanks and marks of direction; joiners belong to scripts."""
REPLACEMENT = "\ufffd"
MARKUP = re.compile(
    r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{2,5}|#x[0-9a-fA-F]{2,5});|</?(?:p|br|div|span|strong|li|ul|a|font)(?:\s[^<>]*)?/?>",
    re.I,
)
SENTENCE_END = re.compile(r"""[.!?…。！？؟।:;)\]}>*_`"'”’»\d|]\s*$""")
MIDDLE_OF_SENTENCE = re.compile(
    r"(?:[,(\[{\-–]|\b(?:and|or|the|a|an|of|to|with|in|for|that|is|i|oraz|lub|że|na|do|und|der|die|das|mit|et|le|la|de))\s*$",
    re.I,
)
CODE = re.compile(r"\n[ \t]+\S[^\n]*$|[;{}]\s*$")
"""The last line is indented, or ends as program text does: such an answer needs no full stop."""
END = 80
"""Characters of an answer in which its end shows."""
LONG_ANSWER = 8
"""Words from which an answer is a sentence rather than a label or name."""
MOSTLY = 0.9
SAME_END = 3
"""Rows that stop at the very same length, the longest of all, from which a cut is likely."""


def texts_of(item: Item) -> list[str]:
    """Everything in a row that a model reads."""
    example = item.example
    if example.messages:
        return [str(message["content"]) for message in example.messages]
    return [text for text, _ in example.text_parts]


@checks.register("unreadable")
def unreadable(material: Material) -> Iterator[Finding]:
    """Lines that are no rows, and rows without what an example needs (an empty answer, a missing column)."""
    for kind, faults, what, advice in (
        ("unreadable", material.unreadable, "cannot be read", "correct the lines, or oleaster data clean drops them"),
        (
            "unusable",
            material.unusable,
            "cannot be learned from",
            "fill in what is missing, or oleaster data clean drops them",
        ),
    ):
        if faults:
            rows = tuple(Named(fault.where or "", fault.message) for fault in faults)
            yield Finding(kind, "error", f"{many(len(rows), 'row')} {what}: training would stop", advice, rows)


@checks.register("encoding")
def encoding(material: Material) -> Iterator[Finding]:
    """Lines that are not UTF-8, and text that was once decoded wrongly."""
    from ftfy import fix_encoding
    from ftfy.badness import is_bad

    if material.undecoded:
        yield Finding(
            "not_utf8",
            "error",
            f"{many(len(material.undecoded), 'line is', 'lines are')} not UTF-8: training would stop",
            "oleaster data clean writes them as UTF-8",
            material.undecoded,
        )
    broken: list[Named] = []
    for item in material.items:
        text = next((t for t in texts_of(item) if REPLACEMENT in t or (is_bad(t) and fix_encoding(t) != t)), None)
        if text is not None:
            lost = REPLACEMENT in text
            broken.append(item.named(f"lost: '{_around(text, REPLACEMENT)}'" if lost else _repaired(text)))
    if broken:
        yield Finding(
            "mojibake",
            "warning",
            f"{many(len(broken), 'row holds', 'rows hold')} text that was decoded wrongly",
            "oleaster data clean repairs what can be repaired; a character that was lost (\ufffd) cannot",
            tuple(broken),
        )


@checks.register("invisible")
def invisible(material: Material) -> Iterator[Finding]:
    """Characters that nobody sees and the model has to learn."""
    rows = []
    for item in material.items:
        found = Counter(INVISIBLE.findall("".join(texts_of(item))))
        if found:
            rows.append(item.named(", ".join(f"{count} x U+{ord(char):04X}" for char, count in found.items())))
    if rows:
        yield Finding(
            "invisible",
            "warning",
            f"{many(len(rows), 'row holds', 'rows hold')} control or zero-width characters",
            "oleaster data clean takes them out",
            tuple(rows),
        )


@checks.register("control_tokens")
def control_tokens(material: Material) -> Iterator[Finding]:
    """Control tokens of the chosen model (without one: of any known family) that a row contains as text."""
    pattern, whose = _control_pattern(material.tokenizer)
    rows = []
    for item in material.items:
        found = Counter(token for text in _values(item) for token in pattern.findall(text))
        if found:
            rows.append(item.named(", ".join(found)))
    if rows:
        yield Finding(
            "control_tokens",
            "warning",
            f"{many(len(rows), 'row contains', 'rows contain')} {whose} as text; other tools "
            "take it for control, Oleaster encodes it as plain characters",
            "take them out: oleaster data clean --also control_tokens; roles belong into messages, not into the text",
            tuple(rows),
        )


@checks.register("markup")
def markup(material: Material) -> Iterator[Finding]:
    """HTML that was left in the text."""
    rows = []
    for item in material.items:
        found = Counter(mark for text in _values(item) for mark in MARKUP.findall(text))
        if found:
            rows.append(item.named(", ".join(found)))
    share = len(rows) / max(1, len(material.items))
    if 0 < share < 0.5:  # where half of the rows are HTML, HTML is the task
        yield Finding(
            "markup",
            "note",
            f"{many(len(rows), 'row holds', 'rows hold')} HTML tags or entities",
            "oleaster data clean --also markup writes entities as characters and takes tags out",
            tuple(rows),
        )


@checks.register("empty_prompts")
def empty_prompts(material: Material) -> Iterator[Finding]:
    """Rows that ask nothing."""
    if all(not item.prompt.strip() for item in material.items):
        return  # whole texts
    rows = [i.named(f"the answer is '{excerpt(i.answer, 40)}'") for i in material.items if not i.prompt.strip()]
    if rows:
        yield Finding(
            "empty_prompts",
            "error",
            f"{many(len(rows), 'row has', 'rows have')} an empty prompt: the model would learn to answer to nothing",
            "fill in the prompt; oleaster data clean drops these rows",
            tuple(rows),
        )


@checks.register("truncated")
def truncated(material: Material) -> Iterator[Finding]:
    """Answers that stop in the middle of a word or sentence, or at one length; and those that just lack a full stop.

    A cut behind a whole word leaves no other trace than the missing full stop: told where nearly all have one.
    """
    if material.labels:
        return
    prose = [i for i in material.items if len(i.answer.split()) >= LONG_ANSWER and not CODE.search(i.answer)]
    open_ends = [item for item in prose if not SENTENCE_END.search(item.answer[-END:])]
    if not open_ends:
        return
    longest = max(len(item.answer) for item in material.items)
    at_limit = [item.place for item in open_ends if len(item.answer) == longest]
    words = Counter(word for item in material.items for text in (item.prompt, item.answer) for word in _words(text))
    cut, bare = [], []
    for item in open_ends:
        if len(at_limit) >= SAME_END and item.place in at_limit:
            cut.append(item.named(f"stops after exactly {longest} characters: '...{_end(item)}'"))
        elif MIDDLE_OF_SENTENCE.search(item.answer[-END:]) or words[_words(item.answer)[-1]] == 1:
            cut.append(item.named(f"'...{_end(item)}'"))
        else:
            bare.append(item.named(f"'...{_end(item)}'"))
    if cut:
        yield Finding(
            "truncated",
            "warning",
            f"{many(len(cut), 'answer stops', 'answers stop')} in the middle: the model would learn to break off",
            "complete them, or leave the rows out",
            tuple(cut),
        )
    if bare and len(open_ends) <= (1 - MOSTLY) * len(prose):
        yield Finding(
            "open_ends",
            "note",
            f"{many(len(bare), 'answer lacks', 'answers lack')} the full stop that nearly all others have",
            "look whether they were cut off",
            tuple(bare),
        )


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.casefold()) or [""]


def _values(item: Item) -> list[str]:
    """What the row itself says; the literals of a template are the user's own."""
    if item.example.messages:
        return texts_of(item)
    parts = [text for text, _ in item.example.text_parts]
    return parts[1::2] if len(parts) > 1 else parts


def _control_pattern(tokenizer: Any) -> tuple[re.Pattern[str], str]:
    if tokenizer is None:
        return CONTROL, "what looks like a control token of some model"
    specials = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    specials |= set(tokenizer.all_special_tokens)
    longest_first = sorted(specials, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)"), "a control token of the model"


def _around(text: str, char: str) -> str:
    place = text.index(char)
    return excerpt(text[max(0, place - 20) : place + 20])


def _repaired(text: str) -> str:
    from ftfy import fix_encoding

    pairs = zip(text.split(), fix_encoding(text).split(), strict=False)
    wrong, right = next(((a, b) for a, b in pairs if a != b), (text, fix_encoding(text)))
    return f"'{excerpt(wrong, 30)}' was '{excerpt(right, 30)}'"


def _end(item: Item) -> str:
    return " ".join(item.answer.split())[-30:]
