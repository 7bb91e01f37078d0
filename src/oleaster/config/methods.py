"""The section `method`: one class per method, told apart by `type`.

A setting that several methods have is one flag, so it means the same in all of them; a setting of another method than
the chosen one is refused (`config.load`). Names are PEFT's; `lora_r` and `lora_alpha` stand for its `r` and `alpha`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from oleaster.config.fields import Fraction, Names, PositiveFloat, PositiveInt, Section, Text, Words

_FLAG: dict[str, Any] = {"flag": "method"}


def _lower(value: object) -> object:
    """PEFT writes True where a word stands here."""
    return str(value).lower()


Start = Annotated[Literal["true", "gaussian", "pissa", "pissa_niter_16", "olora", "loftq"], BeforeValidator(_lower)]


ZERO_STARTS = ("true", "gaussian")
"""Those of them with which an update begins at zero."""


class LowRank(Section):
    """What LoRA has with and without a 4-bit base."""

    learning_rate: ClassVar[float] = 3e-4

    type: Any = Field(json_schema_extra=_FLAG)
    """What is trained, and how."""
    lora_r: PositiveInt = 16
    """Rank of the update."""
    lora_alpha: PositiveFloat | None = None
    """The update is scaled by lora_alpha / lora_r; default: twice the rank for lora and qlora, else the rank."""
    lora_dropout: Fraction = 0.0
    """Dropout on the input of A."""
    use_rslora: bool = False
    """Scale is lora_alpha / sqrt(lora_r) (Kalajdzievski 2023)."""
    init_lora_weights: Start = "true"
    """How A and B begin: true = A drawn evenly, B zero; pissa and olora = as the main part of the weight; loftq (with
    qlora) = as the main part of what rounding loses."""
    target_modules: Names = "all-linear"
    """Module names, a regular expression, or all-linear; default of ia3: keys, values and the last map of
    the MLP, of ln_tuning: all norms."""
    modules_to_save: Words | None = None
    """Modules that are trained whole beside the adapter."""


class LoraConfig(LowRank):
    """LoRA: y = W x + scale * B A x with W frozen (Hu et al. 2021)."""

    type: Literal["lora"] = Field(default="lora", json_schema_extra=_FLAG)
    """What is trained, and how."""
    use_dora: bool = False
    """DoRA: the length of each row of the weight is learned apart from its direction (Liu et al. 2024)."""


class QloraConfig(LowRank):
    """LoRA over linear layers rounded to 4 bits, NF4 (Dettmers et al. 2023)."""

    type: Literal["qlora"] = Field(default="qlora", json_schema_extra=_FLAG)


class FullConfig(Section):
    """Every parameter is trained; the result is a whole model."""

    learning_rate: ClassVar[float] = 5e-5

    type: Literal["full"] = Field(default="full", json_schema_extra=_FLAG)


class AdapterConfig(Section):
    """Small networks behind the frozen layers: y + up(activation(down(y))) (Houlsby et al. 2019)."""

    learning_rate: ClassVar[float] = 1e-3

    type: Literal["adapter"] = Field(default="adapter", json_schema_extra=_FLAG)
    adapter_placement: Literal["both", "attention", "mlp"] = "both"
    """Behind the attention, the MLP (Pfeiffer et al. 2021), or both (Houlsby et al. 2019)."""
    reduction_factor: PositiveInt = 16
    """The model's width over that of a network."""
    non_linearity: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    """Activation inside a network."""
    modules_to_save: Words | None = None


class Ia3Config(Section):
    """IA3: learned factors on keys, values and the inner MLP (Liu et al. 2022)."""

    learning_rate: ClassVar[float] = 1e-2

    type: Literal["ia3"] = Field(default="ia3", json_schema_extra=_FLAG)
    target_modules: Names | None = None
    feedforward_modules: Words | None = None
    """Those of target_modules whose input is scaled instead of the output; default: the last map of the MLP."""
    modules_to_save: Words | None = None


