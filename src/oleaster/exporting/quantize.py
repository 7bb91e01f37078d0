"""Block-wise integer weights for an ONNX graph: our own packing, with onnx-ir and numpy.

A weight of shape [N, K] (rows are outputs) becomes codes of `bits` bits in blocks of `block` along K. A block has one
scale, and one zero point when the format is asymmetric: w = scale * (code - zero). Scales are stored as float16 with a
`Cast` that ONNX Runtime folds when it loads the model, so a 4-bit weight in blocks of 32 costs 4.5 bits on disk, not 5.
Layout of `MatMulNBits`: B [N, K / block, block * bits / 8], scales [N, K / block], both rows first, low nibble first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from oleaster.core.machine import usable_cores

ACCURACY_LEVEL = 4
"""Activations are rounded to int8 per block inside the matmul: what makes decoding fast on a CPU."""

AT_ONCE = 4
"""Weights that are rounded at the same time, on a core each; every one takes twice its float32 size meanwhile."""

HEAD = "lm_head"
"""Name of the plan's entry for the output head, and for the embedding that shares its table."""


@dataclass(frozen=True)
class Format:
    """How one weight is stored."""

    bits: int
    """4 or 8."""
    block: int = 32
    """Weights along K that share a scale; a power of two, at least 16."""
    asymmetric: bool = False
    """A zero point per block, instead of the middle code."""

    @property
    def bits_per_weight(self) -> float:
        """Codes, float16 scales and zero points."""
        return self.bits + (16 + (self.bits if self.asymmetric else 0)) / self.block

    @property
    def top(self) -> int:
        """Largest code."""
        return 2**self.bits - 1

    def fitting(self, columns: int) -> Format:
        """The same for a weight of so many columns: in blocks of 32 where its own do not divide them."""
        return self if columns % self.block == 0 else replace(self, block=32)


INT8 = Format(8, 64)
"""A fifth more products a second than in blocks of 32, as each scale costs time."""


@dataclass(frozen=True)
class Quantised:
    """One weight as integers."""

    format: Format
    codes: np.ndarray
    """uint8 [N, K], one code per byte."""
    scales: np.ndarray
    """float16 [N, K / block]."""
    zeros: np.ndarray | None
    """uint8 [N, K / block], one per byte; None = the middle code."""

    def dense(self) -> np.ndarray:
        """float32 [N, K]: what the runtime computes with."""
        rows, columns = self.codes.shape
        blocks = self.codes.reshape(rows, -1, self.format.block).astype(np.float32)
        zeros = 2 ** (self.format.bits - 1) if self.zeros is None else self.zeros[..., None].astype(np.float32)
        return ((blocks - zeros) * self.scales[..., None].astype(np.float32)).reshape(rows, columns)

    def packed(self) -> np.ndarray:
        """uint8 [N, K / block, block * bits / 8]."""
        rows = self.codes.shape[0]
        return _pack(self.codes, self.format.bits).reshape(rows, self.scales.shape[1], -1)

    def packed_zeros(self) -> np.ndarray | None:
        """uint8 [N, ceil(K / block * bits / 8)], odd rows filled up with the middle code."""
        if self.zeros is None:
            return None
        odd = self.format.bits == 4 and self.zeros.shape[1] % 2
        zeros = np.pad(self.zeros, ((0, 0), (0, 1)), constant_values=8) if odd else self.zeros
        return _pack(zeros, self.format.bits)


def block_grid(weight: np.ndarray, form: Format) -> tuple[np.ndarray, np.ndarray | None]:
    """(scales float16, zeros uint8 or None), both [N, K / block], that cover every weight of each block.

    `weight` is [N, K] with K a multiple of the block. Scales are rounded up: no weight falls off the grid's end.
    """
    blocks = weight.reshape(weight.shape[0], -1, form.block)
    if form.asymmetric:
        low, high = np.minimum(blocks.min(-1), 0.0), np.maximum(blocks.max(-1), 0.0)
        scales = _float16_up((high - low) / form.top)
        zeros = np.clip(np.rint(-low / scales.astype(np.float32)), 0, form.top).astype(np.uint8)
        return scales, zeros
    return _float16_up(np.abs(blocks).max(-1) / (2 ** (form.bits - 1) - 1)), None


def round_to_nearest(weight: np.ndarray, form: Format) -> Quantised:
    """Quantise `weight` [N, K] (float32) with every weight rounded for itself."""
    scales, zeros = block_grid(weight, form)
    blocks = weight.reshape(*scales.shape, form.block)
    middle = 2 ** (form.bits - 1) if zeros is None else zeros[..., None].astype(np.float32)
    steps = blocks / scales[..., None].astype(np.float32)
    np.rint(steps, out=steps)
    steps += middle
    codes = np.clip(steps, 0, form.top, out=steps).astype(np.uint8)
    return Quantised(form, codes.reshape(weight.shape), scales, zeros)


