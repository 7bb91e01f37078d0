"""What a cleaning does to the texts of a row."""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from oleaster.data.augmented import MARKS
from oleaster.data.shapes import BYSTANDERS
from oleaster.data.template import CONTROL
from oleaster.quality.checks.privacy import find_personal
from oleaster.quality.checks.texts import INVISIBLE, MARKUP

UNTOUCHED = {*BYSTANDERS, *MARKS, "role", "from", "name", "tool_call_id", "tool_calls", "tools", "type"}
"""Keys whose values are no prose."""
Fix = Callable[[str], str]


def encoding(text: str) -> str:
    """Text that was decoded wrongly, once more and right (ftfy); composed characters (NFC)."""
    from ftfy import fix_encoding
    from ftfy.badness import is_bad

    return unicodedata.normalize("NFC", fix_encoding(text) if is_bad(text) else text)


def invisible(text: str) -> str:
    """Without control characters, zero-width blanks and marks of direction."""
    return INVISIBLE.sub("", text)


def control_tokens(text: str) -> str:
    """Without what looks like a control token of a model."""
    return CONTROL.sub("", text)


def markup(text: str) -> str:
    """Entities as characters; line breaks and paragraphs as line ends, other tags taken out."""
    text = re.sub(r"<(?:br|/p|/div|/li)\s*/?>", "\n", text, flags=re.I)
    return html.unescape(MARKUP.sub(lambda mark: mark[0] if mark[0].startswith("&") else "", text))


def personal_data(text: str) -> str:
    """`[EMAIL]`, `[PHONE]`, ... in place of what looks personal."""
    for kind, begin, end in reversed(find_personal(text)):
        text = f"{text[:begin]}[{kind.upper().replace(' ', '_')}]{text[end:]}"
    return text


def whitespace(text: str) -> str:
    """Without blanks and line ends around it."""
    return text.strip()


TEXT_FIXES: Mapping[str, Fix] = {
    "encoding": encoding,
    "invisible": invisible,
    "control_tokens": control_tokens,
    "markup": markup,
    "personal_data": personal_data,
    "whitespace": whitespace,
}
"""In this order."""


def mend(row: dict[str, Any], fixes: Sequence[str], bare: set[str]) -> tuple[dict[str, Any], list[str]]:
    """(row with its texts mended, `fix: column` of each that changed something).

    Args:
        bare: columns in which nearly no text has blanks around it: only there are they a mistake.
    """
    why: list[str] = []
    mended = dict(row)
    for column in row:
        if column in UNTOUCHED:
            continue
        for name in fixes:
            if name == "whitespace" and column not in bare:
                continue
            after = _map_prose(mended[column], TEXT_FIXES[name])
            if after != mended[column]:
                mended[column] = after
                why.append(f"{name}: {column}")
    return mended, why


def bare_columns(rows: Sequence[Mapping[str, Any]], usual: float = 0.9) -> set[str]:
    """Columns in which at least `usual` of the texts have no blanks around them."""
    texts, bare = Counter[str](), Counter[str]()
    for row in rows:
        for column, value in row.items():
            if isinstance(value, str):
                texts[column] += 1
                bare[column] += value == value.strip()
    return {column for column, count in texts.items() if bare[column] >= usual * count}


def _map_prose(value: Any, fix: Fix) -> Any:
    if isinstance(value, str):
        return fix(value)
    if isinstance(value, Mapping):
        return {key: item if key in UNTOUCHED else _map_prose(item, fix) for key, item in value.items()}
    return [_map_prose(item, fix) for item in value] if isinstance(value, list) else value
