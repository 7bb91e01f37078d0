"""Rows before they are trained on: looked at, cleaned, divided, multiplied."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oleaster.config.schema import Config

if TYPE_CHECKING:
    from oleaster.quality.augment import Augmented
    from oleaster.quality.changes import Cleaned
    from oleaster.quality.divide import Division
    from oleaster.quality.findings import DataReport


def report_data(files: Sequence[str], config: Config = Config()) -> DataReport:
    """What would harm training, or make its figures wrong.

    Args:
        files: data files, folders or hub names; none: those that the recipe names.
        config: how rows are read; with a model, lengths are its tokens and its control tokens are looked for.

    Raises: ConfigError, DataError, ModelError. Bad rows are findings, not errors.
    """
    from oleaster.core.plugins import load_plugins
    from oleaster.quality.material import gather
    from oleaster.quality.report import report

    load_plugins(config.plugins)
    tokenizer = _tokenizer(config)
    return report(gather(files or _named(config), config.data, tokenizer, config.model.model_name_or_path))


def clean_data(
    file: Path,
    output: Path,
    config: Config = Config(),
    also: Sequence[str] = (),
    without: Sequence[str] = (),
    against: Sequence[str] = (),
) -> Cleaned:
    """Write a cleaned copy and the list of all changes beside it; `quality.changes.undo` goes back.

    Args:
        also, without: fixes beside, or out of, the safe ones (`quality.clean.ALWAYS`, `ON_REQUEST`).
        against: files whose rows must not stand in the copy.
    """
    from oleaster.quality.clean import choose_fixes, clean
    from oleaster.quality.material import gather

    fixes = choose_fixes(also, without)
    known = gather(against, config.data) if against else None
    return clean(file, output, config.data, fixes, known)


def split_data(
    files: Sequence[str],
    folder: Path,
    config: Config = Config(),
    test_fraction: float = 0.0,
    group_field: str | None = None,
    keep_near: bool = True,
) -> Division:
    """Divide rows into `train.jsonl`, `validation.jsonl` and perhaps `test.jsonl`; the recipe has shares and seed."""
    from oleaster.quality.divide import divide, write_parts
    from oleaster.quality.material import gather

    material = gather(files, config.data)
    fraction = config.data.validation_fraction
    division = divide(material, fraction, test_fraction, config.seed, group_field, keep_near)
    write_parts(division, folder)
    return division


def augment_data(
    file: str,
    output: Path,
    config: Config = Config(),
    ways: Sequence[str] = ("typos",),
    copies: int = 1,
    up_to: int | None = None,
) -> Augmented:
    """Write the rows of a file and those made of them, marked (`data.augmented`).

    Args:
        config: with a model, it is the writer of `paraphrase` and `back_generation`.
    """
    from oleaster.core.files import atomic_write_json_lines
    from oleaster.quality.asking import Writer
    from oleaster.quality.augment import BY_MODEL, augment, check_ways
    from oleaster.quality.material import gather

    material = gather([file], config.data)
    model = config.model.model_name_or_path
    check_ways(ways, material, model is not None, up_to)
    writer = None
    if model is not None and set(ways) & set(BY_MODEL):
        from oleaster.pipeline.answering import load

        assistant = load(model, config)
        writer = Writer(assistant.predictor, assistant.tokenizer, config.seed)
    done = augment(material, ways, copies=copies, up_to=up_to, seed=config.seed, writer=writer)
    rows = [*(item.example.row for item in material.items), *done.rows]
    atomic_write_json_lines(output, rows)
    return done


def _named(config: Config) -> list[str]:
    data = config.data
    return [
        *([] if data.data_files or not data.data_name else [data.data_name]),
        *(data.data_files or ()),
        *(data.eval_data_files or ()),
    ]


def _tokenizer(config: Config) -> Any:
    if config.model.model_name_or_path is None:
        return None
    from oleaster.models.source import resolve
    from oleaster.models.tokenizer import load_tokenizer

    return load_tokenizer(resolve(config.model).folder, config.model.trust_remote_code)
