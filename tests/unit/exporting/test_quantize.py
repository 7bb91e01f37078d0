"""Packing is lossless, rounding stays within half a step, the graph computes with what was packed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oleaster.exporting.gptq import gptq
from oleaster.exporting.quantize import INT8, Format, Quantised, block_grid, round_to_nearest

FORMATS = [Format(bits, block, asymmetric) for bits in (4, 8) for block in (16, 32) for asymmetric in (False, True)]


def unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    flat = packed.reshape(packed.shape[0], -1)
    if bits == 8:
        return flat
    return np.stack([flat & 15, flat >> 4], axis=-1).reshape(flat.shape[0], -1)


weights = st.builds(
    lambda seed, rows, blocks, scale: (np.random.default_rng(seed).normal(size=(rows, blocks * 32)) * scale).astype(
        np.float32
    ),
    st.integers(0, 1000),
    st.integers(1, 5),
    st.integers(1, 3),
    st.sampled_from([1e-4, 0.02, 1.0, 300.0]),
)


@given(weights, st.sampled_from(FORMATS))
def test_rounding_is_within_half_a_step(weight: np.ndarray, form: Format) -> None:
    quantised = round_to_nearest(weight, form)
    step = np.repeat(quantised.scales.astype(np.float32), form.block, axis=1)
    # A zero point is rounded too, so the ends of an asymmetric grid may lie half a step inside the range.
    allowed = (1.001 if form.asymmetric else 0.501) * step
    assert (np.abs(quantised.dense() - weight) <= allowed).all()


@given(weights, st.sampled_from(FORMATS))
def test_packing_keeps_every_code(weight: np.ndarray, form: Format) -> None:
    quantised = round_to_nearest(weight, form)
    packed = quantised.packed()
    assert packed.shape == (*quantised.scales.shape, form.block * form.bits // 8)
    assert np.array_equal(unpack(packed, form.bits), quantised.codes)
    zeros = quantised.packed_zeros()
    if zeros is None:
        assert quantised.zeros is None
    else:
        assert quantised.zeros is not None
        columns = quantised.zeros.shape[1]
        assert zeros.shape[1] == -(-columns * form.bits // 8)
        assert np.array_equal(unpack(zeros, form.bits)[:, :columns], quantised.zeros)


def test_an_empty_block_stays_zero() -> None:
    weight = np.zeros((2, 64), np.float32)
    for form in FORMATS:
        assert not round_to_nearest(weight, form).dense().any()


def test_scales_are_never_rounded_down() -> None:
    weight = np.full((1, 32), 1.0, np.float32)
    scales, _ = block_grid(weight, Format(8))
    assert scales[0, 0].astype(np.float64) * 127 >= 1.0


def test_blocks_fit_the_columns() -> None:
    assert INT8.fitting(576) == INT8 == Format(8, 64)
    assert INT8.fitting(96) == Format(8, 32)
    assert Format(4, 32, asymmetric=True).fitting(96) == Format(4, 32, asymmetric=True)


def test_bits_per_weight_counts_scales_and_zeros() -> None:
    assert Format(8, 32).bits_per_weight == 8.5
    assert Format(4, 32, asymmetric=True).bits_per_weight == 4.625


def output_error(weight: np.ndarray, inputs: np.ndarray, quantised: Quantised) -> float:
    return float(np.square(inputs @ (weight - quantised.dense()).T).sum())


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_gptq_beats_rounding_on_the_inputs_it_saw(seed: int) -> None:
    torch = pytest.importorskip("torch")
    noise = np.random.default_rng(seed)
    weight = noise.normal(size=(24, 64)).astype(np.float32)
    # Inputs that live in few directions, as a task's do.
    inputs = (noise.normal(size=(200, 12)) @ noise.normal(size=(12, 64))).astype(np.float32)
    form = Format(4, 32, asymmetric=True)
    hessian = torch.from_numpy(inputs.T @ inputs)
    mended = output_error(weight, inputs, gptq([torch.from_numpy(weight)], [hessian], form)[0])
    assert mended < 0.7 * output_error(weight, inputs, round_to_nearest(weight, form))


def test_gptq_survives_inputs_that_are_always_zero() -> None:
    torch = pytest.importorskip("torch")
    weight = torch.randn(8, 64)
    hessian = torch.zeros(64, 64)
    hessian[0, 0] = 3.0
    (quantised,) = gptq([weight], [hessian], Format(4, 32, asymmetric=True))
    assert np.isfinite(quantised.dense()).all()


def test_gptq_of_several_weights_is_that_of_each() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    form = Format(4, 32, asymmetric=True)
    weights = [torch.randn(8, 96) for _ in range(3)]
    inputs = [torch.randn(200, 96) for _ in range(3)]
    hessians = [x.T @ x for x in inputs]
    together = gptq(weights, hessians, form)
    for weight, hessian, quantised in zip(weights, hessians, together, strict=True):
        (alone,) = gptq([weight], [hessian], form)
        assert np.array_equal(alone.scales, quantised.scales)
        assert (alone.codes == quantised.codes).mean() > 0.99  # rounding may tip a code


@pytest.mark.parametrize("form", [INT8, Format(4, 32), Format(4, 32, asymmetric=True)], ids=str)
@pytest.mark.parametrize("family", ["llama", "mistral"])  # tied and untied
def test_the_runtime_computes_with_the_packed_weights(family: str, form: Format, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_genai")
    import onnx_ir as ir

    from oleaster.exporting.genai_files import finish_folder
    from oleaster.exporting.graph import build_graph
    from oleaster.exporting.quantize import linear_names, quantise_graph, stored_weight, weight_shapes
    from oleaster.inference.onnx_predictor import OnnxPredictor
    from oleaster.models.tiny import make_tiny

    base = make_tiny(family, tmp_path / "base")
    graph, packed, dense = tmp_path / "fp32", tmp_path / "packed", tmp_path / "dense"
    build_graph(base, graph)
    for folder in (packed, dense):
        folder.mkdir()
        (folder / "genai_config.json").write_bytes((graph / "genai_config.json").read_bytes())
        finish_folder(base, folder, [])
    shapes = weight_shapes(graph / "model.onnx")
    plan = {name: form.fitting(columns) for name, (_, columns) in shapes.items()}  # down_proj has 96
    quantise_graph(graph / "model.onnx", packed / "model.onnx", plan)
    # The reference: the float32 graph with the same rounded weights.
    model = ir.load(graph / "model.onnx")
    for name, node in linear_names(model.graph).items():
        rounded = round_to_nearest(stored_weight(node), plan[name]).dense()
        node.inputs[1].const_value = ir.tensor(np.ascontiguousarray(rounded.T))  # pyright: ignore[reportOptionalMemberAccess]
    for node in model.graph:
        if node.op_type == "Gather" and "embed_tokens.weight" in (node.inputs[0].name or ""):  # pyright: ignore[reportOptionalMemberAccess]
            table = node.inputs[0]
            rounded = round_to_nearest(table.const_value.numpy(), Format(8, form.block)).dense()  # pyright: ignore[reportOptionalMemberAccess]
            table.const_value = ir.tensor(rounded)  # pyright: ignore[reportOptionalMemberAccess]
    ir.save(model, dense / "model.onnx", external_data="model.onnx.data")
    ids, targets = tuple(range(10, 50)), tuple(range(1, 40))
    found = next(OnnxPredictor(packed).target_logits([(ids, targets)]))
    wanted = next(OnnxPredictor(dense).target_logits([(ids, targets)]))
    # What is left is the rounding of the activations to int8 inside the matmul.
    assert np.abs(found - wanted).mean() < 0.05 * np.abs(wanted).mean()
    assert (packed / "model.onnx.data").stat().st_size < (graph / "model.onnx.data").stat().st_size * 0.6
