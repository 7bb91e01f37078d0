"""Which language each row is in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from oleaster.quality.checks.table import checks
from oleaster.quality.findings import Finding, excerpt, many
from oleaster.quality.language import language_of
from oleaster.quality.material import Item, Material

SURE = 0.9
"""Probability (as the library normalises it) from which a row counts as foreign."""
MAIN = 0.8
"""Share of the rows from which one language is the language of the data."""


def prompt_languages(items: list[Item]) -> Counter[str]:
    """Rows by the language of what they ask."""
    found = (language_of(item.asked) for item in items)
    return Counter(entry[0] for entry in found if entry is not None)


@checks.register("languages")
def languages(material: Material) -> Iterator[Finding]:
    """Single rows in another language than the rest, prompts and answers apart."""
    for side in ("prompt", "answer"):
        texts = [getattr(item, side) for item in material.items]
        found = [language_of(text) for text in texts]
        told = Counter(entry[0] for entry in found if entry is not None)
        if not told:
            continue
        main, count = told.most_common(1)[0]
        if count < MAIN * told.total():
            continue
        rows = [
            item.named(f"{entry[0]}: '{excerpt(text)}'")
            for item, text, entry in zip(material.items, texts, found, strict=True)
            if entry is not None and entry[0] != main and entry[1] >= SURE
        ]
        if rows:
            yield Finding(
                f"foreign_{side}s",
                "warning",
                f"{many(len(rows), f'{side} is', f'{side}s are')} in another language than the rest ({main})",
                "leave them out, or add enough rows of that language (some hundred) that it is learned",
                tuple(rows),
            )
