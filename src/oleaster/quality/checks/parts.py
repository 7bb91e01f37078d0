"""Labels, and whether training, validation and test are samples of the same thing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from oleaster.quality.checks.languages import prompt_languages
from oleaster.quality.checks.table import checks
from oleaster.quality.findings import Finding, many, quoted
from oleaster.quality.material import TRAIN, Item, Material
from oleaster.quality.nearness import normalised

FEW = 5
"""Training rows below which a label is hardly learned."""
UNEVEN = 20
"""How many times more frequent the commonest label may be than the rarest."""
CHANCE = 0.001
"""Parts differ when samples of one whole would differ as much in fewer of the cases than this ..."""
DIFFERENT = 0.1
"""... and the difference matters: total variation distance of labels, Kolmogorov-Smirnov distance of lengths."""
USUAL = (0.08, 0.25)
"""Share of validation rows (10 to 20 %, with room for rounding) beside which a note is made."""
FEWEST = 100
"""Validation rows below which an accuracy is known to no better than about +-6 points at 90 %."""


@checks.register("labels")
def labels(material: Material) -> Iterator[Finding]:
    """One answer to everything, spellings of one label, rare labels, uneven labels, labels that training never sees."""
    if material.labels is None:
        yield from _one_answer(material)
        return
    by_part: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for item, label in zip(material.items, material.labels, strict=True):
        by_part[item.part][label] += 1
    yield from _spellings(material)
    train = by_part[material.parts[0]]
    usual = _usual_spelling(material)
    rare = sorted(label for label, count in train.items() if count < FEW and usual.get(label, label) == label)
    if rare:
        rows = [i.named(f"'{label}'") for i, label in _with_labels(material, set(rare), material.parts[0])]
        yield Finding(
            "rare_labels",
            "warning",
            f"{many(len(rare), 'label has', 'labels have')} fewer than {FEW} training rows: {quoted(rare)}",
            "correct them where they are mistakes; else collect more rows, merge labels, or oleaster data augment",
            tuple(rows),
        )
    unseen = sorted({label for part in material.parts[1:] for label in by_part[part]} - train.keys())
    if unseen:
        rows = [
            i.named(f"'{label}'")
            for part in material.parts[1:]
            for i, label in _with_labels(material, set(unseen), part)
        ]
        yield Finding(
            "unseen_labels",
            "error",
            f"{many(len(unseen), 'label occurs', 'labels occur')} in a later part, never in training: {quoted(unseen)}",
            "divide anew with every label in every part: oleaster data split",
            tuple(rows),
        )
    enough = Counter({label: count for label, count in train.items() if count >= FEW})
    if len(enough) > 1 and enough.most_common(1)[0][1] > UNEVEN * min(enough.values()):
        (most, n), (least, m) = enough.most_common(1)[0], enough.most_common()[-1]
        yield Finding(
            "uneven_labels",
            "note",
            f"'{most}' has {n:,} training rows, '{least}' {m:,}: accuracy will hide how the rare labels fare",
            "judge by macro_f1; collect or augment rows of the rare labels",
        )


def _one_answer(material: Material) -> Iterator[Finding]:
    answers = list({item.answer.strip() for item in material.items})
    if len(material.items) > 1 and len(answers) == 1 and answers[0]:
        yield Finding(
            "one_answer",
            "error",
            f"all {len(material.items):,} rows have the answer {quoted(answers)}: a model learns to say it always",
            "add rows with the other answers, or name the right column: --completion_field",
        )


def _usual_spelling(material: Material) -> dict[str, str]:
    """Label -> its commonest spelling, for labels with several."""
    spellings: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for label in material.labels or ():
        spellings[normalised(label) or label][label] += 1
    return {label: found.most_common(1)[0][0] for found in spellings.values() for label in found if len(found) > 1}


def _spellings(material: Material) -> Iterator[Finding]:
    assert material.labels is not None
    usual = _usual_spelling(material)
    rows = [
        item.named(f"'{label}' instead of '{usual[label]}'")
        for item, label in zip(material.items, material.labels, strict=True)
        if usual.get(label, label) != label
    ]
    if rows:
        yield Finding(
            "label_spellings",
            "error",
            f"{many(len(rows), 'row spells', 'rows spell')} their label otherwise than most: another "
            "label to the model",
            "oleaster data clean writes the commonest spelling",
            tuple(rows),
        )


@checks.register("representativeness")
def representativeness(material: Material) -> Iterator[Finding]:
    """Each later part against training: labels (chi-squared), lengths (Kolmogorov-Smirnov), languages."""
    from scipy.stats import ks_2samp

    train = material.of(material.parts[0])
    for part in material.parts[1:]:
        items = material.of(part)
        if not items or not train:
            continue
        differences: list[str] = []
        if material.labels is not None and (text := _label_difference(material, part)):
            differences.append(text)
        test = ks_2samp([len(i.asked) for i in train], [len(i.asked) for i in items])
        if test.pvalue < CHANCE and test.statistic > 1.5 * DIFFERENT:  # type: ignore[attr-defined]
            medians = (sorted(len(i.asked) for i in side)[len(side) // 2] for side in (train, items))
            differences.append("lengths of the prompts (median {:,} against {:,} characters)".format(*medians))
        if text := _language_difference(prompt_languages(train), prompt_languages(items)):
            differences.append(text)
        if differences:
            yield Finding(
                "unlike_parts",
                "warning",
                f"{part} is no sample of what {material.parts[0]} is: they differ in {'; '.join(differences)}",
                "divide anew: oleaster data split takes the same share of every label",
            )


def _label_difference(material: Material, part: str) -> str | None:
    from scipy.stats import chi2_contingency

    assert material.labels is not None
    pairs = list(zip(material.items, material.labels, strict=True))
    train = Counter(label for item, label in pairs if item.part == material.parts[0])
    held = Counter(label for item, label in pairs if item.part == part)
    n, m = train.total(), held.total()
    apart = {label: abs(train[label] / n - held[label] / m) for label in train | held}
    distance = sum(apart.values()) / 2
    # Labels too rare for the test's approximation count as one.
    columns: list[list[int]] = []
    rest = [0, 0]
    for label in train | held:
        pair = [train[label], held[label]]
        if sum(pair) * min(n, m) / (n + m) >= 5:
            columns.append(pair)
        else:
            rest = [rest[0] + pair[0], rest[1] + pair[1]]
    columns += [rest] if sum(rest) else []
    if len(columns) < 2 or distance <= DIFFERENT:
        return None
    if chi2_contingency(columns).pvalue >= CHANCE:  # type: ignore[attr-defined]
        return None
    label = max(apart, key=lambda name: apart[name])
    return f"labels ('{label}' is {train[label] / n:.0%} against {held[label] / m:.0%} of the rows)"


def _language_difference(train: Counter[str], held: Counter[str]) -> str | None:
    if min(train.total(), held.total()) < 20:
        return None
    apart = {name: abs(train[name] / train.total() - held[name] / held.total()) for name in train | held}
    name = max(apart, key=lambda language: apart[language])
    if apart[name] <= DIFFERENT:
        return None
    return f"language ({name} is {train[name] / train.total():.0%} against {held[name] / held.total():.0%} of the rows)"


@checks.register("shares")
def shares(material: Material) -> Iterator[Finding]:
    """Is there a validation part, and is it of a useful size?"""
    if material.parts != (TRAIN,) and "validation" in material.parts:
        held, train = len(material.of("validation")), len(material.of(TRAIN))
        share = held / max(1, held + train)
        few = held < FEWEST
        if few or not USUAL[0] <= share <= USUAL[1]:
            yield Finding(
                "validation_size",
                "note",
                f"validation is {held:,} of {held + train:,} rows ({share:.0%})"
                + (f": figures on fewer than {FEWEST} rows are rough" if few else "; 10 to 20 % is usual"),
                "oleaster data split --validation_fraction 0.15 divides anew",
            )


def _with_labels(material: Material, wanted: set[str], part: str) -> Iterator[tuple[Item, str]]:
    assert material.labels is not None
    for item, label in zip(material.items, material.labels, strict=True):
        if item.part == part and label in wanted:
            yield item, label
