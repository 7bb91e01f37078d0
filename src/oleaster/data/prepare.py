"""From the settings to checked examples, before any model is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oleaster.config.schema import DataConfig
from oleaster.core.errors import ConfigError, DataError
from oleaster.data.augmented import MADE_FROM_HELD_OUT, NOT_HELD_OUT, beside, set_apart
from oleaster.data.faults import raise_faults
from oleaster.data.ledger import Ledger, Part
from oleaster.data.papers import Example
from oleaster.data.readers import Rows
from oleaster.data.shapes import LABELLED, build_examples, settle_shape
from oleaster.data.sources import Slice, Source, open_source, parse_slice, read_split, split_name
from oleaster.data.split import FEWEST_ROWS, Repeats, find_labels, find_repeats, hold_out


@dataclass(frozen=True)
class Prepared:
    """Checked examples of both sides."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    ledger: Ledger
    """Rows only; `encode_all` adds the tokens."""
    notes: tuple[str, ...]
    """Sentences a user should read: what was decided for him, what looks odd."""
    config: DataConfig
    """The settings with shape and columns decided: what a run must keep to render a prompt as training did."""


@dataclass(frozen=True)
class _Chosen:
    """Rows of both sides as they were asked for, before anything is held out."""

    train: Rows
    validation: Rows
    read: int
    outside: int
    """Rows that no slice asked for."""


def prepare(config: DataConfig, seed: int) -> Prepared:
    """Read, check, shape and divide the rows.

    Raises: ConfigError for settings that contradict each other, DataError with all bad rows of all files together.
    """
    chosen = _choose(config)
    asked_for, config = config, settle_shape(config, chosen.train)
    train, faults = build_examples(chosen.train, config)
    validation, more = build_examples(chosen.validation, config)
    raise_faults(faults + more)
    notes = _shape_notes(asked_for, config)
    asked = len(train) + len(validation)
    train, made = set_apart(train)
    validation, misplaced = set_apart(validation)
    divided_here = not validation
    if validation:
        train = train[: config.max_samples]
        repeats = find_repeats([*train, *validation])
        notes += _leak_note(repeats, len(train))
    else:
        train = _pool(train, config)
        repeats = find_repeats(train)
        train, validation, note = _hold_out(train, repeats, config, seed)
        notes.append(note)
    notes += _repeat_notes(repeats)
    made, left_out = beside(made, train, validation, divided_here)
    train = [*train, *made][: config.max_samples]
    notes += _made_notes(len(made), left_out)
    ledger = Ledger(
        read=chosen.read,
        sliced_away=chosen.outside + asked - len(train) - len(validation) - left_out - len(misplaced),
        train=_part_of(train, MADE_FROM_HELD_OUT, left_out),
        validation=_part_of(validation, NOT_HELD_OUT, len(misplaced)),
        duplicated=repeats.duplicated,
        conflicting=repeats.conflicting,
    )
    ledger.check()
    return Prepared(tuple(train), tuple(validation), ledger, tuple(notes), config)


def read_test_rows(config: DataConfig, path_or_name: str, split: str | None = None) -> tuple[Example, ...]:
    """Examples of another file, folder or hub data set, in the shape that `config` says.

    Args:
        config: that of a run (`Prepared.config`), so that the rows are read as the training rows were.
        split: split or slice; a single file has only one split, whatever it is called. Default: the whole file, the
            test split of a folder or hub data set.
    Raises: ConfigError, DataError as `prepare`.
    """
    source = open_source(path_or_name, None)
    lone = not source.hub and set(source.files) == {"train"}
    piece = parse_slice(split or "test")
    rows = read_split(source, "train" if lone else piece.split)
    raise_faults(rows.faults)
    part = _part(rows, piece.of(len(rows.rows)))
    examples, faults = build_examples(part, settle_shape(config, part))
    raise_faults(faults)
    return tuple(examples)


def build_given(config: DataConfig, rows: Iterable[Mapping[str, Any]], name: str = "rows") -> tuple[Example, ...]:
    """Examples of rows in memory (a list of mappings, a `datasets.Dataset`), in the shape that `config` says.

    Args:
        name: what messages call them: `name[3]` is the fourth row.
    Raises: DataError when there are none, or with all bad rows together.
    """
    listed = list(rows)
    if strange := [i for i, row in enumerate(listed) if not isinstance(row, Mapping)]:
        found = f"is a {type(listed[strange[0]]).__name__}, not a mapping of columns"
        raise DataError(found, where=f"{name}[{strange[0]}]", remedy='rows are like {"prompt": "...", "answer": "..."}')
    if not listed:
        raise DataError("there are no rows", where=name)
    part = Rows([dict(row) for row in listed], [f"{name}[{i}]" for i in range(len(listed))])
    examples, faults = build_examples(part, settle_shape(config, part))
    raise_faults(faults)
    return tuple(examples)


def _part(rows: Rows, numbers: range) -> Rows:
    return Rows(rows.rows[numbers.start : numbers.stop], rows.places[numbers.start : numbers.stop])


