"""Which language a text is in, offline (py3langid, BSD-3: naive Bayes over byte n-grams, 5 MB)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

KNOWN = (
    "ar bg bn ca cs cy da de el en es et eu fa fi fr ga gl he hi hr hu id is it ja ka ko lt lv mk ms nb nl pl pt ro ru "
    "sk sl sq sr sv sw ta te th tl tr uk ur vi zh"
)
"""Languages that are told apart; the rarer ones of the library are more often a mistake than a find in short texts."""
SHORTEST = 25
"""Letters below which a text does not tell its language."""
LONGEST = 500
"""Characters that are looked at: more tell nothing more."""
_LETTERS = re.compile(r"[^\W\d_]")


@lru_cache(maxsize=1)
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(sorted(set(KNOWN.split()) & set(identifier.labels)))
    return identifier


@lru_cache(maxsize=200_000)  # several checks ask for the same texts
def language_of(text: str) -> tuple[str, float] | None:
    """(ISO 639 code, probability); None where the text is too short to tell."""
    if len(_LETTERS.findall(text)) < SHORTEST:
        return None
    language, sure = _identifier().classify(text[:LONGEST])
    return str(language), float(sure)


def how_natural(text: str) -> float:
    """Probability of the likeliest language, whatever the length: comparable between readings of the same bytes."""
    return float(_identifier().classify(text[:LONGEST])[1])
