"""What the gguf package leaves to us: blocks of calibrated codes, rope scaling, tokenizers, and who is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from oleaster.core.errors import ModelError
from oleaster.exporting.gguf_file import ENGLISH, REST, check_model, llama3_factors, pack_codes, read_words
from oleaster.exporting.quantize import Format, round_to_nearest
from oleaster.models.tiny import make_tiny

WEIGHT = np.random.default_rng(0).normal(size=(6, 128)).astype(np.float32)


def test_8_bit_codes_are_the_same_numbers_in_ggml() -> None:
    quantised = round_to_nearest(WEIGHT, Format(8, 64))
    read = gguf.dequantize(pack_codes(quantised), gguf.GGMLQuantizationType.Q8_0)
    assert np.array_equal(read, quantised.dense())


def test_4_bit_codes_are_the_same_numbers_in_ggml_but_for_the_rounding_of_the_offset() -> None:
    quantised = round_to_nearest(WEIGHT, Format(4, 32, asymmetric=True))
    packed = pack_codes(quantised)
    assert packed.shape == (6, 128 // 32 * 20)
    read = gguf.dequantize(packed, gguf.GGMLQuantizationType.Q4_1)
    step = np.repeat(quantised.scales.astype(np.float32), 32, axis=1)
    assert (np.abs(read - quantised.dense()) <= 0.01 * step).all()


def test_llama3_factors_are_those_of_transformers() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope: dict[str, Any] = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(rope_parameters=rope, head_dim=64, max_position_embeddings=131072)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    factors = llama3_factors(config.to_dict())
    assert factors is not None
    plain = 500_000.0 ** -(np.arange(0, 64, 2) / 64)
    assert plain / factors == pytest.approx(scaled.numpy(), rel=1e-5)
    assert factors[0] == 1
    assert factors[-1] == 32
    assert llama3_factors({**config.to_dict(), "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}) is None


def split_into(regex: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    spelling = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [split, spelling]}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return make_tiny("llama", tmp_path / "tiny")


def write_tokenizer(folder: Path, pre_tokenizer: dict[str, Any], **model: Any) -> Path:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    tokenizer["pre_tokenizer"] = pre_tokenizer
    tokenizer["model"]["vocab"]["Ġa"] = 260
    tokenizer["model"] |= {"merges": [["Ġ", "a"]], **model}
    path.write_text(json.dumps(tokenizer), "utf-8")
    return folder


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}


@pytest.mark.parametrize(
    ("pre_tokenizer", "model", "name"),
    [
        (BYTES, {}, "gpt-2"),
        ({"type": "Sequence", "pretokenizers": [DIGITS, BYTES]}, {}, "smollm"),
        (split_into(ENGLISH + r"\p{N}{1,3}" + REST), {"ignore_merges": True}, "llama-bpe"),
        (split_into(ENGLISH + r"\p{N}" + REST), {}, "qwen2"),
    ],
)
def test_the_way_words_are_split_has_a_name(
    tiny: Path, pre_tokenizer: dict[str, Any], model: dict[str, Any], name: str
) -> None:
    words = read_words(write_tokenizer(tiny, pre_tokenizer, **model))
    assert words.split == name
    assert words.merges == ["Ġ a"]
    assert len(words.tokens) == 260
    assert set(words.special) == {0, 1, 2, 3}
    assert (words.stop, words.begins) == (2, None)


@pytest.mark.parametrize(
    ("pre_tokenizer", "model", "said"),
    [
        (split_into(r"\w+"), {}, "splits words in a way not known"),
        (split_into(ENGLISH + r"\p{N}{1,3}" + REST), {}, "splits words in a way not known"),  # llama.cpp skips merges
        (BYTES, {"byte_fallback": True}, "not byte-level BPE"),
        (BYTES, {"merges": []}, "not byte-level BPE"),
    ],
)
def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(
    tiny: Path, pre_tokenizer: dict[str, Any], model: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        read_words(write_tokenizer(tiny, pre_tokenizer, **model))


@pytest.mark.parametrize(
    ("family", "said"),
    [("gemma2", "cannot be written as GGUF"), ("mistral", "without its attention window of 8")],
)
def test_a_family_that_llama_cpp_would_read_otherwise_is_refused(family: str, said: str, tmp_path: Path) -> None:
    folder = write_tokenizer(make_tiny(family, tmp_path / family), BYTES)
    with pytest.raises(ModelError, match=said):
        check_model(folder)