def _choose(config: DataConfig) -> _Chosen:
    """Read the asked splits and cut out the asked slices."""
    source = open_source(config.data_name, config.data_files)
    train_slice = parse_slice(config.train_split)
    eval_source, eval_slice = _eval_place(config, source)
    train_rows = read_split(source, train_slice.split)
    same = eval_source is source and eval_slice and split_name(eval_slice.split) == split_name(train_slice.split)
    eval_rows = Rows()
    if eval_slice:
        eval_rows = train_rows if same else read_split(eval_source, eval_slice.split)
    raise_faults(train_rows.faults if same else train_rows.faults + eval_rows.faults)
    train_range = train_slice.of(len(train_rows.rows))
    eval_range = eval_slice.of(len(eval_rows.rows)) if eval_slice else range(0)
    if same and eval_slice:
        _refuse_overlap(train_slice, train_range, eval_slice, eval_range)
    read = len(train_rows.rows) + (0 if same else len(eval_rows.rows))
    outside = read - len(train_range) - len(eval_range)
    return _Chosen(_part(train_rows, train_range), _part(eval_rows, eval_range), read, outside)


def _eval_place(config: DataConfig, source: Source) -> tuple[Source, Slice | None]:
    """Where the validation rows lie, and which; None: a part of the training rows is to be held out."""
    if config.eval_data_files:
        piece = parse_slice(config.eval_split or "train")
        # A list of files is one split, whatever the user calls it.
        renamed = Slice(piece.text, "train", piece.start, piece.stop, piece.start_percent, piece.stop_percent)
        return open_source(None, config.eval_data_files), renamed
    if config.eval_split:
        return source, parse_slice(config.eval_split)
    if "validation" in source.files and split_name(parse_slice(config.train_split).split) == "train":
        return source, Slice("validation", "validation")
    return source, None


def _refuse_overlap(train: Slice, train_rows: range, held: Slice, held_rows: range) -> None:
    first, last = max(train_rows.start, held_rows.start), min(train_rows.stop, held_rows.stop)
    if first >= last:
        return
    raise ConfigError(
        f"--train_split {train.text} and --eval_split {held.text} share {last - first} rows ({first} to {last - 1})",
        remedy="choose slices that do not overlap, or leave --eval_split out to have a part held out",
    )


def _pool(examples: list[Example], config: DataConfig) -> list[Example]:
    """The rows to divide: enough for `max_samples` training rows beside the held-out share."""
    if config.max_samples is None:
        return examples
    return examples[: math.ceil(config.max_samples / (1 - config.validation_fraction))]


def _hold_out(
    examples: list[Example], repeats: Repeats, config: DataConfig, seed: int
) -> tuple[list[Example], list[Example], str]:
    fraction = config.validation_fraction
    if fraction == 0:
        return examples[: config.max_samples], [], "no validation rows: --validation_fraction is 0"
    if len(repeats.groups) < FEWEST_ROWS:
        why = f"no validation rows: with fewer than {FEWEST_ROWS} different rows none are held out"
        return examples[: config.max_samples], [], why
    labels = find_labels(examples)
    train, held = hold_out(repeats.groups, labels, fraction, seed)
    evenly = f", evenly over {len(set(labels))} labels" if labels else ""
    note = f"{len(held)} of {len(examples)} rows held out for validation (seed {seed}{evenly})"
    return [examples[i] for i in train][: config.max_samples], [examples[i] for i in held], note


def _shape_notes(before: DataConfig, settled: DataConfig) -> list[str]:
    """What the columns were taken for where they might have meant something else."""
    if before.prompt_field is None and settled.prompt_field == LABELLED[0]:
        return ["column text is the prompt and label the answer; --text_field text learns the whole text instead"]
    return []


def _repeat_notes(repeats: Repeats) -> list[str]:
    notes = []
    if repeats.duplicated:
        notes.append(f"{repeats.duplicated} rows repeat an earlier row exactly; they weigh more in training")
    if repeats.conflicting:
        notes.append(f"{repeats.conflicting} rows have a prompt that also occurs with another answer")
    return notes


def _part_of(examples: Sequence[Example], reason: str, left_out: int) -> Part:
    """The ledger's part of rows that are used, and others that are not."""
    dropped = {reason: left_out} if left_out else {}
    return Part(rows=len(examples) + left_out, used=len(examples), dropped=dropped)


def _made_notes(made: int, left_out: int) -> list[str]:
    if not made + left_out:
        return []
    why = f"; {left_out} more are left out, as they were made from held-out rows" if left_out else ""
    return [f"{made} augmented rows are trained on, none is validated on{why}"]


def _leak_note(repeats: Repeats, train_rows: int) -> Sequence[str]:
    leaked = sum(sum(i >= train_rows for i in group) for group in repeats.groups if group[0] < train_rows <= group[-1])
    return (
        [f"{leaked} validation rows also stand in the training rows: the validation loss is too good"] if leaked else []
    )
