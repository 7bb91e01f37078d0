"""A cleaned copy of a file: texts mended, labels spelled one way, rows that harm left out. Never in place."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oleaster.config.schema import DataConfig
from oleaster.core.errors import ConfigError, DataError, near_names
from oleaster.data.papers import Example
from oleaster.data.readers import Rows
from oleaster.data.shapes import build_examples, settle_shape
from oleaster.data.split import find_repeats
from oleaster.data.template import parse_template
from oleaster.quality.changes import Change, Cleaned, change_of, read_source, write_cleaned
from oleaster.quality.fixes import TEXT_FIXES, bare_columns, mend
from oleaster.quality.lines import Line
from oleaster.quality.material import Item, Material, prompt_of
from oleaster.quality.nearness import normalised

ALWAYS = (
    "unreadable",
    "encoding",
    "invisible",
    "whitespace",
    "label_spellings",
    "unusable",
    "empty_prompts",
    "duplicates",
)
"""What is safe: nothing of it changes what a row says."""
ON_REQUEST = ("control_tokens", "markup", "personal_data", "conflicts", "near_duplicates")
"""What may take something away that was meant."""


@dataclass
class _Work:
    """The lines under work: rows as they are now, and why."""

    lines: list[Line]
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Line number -> its row, as long as it is kept."""
    why: defaultdict[int, list[str]] = field(default_factory=lambda: defaultdict(list))

    def drop(self, number: int, reason: str) -> None:
        self.rows.pop(number, None)
        self.why[number].append(reason)


def choose_fixes(also: Sequence[str], without: Sequence[str]) -> tuple[str, ...]:
    """The fixes to make, in order. Raises: ConfigError for names that are none."""
    known = (*ALWAYS, *ON_REQUEST)
    for flag, names in (("--also", also), ("--without", without)):
        for name in names:
            if name not in known:
                raise ConfigError(f"there is no fix '{name}'", where=flag, remedy=near_names(name, known))
    return tuple(name for name in known if (name in ALWAYS or name in also) and name not in without)


def clean(
    path: Path, output: Path, config: DataConfig, fixes: Sequence[str], against: Material | None = None
) -> Cleaned:
    """Write the cleaned copy and its list of changes (`changes.log_of(output)`).

    Args:
        against: rows that must not occur in the copy (another part); nearly equal ones count with `near_duplicates`.

    Raises: DataError, ConfigError when the file is missing, or when its columns do not say what is to be learned.
    """
    if output.suffix != ".jsonl":
        raise ConfigError(
            "the copy is written as JSON lines", where=str(output), remedy="give it a name that ends in .jsonl"
        )
    source, lines = read_source(path)
    work = _Work(lines)
    for line in lines:
        if line.row is None:
            work.drop(line.number, f"unreadable: {line.fault}" if line.fault else "blank_line")
        else:
            work.rows[line.number] = line.row
    if "unreadable" not in fixes and (bad := [line for line in lines if line.fault]):
        raise DataError(
            bad[0].fault, where=bad[0].place, remedy="correct the line; a row that cannot be read cannot be kept"
        )
    if not work.rows:
        raise DataError("the file holds no rows", where=str(path), remedy="give a file with rows")
    _mend_texts(work, fixes)
    shape = settle_shape(config, Rows(list(work.rows.values()), [f"{path}:{number}" for number in work.rows]))
    if "label_spellings" in fixes:
        _spell_labels(work, shape)
    items = _usable(work, shape, fixes)
    _drop_repeats(work, items, shape, fixes)
    if against is not None:
        _drop_known(work, _still(work, items), against, near="near_duplicates" in fixes)
    return write_cleaned(source, lines, list(_changes(work)), output)


def _mend_texts(work: _Work, fixes: Sequence[str]) -> None:
    texts = [name for name in TEXT_FIXES if name in fixes]
    bare = bare_columns(list(work.rows.values()))
    for number, row in work.rows.items():
        work.rows[number], why = mend(row, texts, bare)
        work.why[number] += why


def _spell_labels(work: _Work, config: DataConfig) -> None:
    """Write each label as most rows write it; only where the answers (or a label column) are labels."""
    for column in _label_columns(config):
        values = {number: row[column] for number, row in work.rows.items() if isinstance(row.get(column), str)}
        counts = Counter(values.values())
        spellings: defaultdict[str, list[str]] = defaultdict(list)
        for value, _ in counts.most_common():
            spellings[normalised(value) or value].append(value)
        frequent = [names for names in spellings.values() if sum(counts[name] for name in names) >= 5]
        if sum(counts[name] for names in frequent for name in names) < 0.9 * len(values):
            continue  # free answers: another spelling may be meant
        usual = {name: names[0] for names in spellings.values() for name in names}
        for number, value in values.items():
            if usual[value] != value:
                work.rows[number] = {**work.rows[number], column: usual[value]}
                work.why[number].append(f"label_spellings: {column}")


