"""Which file or hub data set, which split of it, which slice of that."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from oleaster.core.errors import ConfigError, DataError, near_names
from oleaster.data.readers import READERS, Rows, kind_of, read_file

KINDS = ("json", "csv", "parquet")
"""What `--data_name` may say together with `--data_files` (the spelling of `datasets` and Olive)."""
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing"),
}
"""Names that a file of a split may begin with."""


@dataclass(frozen=True)
class Source:
    """A place with rows: local files by split, or a data set of the hub."""

    name: str
    files: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    hub: bool = False


def open_source(data_name: str | None, data_files: Sequence[str] | None) -> Source:
    """Find out what the user means; reads no rows yet.

    Raises: ConfigError for settings that contradict each other; DataError for a missing file or an empty folder.
    """
    if data_files:
        if data_name and data_name not in KINDS:
            raise ConfigError(
                f"both --data_name {data_name} and --data_files are given",
                remedy=f"leave one out (beside --data_files, --data_name may only be {', '.join(KINDS)})",
            )
        paths = [path for pattern in data_files for path in _expand(pattern)]
        return Source(", ".join(data_files), {"train": tuple(paths)})
    if not data_name:
        raise ConfigError(
            "no data are named", remedy="add --data_name FILE_OR_HUB_NAME, for instance --data_name train.jsonl"
        )
    if data_name in KINDS:
        raise ConfigError(f"--data_name {data_name} needs --data_files", remedy=f"add --data_files rows.{data_name}")
    path = Path(data_name).expanduser()
    if path.is_dir():
        return Source(data_name, _files_of(path))
    if path.is_file() or kind_of(path) in READERS or data_name.startswith((".", "/", "~")):
        return Source(data_name, {"train": (path,)})
    return Source(data_name, hub=True)


def _expand(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.exists() or not any(c in pattern for c in "*?["):
        return [path]
    root = Path(path.anchor) if path.is_absolute() else Path()
    found = sorted(root.glob(str(path.relative_to(path.anchor) if path.is_absolute() else path)))
    if not found:
        raise DataError("no file matches", where=pattern, remedy="check the pattern and the folder")
    return found


def _files_of(folder: Path) -> dict[str, tuple[Path, ...]]:
    """The data files of a folder by split: train.jsonl, valid.jsonl, test-00000-of-00002.parquet, data/train.csv."""
    inner = folder / "data"
    listed = [p for place in (folder, inner) if place.is_dir() for p in sorted(place.iterdir())]
    files = [p for p in listed if p.is_file() and kind_of(p) in READERS]
    splits: dict[str, list[Path]] = {}
    for path in files:
        word = re.split(r"[-_.]", path.stem.lower(), maxsplit=1)[0]
        for split, words in SPLIT_WORDS.items():
            if word in words:
                splits.setdefault(split, []).append(path)
    if not splits and len(files) == 1:
        return {"train": (files[0],)}
    if not splits:
        remedy = "name one file, or call the files train.jsonl, valid.jsonl, test.jsonl"
        seen = ", ".join(p.name for p in files[:10]) or "no data file at all"
        raise DataError(f"the folder has no train file; it has {seen}", where=str(folder), remedy=remedy)
    return {split: tuple(paths) for split, paths in splits.items()}


def split_name(name: str) -> str:
    """`valid`, `val`, `dev` -> `validation` and so on; other names stay."""
    return next((split for split, words in SPLIT_WORDS.items() if name.lower() in words), name)


def read_split(source: Source, split: str) -> Rows:
    """All rows of one split.

    Raises: DataError when there is no such split, file or hub data set. Bad rows come back as `Rows.faults`.
    """
    if source.hub:
        return _read_hub(source.name, split)
    paths = source.files.get(split_name(split))
    if paths is None:
        raise DataError(f"there is no split '{split}'", where=source.name, remedy=near_names(split, source.files))
    found = Rows()
    for path in paths:
        one = read_file(path)
        found.rows.extend(one.rows)
        found.places.extend(one.places)
        found.faults.extend(one.faults)
    return found


def _read_hub(name: str, split: str) -> Rows:
    """Rows of a hub data set; `owner/name:config` chooses one of its configurations."""
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    repo, _, subset = name.partition(":")
    try:
        table = datasets.load_dataset(repo, subset or None, split=split)
    except (DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise DataError(
            "this is no local file, and the data set cannot be had from the hub: " + _first_line(error),
            where=name,
            remedy="check the spelling and the connection, or download it and name the file",
        ) from error
    except ValueError as error:  # unknown split or configuration; `datasets` lists the known ones
        raise DataError(
            _first_line(error), where=name, remedy="configurations are written owner/name:config"
        ) from error
    rows = [dict(row) for row in table.to_list()]
    return Rows(rows, [f"{name}[{i}]" for i in range(len(rows))])


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


# --- slices ---


@dataclass(frozen=True)
class Slice:
    """`train[10%:20%]` taken apart. Bounds are rows or, with `percent`, hundredths of the rows."""

    text: str
    split: str
    start: int | None = None
    stop: int | None = None
    start_percent: bool = False
    stop_percent: bool = False

    def of(self, total: int) -> range:
        """The chosen row numbers of `total` rows. Percents round to the nearest row, as `datasets` does.

        Raises: DataError when a bound lies outside (`datasets` would clip in silence) or no row is left.
        """
        start = _bound(self, self.start, self.start_percent, total, 0)
        stop = _bound(self, self.stop, self.stop_percent, total, total)
        if total and start >= stop:
            raise DataError("the slice is empty", where=self.text, remedy=f"the split has {total} rows")
        return range(start, stop)


def _bound(piece: Slice, value: int | None, percent: bool, total: int, default: int) -> int:
    if value is None:
        return default
    row = round(value * total / 100) if percent else value
    if abs(row) > total:
        raise DataError(
            f"the slice asks for row {row}, but there are {total} rows",
            where=piece.text,
            remedy=f"write bounds from 0 to {total}",
        )
    return row if value >= 0 else total + row


_SLICE = re.compile(r"(?P<split>[^\[\]]+?)\s*(?:\[\s*(?P<a>-?\d+%?)?\s*:\s*(?P<b>-?\d+%?)?\s*\])?")


def parse_slice(text: str) -> Slice:
    """Read `train`, `train[:4096]`, `train[-100:]`, `train[10%:20%]`. Raises: ConfigError for anything else."""
    match = _SLICE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            f"{text!r} is no split",
            remedy="write train, train[:4096], train[4096:4224], train[-100:] or train[10%:20%]",
        )
    a, b = match["a"], match["b"]
    for bound in (a, b):
        if bound and bound.endswith("%") and abs(int(bound[:-1])) > 100:
            raise ConfigError(f"{text!r}: {bound} is more than the whole", remedy="write -100% to 100%")
    return Slice(
        text=text.strip(),
        split=match["split"].strip(),
        start=int(a.rstrip("%")) if a else None,
        stop=int(b.rstrip("%")) if b else None,
        start_percent=bool(a and a.endswith("%")),
        stop_percent=bool(b and b.endswith("%")),
    )
