"""Plain Hugging Face folder -> one .gguf file that llama.cpp runs; float16, 8 bits, or 4 bits with calibrated codes.

The `gguf` package (llama.cpp's own) knows file, names of tensors and rounding; what is written here is what it leaves
to each model: metadata, the tokenizer, and the order of rows in which llama.cpp rotates queries and keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oleaster.core.errors import ModelError, near_names
from oleaster.exporting.quantize import HEAD, Quantised
from oleaster.models.load import read_tensors
from oleaster.models.tokenizer import end_of_turn_id, load_tokenizer

ARCHITECTURES = {
    "LlamaForCausalLM": "LLAMA",
    "MistralForCausalLM": "LLAMA",
    "Qwen2ForCausalLM": "QWEN2",
    "Qwen3ForCausalLM": "QWEN3",
}
"""Architecture -> llama.cpp's. Those that are compared with PyTorch on tiny models."""

FILE_TYPES = {"fp32": "ALL_F32", "fp16": "MOSTLY_F16", "int8": "MOSTLY_Q8_0", "int4": "MOSTLY_Q4_1"}
BLOCK = 32
"""Weights that share a scale in Q8_0 and Q4_1."""

GPT2_SPLIT = {"type": "ByteLevel", "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [GPT2_SPLIT],
    "smollm": [DIGITS, GPT2_SPLIT],
    "llama-bpe": [{"type": "Split", "pattern": {"Regex": ENGLISH + r"\p{N}{1,3}" + REST}}],
    "qwen2": [{"type": "Split", "pattern": {"Regex": ENGLISH + r"\p{N}" + REST}}],
}
"""llama.cpp's name for a way to split text into words -> how tokenizer.json writes it. A wrong name is no error there:
the text just becomes other tokens."""


@dataclass(frozen=True)
class Words:
    """The tokenizer as llama.cpp wants it: byte-level BPE."""

    split: str
    """A key of `SPLITS`."""
    tokens: list[str]
    special: list[int]
    """Ids of tokens that stand for no text."""
    added: list[int]
    """Ids of other tokens that are matched before splitting."""
    merges: list[str]
    template: str | None
    stop: int
    begins: int | None
    """Id that the tokenizer puts in front of every text; None when it does not."""


def check_model(folder: Path) -> str:
    """llama.cpp's architecture of a plain folder. Raises: ModelError for a family or tokenizer that was not checked."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architecture = (config.get("architectures") or ["(none)"])[0]
    if architecture not in ARCHITECTURES:
        remedy = near_names(architecture, ARCHITECTURES)
        raise ModelError(f"{architecture} cannot be written as GGUF here", where=str(folder), remedy=remedy)
    window, context = config.get("sliding_window"), config["max_position_embeddings"]
    if architecture == "MistralForCausalLM" and window and window < context:
        found = f"llama.cpp would read it without its attention window of {window} tokens"
        raise ModelError(found, where=str(folder), remedy="--output_format genai or hf")
    kind = _rope(config).get("rope_type", "default")
    if kind not in ("default", "llama3"):
        raise ModelError(f"the rope scaling '{kind}' is not known here", where=str(folder), remedy="--output_format hf")
    read_words(folder)
    return ARCHITECTURES[architecture]


def read_words(folder: Path) -> Words:
    """The folder's tokenizer. Raises: ModelError when llama.cpp would split text otherwise, as far as is known."""
    raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model = raw["model"]
    remedy = "--output_format hf, and llama.cpp's own convert_hf_to_gguf.py"
    if model["type"] != "BPE" or model.get("byte_fallback") or not model["merges"]:
        raise ModelError("the tokenizer is not byte-level BPE", where=str(folder), remedy=remedy)
    split = _split_of(raw.get("pre_tokenizer") or {})
    if split is None or (split == "llama-bpe") != bool(model.get("ignore_merges")):
        raise ModelError("the tokenizer splits words in a way not known here", where=str(folder), remedy=remedy)
    tokenizer = load_tokenizer(folder)
    added = {token["id"]: token for token in raw["added_tokens"]}
    names = {index: token for token, index in model["vocab"].items()} | {i: t["content"] for i, t in added.items()}
    size = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    stop = end_of_turn_id(tokenizer)
    first = tokenizer.encode("a")[0]
    return Words(
        split=split,
        tokens=[names.get(i, f"[PAD{i}]") for i in range(size)],
        special=[i for i in range(size) if i not in names or added.get(i, {}).get("special")],
        added=[i for i, token in added.items() if not token["special"]],
        merges=merges,
        template=tokenizer.chat_template,
        stop=tokenizer.eos_token_id if stop is None else stop,
        begins=first if first == tokenizer.bos_token_id else None,
    )


def write_gguf(folder: Path, path: Path, precision: str, ready: Mapping[str, Quantised] | None = None) -> None:
    """Write the float32 model of `folder` as `path`.

    Args:
        precision: `fp32`, `fp16`, `int8` (Q8_0), or `int4` (Q4_1 and Q8_0, as `ready` says).
        ready: calibrated codes by torch module path (`model.layers.0.mlp.up_proj`; `lm_head` serves a tied embedding
            too); 4 bits in asymmetric blocks of 32, 8 bits in blocks that 32 divides.

    Raises: ModelError, see `check_model`.
    """
    import gguf

    architecture = gguf.MODEL_ARCH[check_model(folder)]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    _describe(writer, config, precision)
    _spell(writer, read_words(folder))
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
        order = row_order(name, config) if architecture == gguf.MODEL_ARCH.LLAMA else None
        code = (ready or {}).get(HEAD if tied and path_of.endswith("embed_tokens") else path_of)
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


def _describe(writer: Any, config: Mapping[str, Any], precision: str) -> None:
    import gguf

    heads = config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(_head_size(config))
    writer.add_value_length(_head_size(config))
    writer.add_rope_dimension_count(_head_size(config))
    writer.add_rope_freq_base(float(_rope(config)["rope_theta"]))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[precision]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _spell(writer: Any, words: Words) -> None:
    import gguf

    kinds = [gguf.TokenType.NORMAL] * len(words.tokens)
    for index in words.added:
        kinds[index] = gguf.TokenType.USER_DEFINED
    for index in words.special:
        kinds[index] = gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words.split)
    writer.add_token_list(words.tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(words.merges)
    writer.add_eos_token_id(words.stop)
    writer.add_add_bos_token(words.begins is not None)
    if words.begins is not None:
        writer.add_bos_token_id(words.begins)
    if words.template is not None:
        writer.add_chat_template(words.template)


def _split_of(pre_tokenizer: Mapping[str, Any]) -> str | None:
    """Key of `SPLITS` for tokenizer.json's pre_tokenizer; None when it is none of them."""
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    # Behind a Split, ByteLevel only spells bytes.
    if len(steps) == 2 and steps[0].get("type") == "Split" and not steps[1].get("use_regex", True):
        steps = steps[:1]
    for name, known in SPLITS.items():
        if len(known) == len(steps) and all(k.items() <= s.items() for k, s in zip(known, steps, strict=True)):
            return name
    return None


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rope settings under transformers 5's names, from a config of either age."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    return rope


def _head_size(config: Mapping[str, Any]) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def _as_bytes(values: np.ndarray) -> np.ndarray:
    """float16 numbers [N, blocks] as bytes [N, blocks, 2]."""
    return np.ascontiguousarray(values, dtype=np.float16)[..., None].view(np.uint8)
