"""Flags, drawn from `Config`: name, section, kind, choices, default and help stand in `schema.py` and nowhere else."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal

from pydantic.fields import FieldInfo

from oleaster.config.fields import Section
from oleaster.config.methods import method_types
from oleaster.config.schema import Config

Kind = Literal["switch", "integer", "number", "text", "path", "list"]

ALIASES: dict[str, str] = {
    "activation_checkpointing": "gradient_checkpointing",
    "alpha": "lora_alpha",
    "batch_size": "per_device_train_batch_size",
    "cutoff_len": "max_length",
    "data": "data_name",
    "dataset": "data_name",
    "dataset_name": "data_name",
    "epochs": "num_train_epochs",
    "eval_batch_size": "per_device_eval_batch_size",
    "lora_rank": "lora_r",
    "lora_target": "target_modules",
    "lora_target_modules": "target_modules",
    "lr": "learning_rate",
    "lr_scheduler": "lr_scheduler_type",
    "max_seq_len": "max_length",
    "max_seq_length": "max_length",
    "micro_batch_size": "per_device_train_batch_size",
    "model": "model_name_or_path",
    "num_epochs": "num_train_epochs",
    "optimizer": "optim",
    "output_dir": "output_path",
    "r": "lora_r",
    "resume_from_checkpoint": "resume",
    "sequence_len": "max_length",
    "torch_dtype": "dtype",
    "val_set_size": "validation_fraction",
    "val_size": "validation_fraction",
}
"""Names other tools (transformers, TRL, Olive, LLaMA-Factory, axolotl) use for the same thing -> name here."""

SHORT: dict[str, str] = {"model_name_or_path": "m", "output_path": "o", "data_name": "d"}
"""Flags with a one-letter form."""


@dataclass(frozen=True)
class Flag:
    """One setting that can be given on the command line."""

    name: str
    help: str
    kind: Kind = "text"
    default: Any = None
    choices: tuple[str, ...] = ()
    section: str = ""
    """Section of the recipe that holds it; empty = top level, or no part of the recipe."""
    key: str = ""
    """Name inside its section; the same as `name` but for the method, which is `method.type`."""
    short: str | None = None
    alone: str | None = None
    """Value of a flag that stands alone, where it may."""
    aliases: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    """Types of the section (methods) that have it; empty = it is not about a type."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Type of the section, or of the method -> its own default, where that is another one."""

    @property
    def place(self) -> str:
        """`section.key` as a recipe has it."""
        return f"{self.section}.{self.key}" if self.section else self.key


@lru_cache(maxsize=1)
def sections() -> dict[str, tuple[type[Section], ...]]:
    """Section name -> its class, or the classes that its `type` chooses from, in the order of the recipe."""
    found = {name: _section_classes(field.annotation) for name, field in Config.model_fields.items()}
    return {name: classes for name, classes in found.items() if classes}


@lru_cache(maxsize=1)
def config_flags() -> dict[str, Flag]:
    """Every leaf of `Config` as a flag, by name, in the order of the recipe."""
    flags = [_flag("", key, field) for key, field in Config.model_fields.items() if key not in sections()]
    for name, classes in sections().items():
        for key in dict.fromkeys(key for cls in classes for key in cls.model_fields):
            flags.append(_flag_of_types(name, key, [cls for cls in classes if key in cls.model_fields], classes))
    return {flag.name: flag for flag in flags}


def select(section_names: Iterable[str] = (), names: Iterable[str] = ()) -> list[Flag]:
    """The flags of whole sections ("" = top level), then those called by name."""
    wanted = set(section_names)
    whole = [flag for flag in config_flags().values() if flag.section in wanted]
    return whole + [config_flags()[name] for name in names]


def _flag(section: str, key: str, field: FieldInfo) -> Flag:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    name = str(extra.get("flag", key))
    kind, choices = _kind(field.annotation)
    return Flag(
        name=name,
        help=(field.description or "").replace("\n", " "),
        kind=kind,
        default=field.default,
        choices=choices,
        section=section,
        key=key,
        short=SHORT.get(name),
        aliases=tuple(alias for alias, meant in ALIASES.items() if meant == name),
    )


def _flag_of_types(section: str, key: str, having: Sequence[type[Section]], classes: Sequence[type[Section]]) -> Flag:
    """One flag for a leaf that stands in several classes of a section."""
    first = _flag(section, key, having[0].model_fields[key])
    if len(classes) == 1:
        return replace(first, defaults=_by_method(key, first.default) if section == "training" else {})
    types = {cls.model_fields["type"].default: cls.model_fields[key].default for cls in having}
    if key == "type":
        return replace(first, choices=tuple(types))
    other = {name: default for name, default in types.items() if default != first.default}
    return replace(first, only=tuple(types), defaults=other)


def _by_method(key: str, default: Any) -> dict[str, Any]:
    """Defaults of a training setting that a method has its own for."""
    own = {name: getattr(cls, key, default) for name, cls in method_types().items()}
    return {name: value for name, value in own.items() if value != default}


def _kind(annotation: Any) -> tuple[Kind, tuple[str, ...]]:
    """What a value looks like, and the words it is chosen from (if any)."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _kind(args[0])
    if origin is Literal:
        return "text", tuple(str(arg) for arg in args)
    if origin is list:
        return "list", _kind(args[0])[1]
    if origin in (typing.Union, UnionType):
        kinds = [_kind(arg) for arg in args if arg is not type(None)]
        return next((kind for kind in kinds if kind[0] == "list"), kinds[0])
    kinds_of_types: dict[type, Kind] = {bool: "switch", int: "integer", float: "number", Path: "path"}
    return kinds_of_types.get(annotation, "text"), ()


def _section_classes(annotation: Any) -> tuple[type[Section], ...]:
    """The classes of a section: one, or those of a union."""
    if typing.get_origin(annotation) in (typing.Union, UnionType):
        parts = typing.get_args(annotation)
        return parts if all(_section_classes(part) for part in parts) else ()
    return (annotation,) if isinstance(annotation, type) and issubclass(annotation, Section) else ()
