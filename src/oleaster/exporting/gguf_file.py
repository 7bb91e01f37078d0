"""Plain Hugging Face folder -> one .gguf file that llama.cpp runs; float16, 8 bits, or 4 bits with calibrated codes.

The `gguf` package (llama.cpp's own) knows file, names of tensors and rounding; what is written here is what it leaves
to each model: metadata, the order of rows in which llama.cpp rotates queries and keys, and norms as it multiplies them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from oleaster.core.errors import ModelError, near_names
from oleaster.exporting.gguf_words import REMEDY, read_words, spell
from oleaster.exporting.quantize import HEAD, Quantised
from oleaster.models.load import read_tensors

ARCHITECTURES = {
    "LlamaForCausalLM": "LLAMA",
    "MistralForCausalLM": "LLAMA",
    "Qwen2ForCausalLM": "QWEN2",
    "Qwen3ForCausalLM": "QWEN3",
    "Phi3ForCausalLM": "PHI3",
    "GemmaForCausalLM": "GEMMA",
    "Gemma2ForCausalLM": "GEMMA2",
    "Gemma3ForCausalLM": "GEMMA3",
}
"""Architecture -> llama.cpp's. Those that are compared with PyTorch on tiny models."""

WITHOUT_WINDOW = ("LLAMA", "PHI3")
"""llama.cpp attends to everything here, whatever window a model has: the file's context ends where the window does."""
FULL_EVERY = {"GEMMA2": 2, "GEMMA3": 6}
"""Each so many layers one looks at everything, the others at a window."""
SCALED_OTHERWISE = {"GEMMA2": (46,), "GEMMA3": (62,)}
"""Layers of the 27B models, whose scale llama.cpp knows by their size."""
GEMMA3_LOCAL_THETA = 10_000.0
FILE_TYPES = {"fp32": "ALL_F32", "fp16": "MOSTLY_F16", "int8": "MOSTLY_Q8_0", "int4": "MOSTLY_Q4_1"}
BLOCK = 32
"""Weights that share a scale in Q8_0 and Q4_1."""


def check_model(folder: Path) -> str:
    """llama.cpp's architecture of a plain folder. Raises: ModelError for a family or tokenizer that was not checked."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architecture = (config.get("architectures") or ["(none)"])[0]
    if architecture not in ARCHITECTURES:
        remedy = near_names(architecture, ARCHITECTURES)
        raise ModelError(f"{architecture} cannot be written as GGUF here", where=str(folder), remedy=remedy)
    if reason := _read_otherwise(config, ARCHITECTURES[architecture]):
        raise ModelError(f"llama.cpp would read it otherwise: {reason}", where=str(folder), remedy=REMEDY)
    read_words(folder)
    return ARCHITECTURES[architecture]


def _read_otherwise(config: Mapping[str, Any], architecture: str) -> str | None:
    """What of a model llama.cpp takes for granted, where this one has it otherwise."""
    kind = _rope(config).get("rope_type", "default")
    if kind not in ("default", "llama3"):
        return f"the rope scaling '{kind}' is not known here"
    if architecture in ("GEMMA", "GEMMA2") and not config.get("tie_word_embeddings", True):
        return "it has a head of its own"
    layers = config["num_hidden_layers"]
    if architecture in ("GEMMA2", "GEMMA3") and layers not in SCALED_OTHERWISE[architecture]:
        scale, size = config.get("query_pre_attn_scalar", 256), _head_size(config)
        if scale != size:
            return f"queries are scaled by {scale}, not by the head size {size}"
    if (period := FULL_EVERY.get(architecture)) is not None:
        kinds = ["full_attention" if (i + 1) % period == 0 else "sliding_attention" for i in range(layers)]
        if config.get("layer_types", kinds) != kinds:
            return f"not every layer but each {period}th looks at a window"
    if architecture == "GEMMA3" and _rope(config, "sliding_attention")["rope_theta"] != GEMMA3_LOCAL_THETA:
        return f"its windows rotate by another base than {GEMMA3_LOCAL_THETA:g}"
    return None


def write_gguf(folder: Path, path: Path, precision: str, ready: Mapping[str, Quantised] | None = None) -> None:
    """Write the float32 model of `folder` as `path`.

    Args:
        precision: `fp32`, `fp16`, `int8` (Q8_0), or `int4` (Q4_1 and Q8_0, as `ready` says).
        ready: calibrated codes by torch module path (`model.layers.0.mlp.up_proj`; `lm_head` serves a tied embedding
            too); 4 bits in asymmetric blocks of 32, 8 bits in blocks that 32 divides.

    Raises: ModelError, see `check_model`.
    """
    import gguf

    named = check_model(folder)
    architecture = gguf.MODEL_ARCH[named]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    _describe(writer, config, precision, named)
    spell(writer, read_words(folder))
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    tied = bool(config.get("tie_word_embeddings"))
    stored: list[tuple[str, Any]] = []  # (name, what makes its bytes), in the file's order
    if (factors := llama3_factors(config)) is not None:
        stored.append(("rope_freqs.weight", lambda: (factors, gguf.GGMLQuantizationType.F32)))
    for name, tensor in read_tensors(folder).items():
        if "rotary_emb" in name or (tied and name == f"{HEAD}.weight"):
            continue
        path_of = name.removesuffix(".weight").removesuffix(".bias")
        target = names.get_name(path_of)
        assert target is not None, f"{name} has no name in GGUF"
        order = row_order(name, config) if named == "LLAMA" else None
        code = (ready or {}).get(HEAD if tied and path_of.endswith("embed_tokens") else path_of)
        if named.startswith("GEMMA") and path_of.endswith("norm"):
            tensor = tensor.float() + 1  # stored as the difference from one
        stored.append(
            (f"{target}{name[len(path_of) :]}", lambda t=tensor, c=code, o=order: _bytes_of(t, c, o, precision))
        )
    for name, make in stored:  # made twice, so that never more than one tensor is held
        data, kind = make()
        writer.add_tensor_info(name, data.shape, data.dtype, data.nbytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, make in stored:
        writer.write_tensor_data(make()[0])
    writer.close()


def row_order(name: str, config: Mapping[str, Any]) -> np.ndarray | None:
    """Rows of a Llama's query or key projection as llama.cpp wants them: it rotates neighbours, PyTorch halves."""
    if ".q_proj." in name:
        heads = config["num_attention_heads"]
    elif ".k_proj." in name:
        heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    else:
        return None
    rows = np.arange(heads * _head_size(config))
    return rows.reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)


