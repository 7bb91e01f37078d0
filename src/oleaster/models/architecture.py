"""What a config.json says about a decoder, for the families whose computation Oleaster has written itself.

A family is data: which norms there are, which projections are fused, how the rotary angles are made. `describe`
answers with the reason when a config asks for anything that `decoder.py` does not compute; such a model runs on
transformers' own code instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3_text")


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding: the first `2 * len(inv_freq)` channels of a head turn by position * inv_freq."""

    inv_freq: tuple[float, ...]

    @property
    def width(self) -> int:
        return 2 * len(self.inv_freq)


@dataclass(frozen=True)
class LayerKind:
    """What differs from layer to layer."""

    window: int | None
    """A token sees itself and this many tokens minus one before it; None = all."""
    rope: Rope


@dataclass(frozen=True)
class Architecture:
    """A decoder, completely described."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    layers: tuple[LayerKind, ...]
    norm_eps: float
    activation: Literal["silu", "gelu_tanh"]
    tied_head: bool
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    fused_projections: bool = False
    """qkv_proj and gate_up_proj (Phi3) instead of five matrices."""
    qk_norm: bool = False
    """RMSNorm over each head of q and k before the rotation."""
    post_norms: bool = False
    """RMSNorm also behind attention and MLP, before the residual sum (Gemma 2 and 3)."""
    norm_plus_one: bool = False
    """The norm multiplies by 1 + weight (Gemma)."""
    embed_scale: float = 1.0
    query_scale: float = 1.0
    attention_softcap: float | None = None
    logit_softcap: float | None = None


def describe(config: Mapping[str, Any]) -> Architecture | str:
    """The architecture of a parsed config.json, or one sentence that says why it is not one of ours."""
    family = config.get("model_type")
    if family not in FAMILIES:
        return f"model type '{family}' is none of {', '.join(FAMILIES)}"
    if config.get("quantization_config"):
        return "the weights are quantised"
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    activation = config.get("hidden_activation") or config.get("hidden_act") or "silu"
    if activation not in ("silu", "gelu_pytorch_tanh"):
        return f"activation '{activation}'"
    gemma = family.startswith("gemma")
    try:
        layers = _layers(config, family, head_dim)
    except _UnknownRopeError as reason:
        return str(reason)
    return Architecture(
        family=family,
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_heads=heads,
        num_kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        layers=layers,
        norm_eps=config.get("rms_norm_eps", 1e-6),
        activation="silu" if activation == "silu" else "gelu_tanh",
        tied_head=config.get("tie_word_embeddings", gemma),
        qkv_bias=family == "qwen2" or bool(config.get("attention_bias", False)),
        o_bias=family != "qwen2" and bool(config.get("attention_bias", False)),
        mlp_bias=bool(config.get("mlp_bias", False)),
        fused_projections=family == "phi3",
        qk_norm=family in ("qwen3", "gemma3_text"),
        post_norms=family in ("gemma2", "gemma3_text"),
        norm_plus_one=gemma,
        embed_scale=config["hidden_size"] ** 0.5 if gemma else 1.0,
        query_scale=(config.get("query_pre_attn_scalar") or head_dim) ** -0.5 if gemma else head_dim**-0.5,
        attention_softcap=config.get("attn_logit_softcapping") if gemma else None,
        logit_softcap=config.get("final_logit_softcapping") if gemma else None,
    )


class _UnknownRopeError(Exception):
    pass


def _layers(config: Mapping[str, Any], family: str, head_dim: int) -> tuple[LayerKind, ...]:
    count, window = config["num_hidden_layers"], config.get("sliding_window")
    if family in ("qwen2", "qwen3") and not config.get("use_sliding_window"):
        window = None
    kinds = config.get("layer_types")
    if kinds is None and family == "gemma2":
        kinds = ["sliding_attention" if i % 2 == 0 else "full_attention" for i in range(count)]
    elif kinds is None and family == "gemma3_text":
        pattern = config.get("sliding_window_pattern", 6)
        kinds = ["full_attention" if (i + 1) % pattern == 0 else "sliding_attention" for i in range(count)]
    elif kinds is None and family in ("qwen2", "qwen3") and window is not None:
        first = config.get("max_window_layers", count)
        kinds = ["sliding_attention" if i >= first else "full_attention" for i in range(count)]
    elif kinds is None:
        kinds = ["sliding_attention" if window else "full_attention"] * count
    ropes = {kind: _rope(config, family, kind, head_dim) for kind in set(kinds)}
    return tuple(LayerKind(window if kind == "sliding_attention" else None, ropes[kind]) for kind in kinds)


def _rope(config: Mapping[str, Any], family: str, kind: str, head_dim: int) -> Rope:
    """Angles as in transformers' modeling_rope_utils, from the form of version 5 (`rope_parameters`) or of 4."""
    parameters = config.get("rope_parameters")
    if parameters is not None and kind in parameters:
        parameters = parameters[kind]
    elif parameters is None:
        scaling = config.get("rope_scaling") or {}
        local = family == "gemma3_text" and kind == "sliding_attention"
        theta = config.get("rope_local_base_freq", 10000.0) if local else config.get("rope_theta", 10000.0)
        parameters = {"rope_type": "default", **({} if local else scaling), "rope_theta": theta}
    theta = parameters.get("rope_theta") or config.get("rope_theta") or 10000.0
    partial = parameters.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    width = int(head_dim * partial)
    freqs = [theta ** (-i / width) for i in range(0, width, 2)]
    rope_type = parameters.get("rope_type") or parameters.get("type") or "default"
    if rope_type == "linear":
        freqs = [f / parameters["factor"] for f in freqs]
    elif rope_type == "llama3":
        freqs = [_llama3(f, parameters) for f in freqs]
    elif rope_type != "default":
        raise _UnknownRopeError(f"rotary embedding of type '{rope_type}'")
    return Rope(tuple(freqs))


def _llama3(freq: float, parameters: Mapping[str, Any]) -> float:
    """Llama 3.1's frequencies: long waves divided by `factor`, short ones kept, a ramp between."""
    length = 2 * math.pi / freq
    old = parameters["original_max_position_embeddings"]
    low, high, factor = parameters["low_freq_factor"], parameters["high_freq_factor"], parameters["factor"]
    if length < old / high:
        return freq
    if length > old / low:
        return freq / factor
    ramp = (old / length - low) / (high - low)
    return (1 - ramp) * freq / factor + ramp * freq