def _label_columns(config: DataConfig) -> list[str]:
    answer = config.completion_field if config.data_format == "completion" else None
    if config.data_format == "template":
        answer = parse_template(config.text_template or "").columns[-1]
    return [name for name in dict.fromkeys((config.label_field, answer)) if name]


def _usable(work: _Work, config: DataConfig, fixes: Sequence[str]) -> dict[int, Item]:
    """Line number -> item of the rows that can be examples; drops the others."""
    numbers = list(work.rows)
    examples, faults = build_examples(Rows(list(work.rows.values()), [str(n) for n in numbers]), config)
    if faults and not examples:
        raise faults[0]  # no row can be one: rather a wrong column than wrong rows
    for fault in faults if "unusable" in fixes else ():
        work.drop(int(fault.where or 0), f"unusable: {fault.message}")
    items = {int(e.source): _item(e) for e in examples}
    if "empty_prompts" in fixes and any(item.prompt.strip() for item in items.values()):
        for number in [n for n, item in items.items() if not item.prompt.strip()]:
            work.drop(number, "empty_prompts")
    return _still(work, items)


def _item(example: Example) -> Item:
    return Item("", example.source, prompt_of(example), example.target, example)


def _still(work: _Work, items: dict[int, Item]) -> dict[int, Item]:
    return {number: item for number, item in items.items() if number in work.rows}


def _drop_repeats(work: _Work, items: dict[int, Item], config: DataConfig, fixes: Sequence[str]) -> None:
    """Exact repeats but the first; all sides of a contradiction; near repeats but the first."""
    from oleaster.quality.checks.repeats import contradictions, near_repeats

    numbers = list(items)
    if "duplicates" in fixes:
        for group in find_repeats([items[n].example for n in numbers]).groups:
            for i in group[1:]:
                work.drop(numbers[i], f"duplicates: the same as line {numbers[group[0]]}")
    material, numbers = _material(_still(work, items), config)
    if "conflicts" in fixes and material.labels:
        for group in contradictions(material):
            for i in group:
                others = ", ".join(str(numbers[j]) for j in group if j != i)
                work.drop(numbers[i], f"conflicts: another label at line {others}")
        material, numbers = _material(_still(work, items), config)
    if "near_duplicates" in fixes:
        for second, (first, how) in sorted(near_repeats(material).items()):
            if numbers[first] not in work.rows:
                continue  # left out itself: of a chain of rows, each near the next, every other one stays
            work.drop(numbers[second], f"near_duplicates: {how:.0%} of line {numbers[first]}")


def _material(items: dict[int, Item], config: DataConfig) -> tuple[Material, list[int]]:
    return Material(tuple(items.values()), (), (), (), {}, config, parts=("",)), list(items)


def _drop_known(work: _Work, items: dict[int, Item], against: Material, near: bool) -> None:
    """Rows that stand in `against`."""
    from oleaster.quality.nearness import find_near

    known = {normalised(item.asked): item.place for item in against.items}
    for number, item in items.items():
        if (place := known.get(normalised(item.asked))) is not None:
            work.drop(number, f"against: stands at {place}")
    if not near:
        return
    rest = _still(work, items)
    texts = [*(item.asked for item in against.items), *(item.asked for item in rest.values())]
    numbers, count = list(rest), len(against.items)
    for pair in find_near(texts):
        if pair.first < count <= pair.second and numbers[pair.second - count] in work.rows:
            place = against.items[pair.first].place
            work.drop(numbers[pair.second - count], f"against: {pair.likeness:.0%} of {place}")


def _changes(work: _Work) -> Iterable[Change]:
    """A change for each line that the copy does not have byte by byte."""
    for line in work.lines:
        why = list(work.why[line.number])
        row = work.rows.get(line.number)
        if row is None:
            yield change_of(line, None, why)
        elif row != line.row:
            yield change_of(line, row, why)
        elif line.raw != line.text:
            reason = "line_ends" if line.raw.rstrip("\r") == line.text else "encoding: bytes that are not UTF-8"
            yield Change(line.number, line.place, line.raw, line.text, (reason,))