def llama3_factors(config: Mapping[str, Any]) -> np.ndarray | None:
    """float32 [head size / 2]: what Llama 3.1's rope divides each frequency by; None for plain rope.

    As in transformers' `_compute_llama3_parameters`: low frequencies by `factor`, high ones not at all, between them
    a straight line.
    """
    rope = _rope(config)
    if rope.get("rope_type", "default") != "llama3":
        return None
    size = _head_size(config)
    waves = 2 * np.pi * rope["rope_theta"] ** (np.arange(0, size, 2) / size)
    low, high, old = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    smooth = np.clip((old / waves - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)


def pack_codes(quantised: Quantised) -> np.ndarray:
    """Our codes as ggml blocks, uint8 [N, bytes]: Q4_1 (d, m, 16 bytes: w = d q + m) or Q8_0 (d, 32 bytes: w = d q)."""
    rows = quantised.codes.shape[0]
    if quantised.format.bits == 8:
        codes = (quantised.codes.astype(np.int16) - 128).astype(np.int8).view(np.uint8).reshape(rows, -1, BLOCK)
        scales = np.repeat(quantised.scales, quantised.format.block // BLOCK, axis=1)
        return np.concatenate([_as_bytes(scales), codes], axis=-1).reshape(rows, -1)
    assert quantised.zeros is not None
    codes = quantised.codes.reshape(rows, -1, 2, BLOCK // 2)
    nibbles = codes[:, :, 0] | (codes[:, :, 1] << 4)
    lowest = -quantised.scales.astype(np.float32) * quantised.zeros
    return np.concatenate([_as_bytes(quantised.scales), _as_bytes(lowest), nibbles], axis=-1).reshape(rows, -1)


def _bytes_of(
    tensor: Any, quantised: Quantised | None, order: np.ndarray | None, precision: str
) -> tuple[np.ndarray, Any]:
    """(what stands in the file, its ggml type)."""
    import gguf

    kinds = gguf.GGMLQuantizationType
    if quantised is not None and quantised.codes.shape[1] % BLOCK == 0:
        packed = pack_codes(quantised)
        return packed if order is None else packed[order], kinds.Q8_0 if quantised.format.bits == 8 else kinds.Q4_1
    values = tensor.float().numpy()
    values = values if order is None else values[order]
    if values.ndim == 1 or precision == "fp32":
        return values, kinds.F32
    if precision == "fp16" or values.shape[1] % BLOCK:
        return values.astype(np.float16), kinds.F16
    return gguf.quantize(values, kinds.Q8_0), kinds.Q8_0


def _describe(writer: Any, config: Mapping[str, Any], precision: str, architecture: str) -> None:
    import gguf

    heads, window = config["num_attention_heads"], config.get("sliding_window")
    context = config["max_position_embeddings"]
    writer.add_context_length(min(context, window) if window and architecture in WITHOUT_WINDOW else context)
    if window and architecture in FULL_EVERY:
        writer.add_sliding_window(window)
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if config.get(name) is not None:
            getattr(writer, f"add_{name}")(config[name])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(_head_size(config))
    writer.add_value_length(_head_size(config))
    writer.add_rope_dimension_count(int(_head_size(config) * _rope(config)["partial_rotary_factor"]))
    writer.add_rope_freq_base(float(_rope(config)["rope_theta"]))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[precision]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _rope(config: Mapping[str, Any], kind: str = "full_attention") -> dict[str, Any]:
    """Rope settings under transformers 5's names, from a config of either age.

    Args:
        kind: which layers' settings, where a family has them apart.
    """
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope = rope.get(kind, rope)
    old = config.get("rope_local_base_freq") if kind == "sliding_attention" else None
    rope.setdefault("rope_theta", old or config.get("rope_theta", 10000.0))
    rope.setdefault("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    return rope


def _head_size(config: Mapping[str, Any]) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def _as_bytes(values: np.ndarray) -> np.ndarray:
    """float16 numbers [N, blocks] as bytes [N, blocks, 2]."""
    return np.ascontiguousarray(values, dtype=np.float16)[..., None].view(np.uint8)
