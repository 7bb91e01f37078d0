"""A decoder's graph with a head of labels, or a pooled embedding, at its end, and nothing of generation left.

What comes out takes input_ids and attention_mask [B, L] (right-padded) and gives `logits` or `embedding`: names and
shapes that other tools of ONNX Runtime expect of a classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from oleaster.data.papers import Head

HIDDEN = "hidden_states"
"""Output of the builder's graph without language head, [B, L, C]."""
CACHE = ("past_key_values.", "present.")
LOGITS, EMBEDDING = "logits", "embedding"


def put_head_on(source: Path, output: Path, head: Head, weight: np.ndarray | None, bias: np.ndarray | None) -> None:
    """Write the graph `source` as `output` with `head` behind its hidden states.

    Args:
        source: model.onnx whose output is `hidden_states`, any precision.
        weight: [labels, C] float32; None for an embedding.
        bias: [labels] float32, where the head has one.
    """
    model = ir.load(source)
    graph = model.graph
    _forget_cache(graph)
    hidden = next(value for value in graph.outputs if value.name == HIDDEN)
    nodes = _Nodes(graph)
    mask = next(value for value in graph.inputs if value.name == "attention_mask")
    if head.kind == "embedding":
        result = _pooled(nodes, hidden, mask, head)
    else:
        states = _last_states(nodes, hidden, mask) if head.kind == "sequence" else hidden
        assert weight is not None
        result = nodes("MatMul", [states, nodes.stored("head.weight", np.ascontiguousarray(weight.T))])
        if bias is not None:
            result = nodes("Add", [result, nodes.stored("head.bias", bias)])
    result.name = EMBEDDING if head.kind == "embedding" else LOGITS
    result.dtype = ir.DataType.FLOAT
    result.shape = _shape(head, weight, hidden)
    graph.outputs[:] = [result]
    ir.save(model, output, external_data=f"{output.name}.data", size_threshold_bytes=1024)


class _Nodes:
    """Appends nodes to a graph."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph, self.count = graph, 0

    def __call__(self, op: str, inputs: Sequence[ir.Value], **attributes: Any) -> ir.Value:
        self.count += 1
        attrs = [ir.convenience.convert_attribute(name, value) for name, value in attributes.items()]
        node = ir.Node("", op, inputs, attrs, name=f"/head/{op}_{self.count}", num_outputs=1)
        self.graph.append(node)
        node.outputs[0].name = f"/head/{op}_{self.count}/output_0"
        return node.outputs[0]

    def stored(self, name: str, array: np.ndarray) -> ir.Value:
        kind = ir.TensorType(ir.DataType.from_numpy(array.dtype))
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name), shape=ir.Shape(array.shape), type=kind)
        self.graph.register_initializer(value)
        return value


def _forget_cache(graph: ir.Graph) -> None:
    """Take keys and values of earlier calls off the inputs and outputs, and make the positions of the text itself."""
    for value in list(graph.inputs):
        if (value.name or "").startswith(CACHE):
            for use in list(value.uses()):
                use.node.replace_input_with(use.idx, None)
            graph.inputs.remove(value)
    graph.outputs[:] = [value for value in graph.outputs if value.name == HIDDEN]
    places = next((value for value in graph.inputs if value.name == "position_ids"), None)
    if places is not None:
        ids = next(value for value in graph.inputs if value.name == "input_ids")
        graph.inputs.remove(places)
        ir.convenience.replace_all_uses_with(places, _positions(graph, ids))


def _positions(graph: ir.Graph, ids: ir.Value) -> ir.Value:
    """[B, L]: 0, 1, 2, ... in every row; made before everything else. (Padding stands on the right.)"""
    nodes = _Nodes(graph)
    ones = nodes("Cast", [nodes("Equal", [ids, ids])], to=int(ir.DataType.INT64))
    found = nodes("CumSum", [ones, nodes.stored("head.axis", np.array(1, np.int64))], exclusive=1)
    made = list(graph)[-nodes.count :]
    first = graph[0]
    for node in made:
        graph.remove(node)
        graph.insert_before(first, node)
    return found


def _last_states(nodes: _Nodes, hidden: ir.Value, mask: ir.Value) -> ir.Value:
    """[B, C]: the state of each text's last token."""
    axes = nodes.stored("head.axes", np.array([1], np.int64))
    one = nodes.stored("head.last", np.array(1, np.int64))
    last = nodes("Sub", [nodes("ReduceSum", [mask, axes], keepdims=1), one])
    return nodes("GatherND", [hidden, last], batch_dims=1)


def _pooled(nodes: _Nodes, hidden: ir.Value, mask: ir.Value, head: Head) -> ir.Value:
    """[B, C]: the mean over each text's tokens, or its last state; of length 1 where the head says so."""
    if head.pooling == "last":
        vector = _last_states(nodes, hidden, mask)
    else:
        axes = nodes.stored("head.axes", np.array([1], np.int64))
        numbers, last = nodes("Cast", [mask], to=int(ir.DataType.FLOAT)), np.array([2], np.int64)
        inside = nodes("Unsqueeze", [numbers, nodes.stored("head.unsqueezed", last)])
        total = nodes("ReduceSum", [nodes("Mul", [hidden, inside]), axes], keepdims=0)
        vector = nodes("Div", [total, nodes("ReduceSum", [inside, axes], keepdims=0)])
    if not head.normalize:
        return vector
    along = nodes.stored("head.along", np.array([1], np.int64))
    length = nodes("ReduceL2", [vector, along], keepdims=1)
    return nodes("Div", [vector, nodes("Max", [length, nodes.stored("head.least", np.array(1e-12, np.float32))])])


def _shape(head: Head, weight: np.ndarray | None, hidden: ir.Value) -> ir.Shape:
    assert hidden.shape is not None
    batch, length, width = hidden.shape
    if head.kind == "embedding":
        return ir.Shape([batch, width])
    assert weight is not None
    return ir.Shape([batch, len(weight)] if head.kind == "sequence" else [batch, length, len(weight)])
