"""Further training rows that keep their labels, each marked as made (see `data.augmented`)."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from oleaster.config.schema import DataConfig
from oleaster.core.errors import ConfigError, DataError, collect, near_names
from oleaster.data.augmented import MADE_BY, MADE_FROM, is_augmented, row_id
from oleaster.data.shapes import CHATS
from oleaster.data.template import parse_template
from oleaster.quality.asking import SHOTS, Judge, Writer, why_not
from oleaster.quality.material import Item, Material
from oleaster.quality.nearness import normalised
from oleaster.quality.wording import masking, typos

BY_HAND = {"typos": typos, "masking": masking}
BY_MODEL = ("paraphrase", "back_generation")
WAYS = (*BY_HAND, *BY_MODEL)
NEEDS_LABELS = ("masking", *BY_MODEL)
"""Ways that may change what exactly is said: harmless to a label, wrong for a translation or a sum."""


@dataclass
class Augmented:
    """Rows that were made, and those that were thrown away."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    made: Counter[str] = field(default_factory=Counter)
    """Way -> rows."""
    refused: Counter[str] = field(default_factory=Counter)
    """`way: reason` -> texts that were not taken."""


@dataclass(frozen=True)
class _Task:
    """One row to be made."""

    item: Item
    label: str | None
    way: str


def augment(
    material: Material,
    ways: Sequence[str],
    *,
    copies: int = 1,
    up_to: int | None = None,
    seed: int = 42,
    writer: Writer | None = None,
) -> Augmented:
    """Make rows out of the usable ones that are not made themselves.

    Args:
        copies: rows to make of each row, the ways in turn.
        up_to: instead: so many that each label has this many rows, those that have them get none.
        writer: the base model, for paraphrase and back_generation.

    Raises: ConfigError for unknown ways, ways that need labels or a model where there are none; DataError for rows that
        cannot be examples.
    """
    collect([*material.unreadable, *material.unusable])
    check_ways(ways, material, writer is not None, up_to)
    own = [i for i, item in enumerate(material.items) if not is_augmented(item.example.row)]
    items = [material.items[i] for i in own]
    labels = [material.labels[i] for i in own] if material.labels else None
    draw = random.Random(seed)
    tasks = _tasks(items, labels, ways, copies, up_to, draw)
    done = Augmented()
    known = {normalised(item.asked) for item in items}
    judge = Judge([item.prompt for item in items], labels) if labels and set(ways) & set(BY_MODEL) else None
    for task in tasks:
        if task.way in BY_HAND:
            kept = frozenset(normalised(task.item.answer).split())
            text = BY_HAND[task.way](changeable(task.item, material.config), kept, draw)
            _take(done, task, text, [task.item], known, material.config)
    if writer is not None:
        _ask(done, [t for t in tasks if t.way in BY_MODEL], items, labels, writer, judge, known, material.config, draw)
    return done


def check_ways(ways: Sequence[str], material: Material, has_model: bool, up_to: int | None) -> None:
    """Raise one ConfigError with everything that speaks against the ways asked for."""
    problems = [
        ConfigError(f"there is no way '{way}'", where="--ways", remedy=near_names(way, WAYS))
        for way in ways
        if way not in WAYS
    ]
    if not has_model and (asked := [way for way in ways if way in BY_MODEL]):
        problems.append(ConfigError(f"{', '.join(asked)} needs a model", where="--ways", remedy="add -m MODEL"))
    if material.labels is None:
        why = "the answers are no labels, so another wording could need another answer"
        asked = [way for way in ways if way in NEEDS_LABELS]
        if asked:
            problems.append(ConfigError(f"{', '.join(asked)}: {why}", where="--ways", remedy="--ways typos"))
        if up_to is not None:
            problems.append(ConfigError("the answers are no labels", where="--up_to", remedy="--copies 1"))
    if material.config.data_format == "text":
        problems.append(ConfigError("whole texts have no prompt that could be reworded", where="data_format"))
    collect(problems)


