"""Holding out validation rows: seeded, the same share of every label, repeated rows never on both sides."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from oleaster.data.papers import Example

FEWEST_ROWS = 20
"""Below this many rows a tenth is one or two rows: a validation loss of them would say nothing."""
LONGEST_LABEL = 80
"""Characters; longer answers are sentences, not labels."""
ROWS_PER_LABEL = 5
"""Answers are labels when each occurs at least this often on average."""


class Repeats(NamedTuple):
    """How rows resemble each other."""

    groups: list[list[int]]
    """Row numbers that are exactly the same example, in order of first occurrence."""
    duplicated: int
    """Rows beyond the first of their group."""
    conflicting: int
    """Rows whose prompt also occurs with another answer."""


def find_repeats(examples: Sequence[Example]) -> Repeats:
    """Group rows with the same prompt and answer; count prompts with several answers."""
    groups: dict[Hashable, list[int]] = {}
    answers: defaultdict[Hashable, set[Hashable]] = defaultdict(set)
    prompts: list[Hashable] = []
    for i, example in enumerate(examples):
        prompt, answer = _key(example)
        prompts.append(prompt)
        answers[prompt].add(answer)
        groups.setdefault((prompt, answer), []).append(i)
    conflicting = sum(len(answers[prompt]) > 1 for prompt in prompts if prompt)
    return Repeats(list(groups.values()), len(examples) - len(groups), conflicting)


def _key(example: Example) -> tuple[Hashable, Hashable]:
    if example.messages:
        *before, last = example.messages
        plain = all(m.keys() == {"role", "content"} for m in example.messages) and not example.tools
        if plain:
            return tuple((m["role"], m["content"]) for m in before), last["content"]
        return json.dumps([before, example.tools], sort_keys=True), json.dumps(last, sort_keys=True)
    prompt = "".join(text for text, learn in example.text_parts if not learn)
    return prompt, "".join(text for text, learn in example.text_parts if learn)


def find_labels(examples: Sequence[Example]) -> list[str] | None:
    """One label a row: the label column where there is one, else the answers when they are few and short."""
    if all(example.label is not None for example in examples):
        return [str(example.label) for example in examples]
    answers = [example.target for example in examples]
    return answers if are_labels(answers) else None


def are_labels(answers: Sequence[str]) -> bool:
    """Are the answers few and short?"""
    distinct = set(answers)
    return 2 <= len(distinct) <= len(answers) / ROWS_PER_LABEL and max(map(len, distinct)) <= LONGEST_LABEL


def hold_out(
    groups: Sequence[Sequence[int]], labels: Sequence[str] | None, fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Divide rows into (training, validation), each in the order given.

    Whole groups move together. With labels every label gives its share of rows (largest remainders make up the total),
    as nearly as its groups allow, and keeps at least one group for training.

    Args:
        groups: a partition of the row numbers, as in `Repeats.groups`.
        labels: label of each row; a group has that of its first row.
        fraction: share held out, 0 <= fraction < 1.
    """
    rng = random.Random(seed)
    strata: defaultdict[str, list[Sequence[int]]] = defaultdict(list)
    for group in groups:
        strata[labels[group[0]] if labels else ""].append(group)
    names = sorted(strata)
    for name in names:
        rng.shuffle(strata[name])
    share = {name: sum(map(len, strata[name])) * fraction for name in names}
    quota = {name: int(share[name]) for name in names}
    by_remainder = sorted(names, key=lambda name: (quota[name] - share[name], rng.random()))
    for name in by_remainder[: round(sum(share.values())) - sum(quota.values())]:
        quota[name] += 1
    held = {i for name in names for group in _filling(strata[name], quota[name]) for i in group}
    rows = sorted(i for group in groups for i in group)
    return [i for i in rows if i not in held], [i for i in rows if i in held]


def _filling(groups: Sequence[Sequence[int]], rows: int) -> list[Sequence[int]]:
    """Groups in order, each that still fits into `rows` rows; never all of them. Where none fits, the smallest one if
    at least half of the rows stay: rather a few rows too many than a label that is not validated."""
    chosen: list[Sequence[int]] = []
    left = rows
    for group in groups:
        if len(group) <= left and len(chosen) < len(groups) - 1:
            chosen.append(group)
            left -= len(group)
    if rows and not chosen and len(groups) > 1:
        smallest = min(groups, key=len)
        return [smallest] if 2 * len(smallest) <= sum(map(len, groups)) else []
    return chosen
