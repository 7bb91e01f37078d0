"""What the gguf package leaves to us: blocks of calibrated codes, rope scaling, windows, and who is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from oleaster.core.errors import ModelError
from oleaster.exporting.gguf_file import check_model, llama3_factors, pack_codes, write_gguf
from oleaster.exporting.quantize import Format, round_to_nearest
from oleaster.models.tiny import WINDOW, make_tiny

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


@pytest.mark.parametrize(
    ("family", "changed", "said"),
    [
        ("gpt2", {}, "cannot be written as GGUF"),
        ("gemma2", {}, "queries are scaled by 16, not by the head size 32"),
        ("gemma3_text", {}, "each 6th looks at a window"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "'dynamic'"),
    ],
)
def test_a_family_that_llama_cpp_would_read_otherwise_is_refused(
    family: str, changed: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=said):
        check_model(make_tiny(family, tmp_path / family, **changed))


def test_where_llama_cpp_has_no_window_the_context_ends_with_it(tmp_path: Path) -> None:
    tokenizer = make_tiny("mistral", tmp_path / "tiny") / "tokenizer.json"
    words = json.loads(tokenizer.read_text("utf-8"))
    words["pre_tokenizer"]["use_regex"] = True
    words["model"]["vocab"]["Ġa"], words["model"]["merges"] = 260, [["Ġ", "a"]]
    tokenizer.write_text(json.dumps(words), "utf-8")
    write_gguf(tokenizer.parent, tmp_path / "model.gguf", "fp16")
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    assert fields["llama.context_length"].contents() == WINDOW