def linear_names(graph: ir.Graph) -> dict[str, ir.Node]:
    """Plan name -> MatMul node, for every matmul with a stored weight: `layers.0.attn.qkv_proj`, ..., `lm_head`."""
    return {
        plan_name(node): node
        for node in graph
        if node.op_type == "MatMul" and node.inputs[1] is not None and node.inputs[1].const_value is not None
    }


def plan_name(node: ir.Node) -> str:
    """`/model/layers.0/attn/qkv_proj/MatMul` -> `layers.0.attn.qkv_proj`."""
    return (node.name or "").removeprefix("/").removeprefix("model/").removesuffix("/MatMul").replace("/", ".")


def stored_weight(node: ir.Node) -> np.ndarray:
    """The weight of a matmul node as float32 [N, K]."""
    value = node.inputs[1]
    assert value is not None
    assert value.const_value is not None
    return np.ascontiguousarray(value.const_value.numpy().T, dtype=np.float32)


def quantise_graph(
    source: Path, output: Path, plan: Mapping[str, Format], ready: Mapping[str, Quantised] | None = None
) -> None:
    """Write the graph `source` (model.onnx, float32) as `output` with the matmuls named in `plan` quantised.

    Args:
        plan: format by plan name (see `linear_names`); matmuls without an entry stay float32. The embedding takes the
            format of `lm_head`, and its very table when the model ties them.
        ready: weights that calibration has already quantised; the others are rounded to nearest.
    """
    ready = ready or {}
    model = ir.load(source)
    nodes = {name: node for name, node in linear_names(model.graph).items() if _fits(node, plan.get(name))}

    def rounded(name: str) -> Quantised:
        return ready.get(name) or round_to_nearest(stored_weight(nodes[name]), plan[name])

    with ThreadPoolExecutor(min(AT_ONCE, usable_cores())) as pool:
        weights = dict(zip(nodes, pool.map(rounded, nodes), strict=True))
    for name, node in nodes.items():
        quantised = weights.pop(name)
        values = _enter(model.graph, node.inputs[1].name, quantised)  # pyright: ignore[reportOptionalMemberAccess]
        if name == HEAD:
            _share_with_embedding(model.graph, node.inputs[1], quantised, values)
        _replace_matmul(model.graph, node, quantised, values)
    if HEAD in plan:
        _quantise_own_embedding(model.graph, plan[HEAD])
    _drop_unused(model.graph)
    ir.save(model, output, external_data=f"{output.name}.data", size_threshold_bytes=1024)


def _fits(node: ir.Node, form: Format | None) -> bool:
    return form is not None and stored_shape(node)[1] % form.block == 0


def weight_shapes(source: Path) -> dict[str, tuple[int, int]]:
    """(N, K) of every weight that can be quantised, by plan name."""
    return {name: stored_shape(node) for name, node in linear_names(ir.load(source).graph).items()}


def int8_plan(source: Path) -> dict[str, Format]:
    """8 bits for every weight that can be quantised."""
    return {name: INT8.fitting(columns) for name, (_, columns) in weight_shapes(source).items()}


