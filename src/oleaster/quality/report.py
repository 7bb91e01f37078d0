"""All checks over a data set, and its figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from oleaster.quality import checks as _registered  # noqa: F401  # importing them enters them into the table
from oleaster.quality.checks.languages import prompt_languages
from oleaster.quality.checks.lengths import quantiles
from oleaster.quality.checks.table import checks
from oleaster.quality.findings import DataReport, PartFigures, in_order
from oleaster.quality.material import Item, Material


def report(material: Material) -> DataReport:
    """Look at everything."""
    findings = in_order(finding for name in checks for finding in checks.get(name)(material))
    parts = tuple(_figures(part, material) for part in material.parts)
    unit = "characters" if material.tokenizer is None else "tokens"
    return DataReport(unit, material.model, parts, findings)


def _figures(part: str, material: Material) -> PartFigures:
    items = material.of(part)
    raw = material.raw[part]
    labels: Counter[str] = Counter()
    if material.labels is not None:
        labels.update(label for item, label in zip(material.items, material.labels, strict=True) if item.part == part)
    lengths = _lengths(items)
    return PartFigures(
        name=part,
        rows=len(items),
        unusable=len(raw.faults) + len(raw.rows) - len(items),
        prompt=quantiles([prompt for prompt, _ in lengths]),
        answer=quantiles([answer for _, answer in lengths]),
        whole=quantiles([prompt + answer for prompt, answer in lengths]),
        labels=dict(labels.most_common()),
        languages=dict(prompt_languages(items).most_common()),
    )


def _lengths(items: Sequence[Item]) -> list[tuple[int, int]]:
    return [item.tokens or (len(item.prompt), len(item.answer)) for item in items]
