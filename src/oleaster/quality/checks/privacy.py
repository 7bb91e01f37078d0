"""Personal data and secrets, by pattern; numbers only where their check digits are right."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from oleaster.quality.checks.table import checks
from oleaster.quality.checks.texts import texts_of
from oleaster.quality.findings import Finding, many
from oleaster.quality.material import Material


class Pattern(NamedTuple):
    """One kind of personal data."""

    name: str
    regex: re.Pattern[str]
    holds: Callable[[str], bool] = lambda text: True
    """Is what the expression found really one?"""


def _digits(text: str) -> list[int]:
    return [int(char) for char in text if char.isdigit()]


def luhn(text: str) -> bool:
    """The check digit of payment cards; a number of one digit only is none."""
    digits = _digits(text)
    doubled = [d if i % 2 == 0 else d * 2 - 9 * (d > 4) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0 and len(set(digits)) > 1


def iban(text: str) -> bool:
    """ISO 13616: the number, its first four characters behind, letters as 10 to 35, is 1 modulo 97."""
    plain = text.replace(" ", "").upper()
    return int("".join(str(int(char, 36)) for char in plain[4:] + plain[:4])) % 97 == 1


def pesel(text: str) -> bool:
    """The Polish personal number: weights, check digit and a month that exists (centuries add 20, 40, 60, 80)."""
    digits = _digits(text)
    check = -sum(d * w for d, w in zip(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3), strict=False)) % 10
    month, day = (digits[2] * 10 + digits[3]) % 20, digits[4] * 10 + digits[5]
    return check == digits[10] and 1 <= month <= 12 and 1 <= day <= 31


def phone(text: str) -> bool:
    """7 to 15 digits (E.164), and written as people write telephone numbers rather than sums or dates."""
    digits = _digits(text)
    return 7 <= len(digits) <= 15 and not re.fullmatch(
        r"\d{4}[-. ]\d{1,2}[-. ]\d{1,2}|\d{1,2}[-. ]\d{1,2}[-. ]\d{4}", text
    )


PATTERNS = (
    Pattern("email", re.compile(r"(?<![\w.+-])[\w.+-]+@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}\b")),
    Pattern("iban", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"), iban),
    Pattern("payment card", re.compile(r"(?<![\d.,-])(?:\d{4}[ -]?){3}\d{1,7}(?![\d.,-]\d|\d)"), luhn),
    Pattern("PESEL", re.compile(r"(?<![\d.,-])\d{11}(?![\d.,-]\d|\d)"), pesel),
    Pattern(
        "US social security number", re.compile(r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")
    ),
    Pattern(
        "phone",
        re.compile(
            r"(?<![\w.,/$€£+-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d(?:[ .-]?\d){5,12}"
            r"|\(\d{2,4}\)[ .-]?\d{3,4}[ .-]\d{2,4}(?:[ .-]\d{2})?|[1-9]\d{2}([ .-])\d{3}\1\d{3,4})"
            r"(?![\w/%+-]|[.,]\d|\s*[=*])"
        ),
        phone,
    ),
    Pattern(
        "IP address",
        re.compile(r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\d.]\d|\d)"),
    ),
    Pattern(
        "key or password",
        re.compile(
            r"\b(?:sk-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{30,}|xox[abp]-[A-Za-z0-9-]{10,}|hf_[A-Za-z0-9]{30,})\b"
            r"|-----BEGIN [A-Z ]*PRIVATE KEY-----|\b[a-z]+://[^\s/:@]+:[^\s/:@]+@[\w.-]+"
        ),
    ),
)
"""In this order: what an earlier one has found is no longer looked at by the later ones."""


_HINT = re.compile(r"@|\d\D{0,3}\d\D{0,3}\d\D{0,3}\d|sk-|AKIA|gh[pousr]_|xox|hf_|-----BEGIN")
"""Without one of these no pattern can match; most texts have none, and this is the quicker look."""


def find_personal(text: str) -> list[tuple[str, int, int]]:
    """(kind, begin, end) of what looks personal, in reading order; the pieces do not overlap."""
    found: list[tuple[str, int, int]] = []
    if not _HINT.search(text):
        return found
    for pattern in PATTERNS:
        for match in pattern.regex.finditer(text):
            begin, end = match.span()
            free = all(end <= other or begin >= behind for _, other, behind in found)
            if free and pattern.holds(match[0]):
                found.append((pattern.name, begin, end))
    return sorted(found, key=lambda piece: piece[1])


def veiled(text: str) -> str:
    """`jan@firma.pl` -> `ja...pl`: enough to find it, too little to pass it on."""
    return f"{text[:2]}...{text[-2:]}"


@checks.register("personal_data")
def personal_data(material: Material) -> Iterator[Finding]:
    """E-mail addresses, telephone and account numbers, cards, keys; what is found is shown veiled."""
    rows, kinds = [], set[str]()
    for item in material.items:
        seen = [
            f"{kind} {veiled(text[begin:end])}" for text in texts_of(item) for kind, begin, end in find_personal(text)
        ]
        kinds |= {entry.rpartition(" ")[0] for entry in seen}
        if seen:
            rows.append(item.named(", ".join(seen)))
    if rows:
        yield Finding(
            "personal_data",
            "warning",
            f"{many(len(rows), 'row holds', 'rows hold')} what looks like personal data or a secret "
            f"({', '.join(sorted(kinds))}); a model can repeat it word for word",
            "oleaster data clean --also personal_data puts placeholders; names and addresses no pattern can find",
            tuple(rows),
        )