def _tasks(
    items: list[Item],
    labels: list[str] | None,
    ways: Sequence[str],
    copies: int,
    up_to: int | None,
    draw: random.Random,
) -> list[_Task]:
    named = labels or [None] * len(items)
    if up_to is None:
        every = [(item, label) for _ in range(copies) for item, label in zip(items, named, strict=True)]
    else:
        by_label: defaultdict[str | None, list[Item]] = defaultdict(list)
        for item, label in zip(items, named, strict=True):
            by_label[label].append(item)
        every = []
        for label, group in by_label.items():
            order = draw.sample(group, len(group))
            every += [(order[i % len(order)], label) for i in range(up_to - len(group))]
    return [_Task(item, label, ways[i % len(ways)]) for i, (item, label) in enumerate(every)]


def _ask(
    done: Augmented,
    tasks: list[_Task],
    items: list[Item],
    labels: list[str] | None,
    writer: Writer,
    judge: Judge | None,
    known: set[str],
    config: DataConfig,
    draw: random.Random,
) -> None:
    """Let the model write all rows, and take those that pass."""
    by_label: defaultdict[str, list[Item]] = defaultdict(list)
    for item, label in zip(items, labels or (), strict=True):
        by_label[label].append(item)
    reworded = [task for task in tasks if task.way == "paraphrase"]
    written = [task for task in tasks if task.way == "back_generation"]
    shots = [[t.item, *_others(t.item, by_label[t.label or ""], draw)] for t in written]
    texts = writer.paraphrase([changeable(task.item, config) for task in reworded])
    lists = [
        ((t.label or "").replace("_", " "), [changeable(i, config) for i in s])
        for t, s in zip(written, shots, strict=True)
    ]
    texts += writer.continue_lists(lists)
    origins = [[task.item] for task in reworded] + shots
    verdicts = judge.labels_of(texts) if judge else []
    for n, (task, text) in enumerate(zip([*reworded, *written], texts, strict=True)):
        reason = why_not(text, changeable(task.item, config), task.way == "paraphrase")
        if reason is None and verdicts and verdicts[n] != task.label:
            reason = "nearer to another label"
        if reason is not None:
            done.refused[f"{task.way}: {reason}"] += 1
            continue
        _take(done, task, text, origins[n], known, config)


def _others(item: Item, group: list[Item], draw: random.Random) -> list[Item]:
    rest = [other for other in group if other is not item]
    return draw.sample(rest, min(SHOTS - 1, len(rest)))


def _take(
    done: Augmented, task: _Task, text: str | None, origin: Sequence[Item], known: set[str], config: DataConfig
) -> None:
    """Add the row, unless nothing was changed or the text is there already."""
    if text is None:
        done.refused[f"{task.way}: nothing that may be changed"] += 1
        return
    row = with_text(task.item, text, config)
    key = normalised(text) if task.way in BY_MODEL else row_id(row)
    if key in known or text == changeable(task.item, config):
        done.refused[f"{task.way}: there already"] += 1
        return
    known.add(key)
    marks = {MADE_BY: task.way, MADE_FROM: " ".join(row_id(item.example.row) for item in origin)}
    done.rows.append({**row, **marks})
    done.made[task.way] += 1


# --- which text of a row is changed ---


def changeable(item: Item, config: DataConfig) -> str:
    """The text that a person wrote: the prompt column, the instruction, the last user message, the longest column."""
    row = item.example.row
    if config.data_format in ("messages", "sharegpt"):
        return str(next(m["content"] for m in reversed(item.example.messages) if m["role"] == "user"))
    return str(row[_column(item, config)])


def with_text(item: Item, text: str, config: DataConfig) -> dict[str, Any]:
    """The row with that text in its place."""
    row = dict(item.example.row)
    if config.data_format not in ("messages", "sharegpt"):
        return {**row, _column(item, config): text}
    chat = next(name for name in CHATS if name in row)
    turns = [dict(turn) for turn in row[chat]]
    asked = next(
        i for i in range(len(turns) - 1, -1, -1) if turns[i].get("role", turns[i].get("from")) in ("user", "human")
    )
    turns[asked]["content" if "content" in turns[asked] else "value"] = text
    return {**row, chat: turns}


def _column(item: Item, config: DataConfig) -> str:
    row = item.example.row
    if config.data_format == "completion":
        return config.prompt_field or ""
    if config.data_format == "alpaca":
        return "instruction"
    names = parse_template(config.text_template or "").prompt_columns
    texts = [name for name in names if isinstance(row.get(name), str)]
    if not texts:
        raise DataError("the template has no prompt column that holds text", where=item.place)
    return max(texts, key=lambda name: len(row[name]))
