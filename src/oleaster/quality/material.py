"""What the checks look at: all rows of all parts, as a person reads them and as the model does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from oleaster.config.schema import DataConfig
from oleaster.core.errors import ConfigError, DataError
from oleaster.data.papers import Example
from oleaster.data.readers import Rows
from oleaster.data.shapes import build_examples, settle_shape
from oleaster.data.sources import SPLIT_WORDS, open_source, read_split, split_name
from oleaster.data.split import LONGEST_LABEL, ROWS_PER_LABEL
from oleaster.quality.findings import Named
from oleaster.quality.lenient import read_leniently
from oleaster.quality.nearness import Pair, find_near, normalised

TRAIN = "train"
ORDER = (TRAIN, "validation", "test")


@dataclass(frozen=True)
class Item:
    """A usable row."""

    part: str
    place: str
    prompt: str
    """What is given to the model: values of the row only, without the literals of a template or a system message."""
    answer: str
    example: Example
    tokens: tuple[int, int] | None = None
    """(prompt, answer) lengths as the model reads them; None without a model."""

    @property
    def asked(self) -> str:
        """The prompt; the text itself where it is learned whole."""
        return self.prompt or self.answer

    def named(self, seen: str = "") -> Named:
        return Named(self.place, seen)


@dataclass(frozen=True)
class Material:
    """The data set under examination."""

    items: tuple[Item, ...]
    unreadable: tuple[DataError, ...]
    """Lines that are no rows."""
    unusable: tuple[DataError, ...]
    """Rows that cannot be examples."""
    undecoded: tuple[Named, ...]
    """Lines that are not UTF-8."""
    raw: dict[str, Rows]
    """Part -> its rows as they stand in the files."""
    config: DataConfig
    """Shape and columns decided."""
    tokenizer: Any = None
    model: str | None = None
    parts: tuple[str, ...] = field(default=())
    """Training first."""

    def of(self, part: str) -> list[Item]:
        """The usable rows of one part."""
        return [item for item in self.items if item.part == part]

    @cached_property
    def labels(self) -> list[str] | None:
        """One label an item: the label column, else the answers where most are few and short; None otherwise.

        `data.split.find_labels` wants all answers to be short; here a few odd ones must not hide the labels.
        """
        if self.items and all(item.example.label is not None for item in self.items):
            return [str(item.example.label) for item in self.items]
        answers = [item.answer for item in self.items]
        if any(item.example.text_parts and not item.prompt for item in self.items):
            return None
        counts = Counter(answers)
        frequent = {answer for answer, count in counts.items() if count >= ROWS_PER_LABEL}
        covered = sum(counts[answer] for answer in frequent)
        few = len(frequent) >= 2 and covered >= 0.9 * len(answers)
        return answers if few and max(map(len, frequent)) <= LONGEST_LABEL else None

    @cached_property
    def near(self) -> list[Pair]:
        """Pairs of items (by number, first < second) that ask nearly or exactly the same."""
        return find_near([item.asked for item in self.items])

    @cached_property
    def keys(self) -> list[str]:
        """What each item asks, normalised: equal keys are the same question."""
        return [normalised(item.asked) for item in self.items]


def gather(names: Sequence[str], config: DataConfig, tokenizer: Any = None, model: str | None = None) -> Material:
    """Read files leniently, decide the shape of the rows and build the examples.

    Args:
        names: files, patterns, folders or hub data sets; a file is the part its name begins with (train, valid, test),
            else a part of its own name. A single file is the training part.
        tokenizer: that of the chosen model, for lengths.
    Raises: DataError, ConfigError when a file is missing, or when the columns do not say what is to be learned.
    """
    raw, undecoded = _read(names)
    if not any(rows.rows for rows in raw.values()):
        faults = [fault for rows in raw.values() for fault in rows.faults]
        raise faults[0] if faults else DataError("there are no rows", where=", ".join(names))
    parts = tuple(sorted(raw, key=lambda part: ORDER.index(part) if part in ORDER else len(ORDER)))
    config = settle_shape(config, raw[next(part for part in parts if raw[part].rows)])
    items: list[Item] = []
    unusable: list[DataError] = []
    for part in parts:
        examples, faults = build_examples(raw[part], config)
        unusable += faults
        lengths = _lengths(examples, tokenizer, config)
        items += [
            Item(part, e.source, prompt_of(e), e.target, e, tokens) for e, tokens in zip(examples, lengths, strict=True)
        ]
    unreadable = tuple(fault for part in parts for fault in raw[part].faults)
    return Material(tuple(items), unreadable, tuple(unusable), tuple(undecoded), raw, config, tokenizer, model, parts)


def _read(names: Sequence[str]) -> tuple[dict[str, Rows], list[Named]]:
    raw: dict[str, Rows] = {}
    undecoded: list[Named] = []
    for part, path in _parts(names):
        rows, decoded = read_leniently(path) if isinstance(path, Path) else (path, None)
        place = str(path) if isinstance(path, Path) else ""
        if decoded is not None:
            undecoded += [Named(f"{place}:{line}", f"reads well as {decoded.encoding}") for line in decoded.bad_lines]
        together = raw.setdefault(part, Rows())
        together.rows.extend(rows.rows)
        together.places.extend(rows.places)
        together.faults.extend(rows.faults)
    return raw, undecoded


def _parts(names: Sequence[str]) -> list[tuple[str, Path | Rows]]:
    """(part, file to read or rows of the hub) of all that is named."""
    found: list[tuple[str, Path | Rows]] = []
    if not names:
        raise ConfigError("not given: the rows", remedy="oleaster data report train.jsonl valid.jsonl")
    for name in names:
        pattern = any(mark in name for mark in "*?[")
        source = open_source(None, [name]) if pattern else open_source(name, None)
        if source.hub:
            found.append((TRAIN, read_split(source, TRAIN)))
        elif Path(name).is_dir():
            found += [(split, path) for split, paths in source.files.items() for path in paths]
        else:
            found += [(_part_of(path), path) for path in source.files[TRAIN]]
    parts = {part for part, _ in found}
    if len(parts) == 1:
        return [(TRAIN, path) for _, path in found]
    return found


def _part_of(path: Path) -> str:
    """`valid-00001.jsonl` -> validation; `phrases_test.csv` -> test; any other name -> itself."""
    words = [split_name(word) for word in path.stem.lower().replace("_", "-").replace(".", "-").split("-")]
    return next((word for word in words if word in SPLIT_WORDS), path.stem)


def prompt_of(example: Example) -> str:
    """What a row asks: see `Item.prompt`."""
    if example.messages:
        return "\n".join(str(m["content"]) for m in example.messages[:-1] if m["role"] not in ("system", "developer"))
    values = example.text_parts[1::2]
    return "\n".join(text for text, learn in values if not learn)


def _lengths(examples: Sequence[Example], tokenizer: Any, config: DataConfig) -> list[tuple[int, int] | None]:
    """(prompt, answer) tokens of each example, the whole conversation counted; None where it cannot be rendered."""
    if tokenizer is None:
        return [None] * len(examples)
    from oleaster.data.render import Rendered, render, voice_of
    from oleaster.data.tokens import tokenise

    voice = voice_of(tokenizer, config)
    sequences: list[Rendered] = []
    owners: list[int] = []
    for number, example in enumerate(examples):
        try:
            sequences.append(render(example, voice, config, every_turn=False)[-1])
            owners.append(number)
        except DataError:
            continue  # the check of templates says so
    lengths: list[tuple[int, int] | None] = [None] * len(examples)
    for owner, tokens in zip(owners, tokenise(sequences, tokenizer, "answer"), strict=True):
        lengths[owner] = (tokens.prompt_length, len(tokens.ids) - tokens.prompt_length)
    return lengths