class LohaConfig(Section):
    """LoHa: the update is a product, element by element, of two low-rank matrices (Hyeon-Woo et al. 2022)."""

    learning_rate: ClassVar[float] = 1e-3

    type: Literal["loha"] = Field(default="loha", json_schema_extra=_FLAG)
    lora_r: PositiveInt = 8
    lora_alpha: PositiveFloat | None = None
    target_modules: Names | None = "all-linear"
    modules_to_save: Words | None = None


class LokrConfig(Section):
    """LoKr: the update is a Kronecker product (Edalati et al. 2022)."""

    learning_rate: ClassVar[float] = 1e-3

    type: Literal["lokr"] = Field(default="lokr", json_schema_extra=_FLAG)
    lora_r: PositiveInt = 8
    lora_alpha: PositiveFloat | None = None
    decompose_factor: Annotated[int, Field(ge=-1)] = -1
    """Size of the small factor of the Kronecker product; -1 = about the square root."""
    target_modules: Names | None = "all-linear"
    modules_to_save: Words | None = None


class VeraConfig(Section):
    """VeRA: two vectors a module scale random matrices that all modules share (Kopiczko et al. 2024)."""

    learning_rate: ClassVar[float] = 1e-2

    type: Literal["vera"] = Field(default="vera", json_schema_extra=_FLAG)
    lora_r: PositiveInt = 256
    vera_dropout: Fraction = 0.0
    """Dropout on the input of the shared matrices."""
    d_initial: PositiveFloat = 0.1
    """Start of the vector behind the first shared matrix."""
    target_modules: Names | None = "all-linear"
    modules_to_save: Words | None = None


class PromptTuningConfig(Section):
    """Learned embeddings in front of every row (Lester et al. 2021)."""

    learning_rate: ClassVar[float] = 3e-2

    type: Literal["prompt_tuning"] = Field(default="prompt_tuning", json_schema_extra=_FLAG)
    num_virtual_tokens: PositiveInt = 20
    """Length of what is learned in front of a row."""
    prompt_tuning_init_text: Text | None = None
    """Text whose embeddings the learned ones begin with; default: embeddings of random tokens."""


class PrefixTuningConfig(Section):
    """Learned keys and values in front of every row, in every layer (Li & Liang 2021)."""

    learning_rate: ClassVar[float] = 1e-2

    type: Literal["prefix_tuning"] = Field(default="prefix_tuning", json_schema_extra=_FLAG)
    num_virtual_tokens: PositiveInt = 20
    prefix_projection: bool = False
    """Learn them through a small network, which is dropped afterwards."""
    encoder_hidden_size: PositiveInt | None = None
    """Width of that network; default: the model's own."""


class LnTuningConfig(Section):
    """Only the scales of the norms are trained (Zhao et al. 2024)."""

    learning_rate: ClassVar[float] = 1e-3

    type: Literal["ln_tuning"] = Field(default="ln_tuning", json_schema_extra=_FLAG)
    target_modules: Names | None = None
    modules_to_save: Words | None = None


METHODS: tuple[type[Section], ...] = (
    LoraConfig,
    QloraConfig,
    FullConfig,
    AdapterConfig,
    Ia3Config,
    LohaConfig,
    LokrConfig,
    VeraConfig,
    PromptTuningConfig,
    PrefixTuningConfig,
    LnTuningConfig,
)
PeftSection = (
    AdapterConfig
    | Ia3Config
    | LohaConfig
    | LokrConfig
    | VeraConfig
    | PromptTuningConfig
    | PrefixTuningConfig
    | LnTuningConfig
)
"""Methods that PEFT carries out."""


def _lora_unless_named(value: object) -> object:
    return {"type": "lora", **value} if isinstance(value, dict) else value


def _any_of(schema: dict[str, Any]) -> None:
    """For editors: without `type` more than one of them may fit."""
    schema["anyOf"] = schema.pop("oneOf")
    schema.pop("discriminator")


MethodConfig = Annotated[
    LoraConfig | QloraConfig | FullConfig | PeftSection,
    Field(discriminator="type", json_schema_extra=_any_of),
    BeforeValidator(_lora_unless_named),
]


def method_types() -> dict[str, type[Section]]:
    """`type` -> its section, in the order in which they are named."""
    return {section.model_fields["type"].default: section for section in METHODS}
