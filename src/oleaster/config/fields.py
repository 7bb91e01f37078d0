"""What sections are made of: the frozen section, and the types of its fields."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """A frozen part of the tree: unknown keys are errors, field docstrings are descriptions."""

    # defer_build: `--help` lists fields and never validates, so the validators are built by whoever needs them first.
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, defer_build=True
    )


Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


def split_commas(value: object) -> object:
    """`a,b` -> [a, b]; a list stays as it is, so a name that holds a comma can stand in a YAML list."""
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


def _split_names(value: object) -> object:
    """`q_proj,v_proj` -> a list; one name, or a regular expression (which may hold commas), stays text."""
    return split_commas(value) if isinstance(value, str) and re.fullmatch(r"[\w.]+\s*(,[\w.,\s]*)", value) else value


def _newlines(value: object) -> object:
    r"""Backslash and n, as typed in a shell or in a plain YAML scalar, is a newline. The only place that does this."""
    return value.replace("\\n", "\n") if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_newlines)]
Words = Annotated[list[str], BeforeValidator(split_commas)]
Names = Annotated[list[str] | str, BeforeValidator(_split_names)]
