"""Changing a text a little so that its meaning stays: typing errors and words left out."""

from __future__ import annotations

import random
import re

NEIGHBOURS = {
    letter: around
    for line in (
        "q:wa w:qeas e:wrsd r:etdf t:ryfg y:tugh u:yijh i:uojk o:ipkl p:ol",
        "a:qwsz s:awedxz d:serfcx f:drtgvc g:ftyhbv h:gyujnb j:huikmn k:jiolm l:kop",
        "z:asx x:zsdc c:xdfv v:cfgb b:vghn n:bhjm m:njk",
    )
    for letter, _, around in (pair.partition(":") for pair in line.split())
}
"""Letters beside a letter on a keyboard."""
LETTERS_PER_ERROR = 30
WORDS_PER_GAP = 6
SHORTEST_WORD = 4
"""Letters from which a word is spoiled; a typing error in a shorter one makes another word."""
NEGATIONS = "no not never none nobody nothing without nie nigdy bez nikt nein nicht kein keine ohne ne pas jamais"
_PLAIN = re.compile(r"[^\W\d_]+")


def may_change(word: str, kept: frozenset[str]) -> bool:
    """No numbers, addresses or names (capitals inside a sentence), nothing that the answer says, no negation."""
    bare = word.strip(".,;:!?\"'()").casefold()
    return (
        bool(_PLAIN.fullmatch(bare)) and bare not in kept and bare not in NEGATIONS.split() and not word[1:].isupper()
    )


def typos(text: str, kept: frozenset[str], draw: random.Random) -> str | None:
    """One typing error for every 30 letters: two letters swapped, one left out, doubled, or its neighbour on the
    keyboard. Never the first letter of a word. None where no word may be changed."""
    words = re.split(r"(\s+)", text)
    first = next((i for i, word in enumerate(words) if word.strip()), 0)
    able = [
        i
        for i, word in enumerate(words)
        if len(word) >= SHORTEST_WORD and may_change(word, kept) and (i == first or not word[0].isupper())
    ]
    if not able:
        return None
    for i in draw.sample(able, min(len(able), max(1, len(text) // LETTERS_PER_ERROR))):
        words[i] = _spoil(words[i], draw)
    return "".join(words)


def masking(text: str, kept: frozenset[str], draw: random.Random) -> str | None:
    """One word of every six left out, as a hurried person writes. None for texts too short to bear it."""
    words = text.split()
    able = [i for i, word in enumerate(words) if may_change(word, kept) and (i == 0 or not word[0].isupper())]
    if len(words) < WORDS_PER_GAP or not able:
        return None
    gone = set(draw.sample(able, min(len(able), max(1, len(words) // WORDS_PER_GAP))))
    return " ".join(word for i, word in enumerate(words) if i not in gone)


def _spoil(word: str, draw: random.Random) -> str:
    letters = [i for i in range(1, len(word)) if word[i].isalpha()]
    i = draw.choice(letters)
    kind = draw.choice(("swap", "drop", "double", "neighbour"))
    if kind == "swap" and i + 1 < len(word) and word[i] != word[i + 1] and word[i + 1].isalpha():
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    if kind == "neighbour" and word[i].lower() in NEIGHBOURS:
        return word[:i] + draw.choice(NEIGHBOURS[word[i].lower()]) + word[i + 1 :]
    if kind == "drop":
        return word[:i] + word[i + 1 :]
    return word[:i] + word[i] + word[i:]
