"""The section `method`: one class per method, told apart by `type`.

A setting that several methods have is one flag, so it means the same in all of them; a setting of another method than
the chosen one is refused (`config.load`). Names are PEFT's; `lora_r` and `lora_alpha` stand for its `r` and `alpha`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from oleaster.config.fields import Fraction, Names, PositiveFloat, PositiveInt, Section, Words

_FLAG: dict[str, Any] = {"flag": "method"}


class LowRank(Section):
    """What LoRA has with and without a 4-bit base."""

    learning_rate: ClassVar[float] = 3e-4

    type: Any = Field(json_schema_extra=_FLAG)
    """What is trained, and how."""
    lora_r: PositiveInt = 16
    """Rank of the update."""
    lora_alpha: PositiveFloat | None = None
    """Scale is lora_alpha / lora_r; default: twice the rank."""
    lora_dropout: Fraction = 0.0
    """Dropout on the input of A."""
    use_rslora: bool = False
    """Scale is lora_alpha / sqrt(lora_r) (Kalajdzievski 2023)."""
    target_modules: Names = "all-linear"
    """Module names, a regular expression, or all-linear."""
    modules_to_save: Words | None = None
    """Modules that are trained whole beside the adapter."""


class LoraConfig(LowRank):
    """LoRA: y = W x + scale * B A x with W frozen (Hu et al. 2021)."""

    type: Literal["lora"] = Field(default="lora", json_schema_extra=_FLAG)
    """What is trained, and how."""


class FullConfig(Section):
    """Every parameter is trained; the result is a whole model."""

    learning_rate: ClassVar[float] = 5e-5

    type: Literal["full"] = Field(default="full", json_schema_extra=_FLAG)


METHODS: tuple[type[Section], ...] = (LoraConfig, FullConfig)


def _lora_unless_named(value: object) -> object:
    return {"type": "lora", **value} if isinstance(value, dict) else value


def _any_of(schema: dict[str, Any]) -> None:
    """For editors: without `type` more than one of them may fit."""
    schema["anyOf"] = schema.pop("oneOf")
    schema.pop("discriminator")


MethodConfig = Annotated[
    LoraConfig | FullConfig,
    Field(discriminator="type", json_schema_extra=_any_of),
    BeforeValidator(_lora_unless_named),
]


def method_types() -> dict[str, type[Section]]:
    """`type` -> its section, in the order in which they are named."""
    return {section.model_fields["type"].default: section for section in METHODS}