def linear_weights(source: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(plan name, float32 [N, K]) of every weight that can be quantised."""
    for name, node in linear_names(ir.load(source).graph).items():
        yield name, stored_weight(node)


def stored_shape(node: ir.Node) -> tuple[int, int]:
    """(N, K) of a matmul node's weight."""
    columns, rows = node.inputs[1].const_value.shape.numpy()  # pyright: ignore[reportOptionalMemberAccess]
    return rows, columns


@dataclass(frozen=True)
class _Values:
    """Graph values of one quantised weight."""

    packed: ir.Value
    scales: ir.Value
    zeros: ir.Value | None


def _enter(graph: ir.Graph, name: str | None, quantised: Quantised) -> _Values:
    """Put a quantised weight into the graph: initialisers, and the Cast of the scales in front of everything."""
    tag = f"{name}_Q{quantised.format.bits}"
    packed = _initialiser(graph, tag, quantised.packed())
    halves = _initialiser(graph, f"{tag}_scales_f16", quantised.scales)
    attributes = {"to": ir.AttrInt64("to", ir.DataType.FLOAT)}
    cast = ir.Node("", "Cast", [halves], attributes.values(), name=f"/{tag}/Cast", num_outputs=1)
    cast.outputs[0].name = f"{tag}_scales"
    cast.outputs[0].dtype = ir.DataType.FLOAT
    cast.outputs[0].shape = ir.Shape(quantised.scales.shape)
    graph.insert_before(graph[0], cast)
    zeros = quantised.packed_zeros()
    return _Values(packed, cast.outputs[0], None if zeros is None else _initialiser(graph, f"{tag}_zeros", zeros))


def _replace_matmul(graph: ir.Graph, node: ir.Node, quantised: Quantised, values: _Values) -> None:
    form, (rows, columns) = quantised.format, quantised.codes.shape
    attributes = {
        "K": columns,
        "N": rows,
        "bits": form.bits,
        "block_size": form.block,
        "accuracy_level": ACCURACY_LEVEL,
    }
    inputs = [node.inputs[0], values.packed, values.scales] + ([values.zeros] if values.zeros is not None else [])
    _replace(graph, node, "MatMulNBits", inputs, attributes, f"{node.name}_Q{form.bits}")


def _share_with_embedding(graph: ir.Graph, head: ir.Value | None, quantised: Quantised, values: _Values) -> None:
    """Where the embedding gathers from the transposed head weight: gather from the quantised table instead."""
    assert head is not None
    for transpose in [use.node for use in head.uses() if use.node.op_type == "Transpose"]:
        for gather in [use.node for use in transpose.outputs[0].uses() if use.node.op_type == "Gather"]:
            _gather_quantised(graph, gather, quantised, values)
        graph.remove(transpose, safe=True)


def _quantise_own_embedding(graph: ir.Graph, form: Format) -> None:
    """An embedding with a table of its own: int8, since one row of it is all that a token brings in."""
    for gather in [node for node in graph if node.op_type == "Gather"]:
        table = gather.inputs[0]
        if table is None or table.const_value is None or len(table.const_value.shape) != 2:
            continue
        weight = table.const_value.numpy().astype(np.float32)
        fitting = Format(8, form.block).fitting(weight.shape[1])
        if weight.shape[1] % fitting.block == 0:
            quantised = round_to_nearest(weight, fitting)
            _gather_quantised(graph, gather, quantised, _enter(graph, table.name, quantised))


def _gather_quantised(graph: ir.Graph, gather: ir.Node, quantised: Quantised, values: _Values) -> None:
    form, (rows, columns) = quantised.format, quantised.codes.shape
    shape = _initialiser(graph, f"{values.packed.name}_shape", np.array([rows, columns * form.bits // 8], np.int64))
    reshape = ir.Node("", "Reshape", [values.packed, shape], name=f"{gather.name}/Reshape", num_outputs=1)
    reshape.outputs[0].name = f"{values.packed.name}_table"
    graph.insert_before(gather, reshape)
    attributes = {"bits": form.bits, "block_size": form.block, "gather_axis": 0, "quantize_axis": 1}
    inputs = [reshape.outputs[0], gather.inputs[1], values.scales] + (
        [values.zeros] if values.zeros is not None else []
    )
    _replace(graph, gather, "GatherBlockQuantized", inputs, attributes, f"{gather.name}BlockQuantized")


def _replace(
    graph: ir.Graph, old: ir.Node, op: str, inputs: list[ir.Value | None], attributes: dict[str, int], name: str
) -> None:
    """Put a com.microsoft node where `old` stands; its output keeps the old one's name."""
    output = old.outputs[0]
    attrs = [ir.AttrInt64(key, value) for key, value in attributes.items()]
    new = ir.Node("com.microsoft", op, inputs, attrs, name=name, num_outputs=1)
    graph.insert_before(old, new)
    new.outputs[0].type, new.outputs[0].shape = output.type, output.shape
    output_name = output.name
    ir.convenience.replace_all_uses_with(output, new.outputs[0], replace_graph_outputs=True)
    graph.remove(old, safe=True)
    new.outputs[0].name = output_name


def _drop_unused(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def _initialiser(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    value = ir.Value(
        name=name,
        const_value=ir.tensor(array, name=name),
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
    )
    graph.register_initializer(value)
    return value


def _float16_up(scales: np.ndarray) -> np.ndarray:
    """float16 not below `scales`; an empty block (scale 0) gets 1."""
    halves = scales.astype(np.float16)
    halves = np.where(halves.astype(np.float32) < scales, np.nextafter(halves, np.float16(np.inf)), halves)
    return np.where(scales == 0, np.float16(1), halves).astype(np.float16)


def _pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """uint8 [N, K] -> uint8 [N, K * bits / 8], the first code in the low bits."""
    if bits == 8:
        return codes
    return codes[:, 0::2] | (codes[:, 1::2] << 4)
