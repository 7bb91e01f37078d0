"""Merged Hugging Face folder -> float32 ONNX graph with onnxruntime-genai's own model builder, in process."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from oleaster.core.errors import MissingExtraError, ModelError, OleasterError, near_names
from oleaster.inference.onnx_predictor import LOGITS_AT

FAMILIES = {
    "LlamaForCausalLM": "checked",
    "MistralForCausalLM": "checked",
    "Qwen2ForCausalLM": "checked",
    "Qwen3ForCausalLM": "checked",
    "Phi3ForCausalLM": "checked",
    "PhiForCausalLM": "checked",
    "GemmaForCausalLM": "checked",
    "Gemma2ForCausalLM": "checked",
    "Gemma3ForCausalLM": "checked",
    "SmolLM3ForCausalLM": "checked",
    "GraniteForCausalLM": "checked",
    "OlmoForCausalLM": "the builder's graph is wrong: logits differ by about 1 from PyTorch",
    "Olmo2ForCausalLM": "the builder has no such family",
    "Qwen3MoeForCausalLM": "the builder has no such family",
    "GPT2LMHeadModel": "the builder has no such family",
}
"""Architecture -> `checked` (equal to PyTorch on tiny models), or why it is refused."""


class GraphError(OleasterError):
    """The builder failed on a family that it should know: its version and the model's do not fit together."""


def build_graph(folder: Path, output: Path, language_head: bool = True) -> None:
    """Write `model.onnx`, `model.onnx.data`, a first `genai_config.json` and the tokenizer files into `output`.

    Inputs of the graph: input_ids [B, L], attention_mask [B, P + L], past_key_values.N.key|value [B, heads, P, head
    size]; outputs: logits [B, kept, V], present.N.key|value. What is kept are the positions in the optional input
    `logits_at`, else the last one: a prompt's others then cost neither the head's product nor room for their logits.

    Args:
        language_head: without, the graph ends with hidden_states [B, L, C] in the place of logits.

    Raises: ModelError for a family whose graph would be wrong or is not there; MissingExtraError.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architecture = check_family(config, where=str(folder / "config.json"))
    # The package reports home by default.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    printed = io.StringIO()
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
        tempfile.TemporaryDirectory() as cache,
    ):
        builder = _builder()
        arguments = (None, str(folder), str(output), "fp32", "cpu", cache)
        try:
            options = builder.parse_extra_options(*arguments, [] if language_head else ["exclude_lm_head=true"])
            # A cache cut to the attention window fails on longer prompts and cannot be scored by a plain session; the
            # window itself is in the graph all the same.
            options["windowed_kv_cache"] = False
            _repair_config(options["hf_details"]["hf_config"])
            builder.create_model(*arguments, **options)
        except (KeyError, AttributeError, NotImplementedError, ValueError, RuntimeError) as error:
            tail = "\n".join(printed.getvalue().splitlines()[-5:])
            raise GraphError(f"onnxruntime-genai's builder failed on {architecture}: {error!r}\n{tail}") from error
    if language_head:
        _choose_positions(output / "model.onnx")
    gc.collect()  # the builder's objects hold each other, and with them the model's weights


def _choose_positions(path: Path) -> None:
    """Put the optional input `logits_at` in front of the head. Only the graph's small file is written anew."""
    import onnx_ir as ir

    model = ir.load(path)
    graph = model.graph
    head = next(node for node in graph if node.name == "/lm_head/MatMul")
    hidden, logits = head.inputs[0], next(value for value in graph.outputs if value.name == "logits")
    assert hidden is not None
    assert hidden.shape is not None
    assert logits.shape is not None
    last = ir.tensor(np.array([-1]), name=LOGITS_AT)
    wanted = ir.Value(name=LOGITS_AT, shape=ir.Shape(["kept"]), type=ir.TensorType(ir.DataType.INT64), const_value=last)
    graph.inputs.append(wanted)
    graph.register_initializer(wanted)
    kept = ir.node("Gather", [hidden, wanted], {"axis": 1}, name="/lm_head/Gather")
    value = kept.outputs[0]
    value.name, value.type = f"{kept.name}/output_0", hidden.type
    # GenAI makes room for one position only where the shape says 1.
    value.shape, logits.shape = (ir.Shape([each[0], 1, each[2]]) for each in (hidden.shape, logits.shape))
    head.replace_input_with(0, value)
    graph.insert_before(head, kept)
    ir.save(model, path)


def check_family(config: dict[str, Any], where: str) -> str:
    """The architecture's name when its graph was checked. Raises: ModelError with the reason otherwise."""
    architecture = (config.get("architectures") or ["(none)"])[0]
    verdict = FAMILIES.get(architecture)
    if verdict == "checked":
        return architecture
    good = [name for name, said in FAMILIES.items() if said == "checked"]
    raise ModelError(
        f"{architecture} cannot be exported to ONNX: {verdict or 'it was never checked'}",
        where=where,
        remedy=near_names(architecture, good),
    )


def _builder() -> Any:
    try:
        import onnxruntime_genai.models  # noqa: F401  (puts its folder on sys.path)
    except ImportError as error:
        raise MissingExtraError(
            "the ONNX graph builder is not installed", remedy="pip install 'oleaster[auto-opt]'"
        ) from error
    import builder  # pyright: ignore[reportMissingImports]

    return builder


def _repair_config(config: Any) -> None:
    """Give the builder rope and window settings under the names it looks for.

    transformers 5 holds one `rope_parameters` entry per attention kind for Gemma 3, and the key `rope_type` where
    the builder looks for `type` (Phi-3 longrope). Families without `layer_types` use their window in every layer; the
    builder would use it in none.
    """
    if getattr(config, "sliding_window", None) and not getattr(config, "layer_types", None):
        config.layer_types = ["sliding_attention"] * config.num_hidden_layers
    rope = getattr(config, "rope_parameters", None) or {}
    if "full_attention" in rope:
        config.rope_theta = rope["full_attention"]["rope_theta"]
        config.rope_local_base_freq = rope["sliding_attention"]["rope_theta"]
        config.rope_parameters = rope["full_attention"]
    elif rope.get("rope_type") == "longrope":
        config.rope_parameters = {**rope, "type": "longrope"}
    elif hasattr(config, "original_max_position_embeddings"):
        # The builder takes two different lengths for a sign of longrope.
        config.original_max_position_embeddings = config.max_position_embeddings
