"""Many LoRA adapters over one exported base: branches as optional graph inputs, one `.onnx_adapter` file each.

A site is a matmul y = x W of the graph. It becomes y + (x A) B, where A [K, r] and B [r, N] are graph inputs with an
initialiser of zero size (r = 0): ONNX Runtime then need not be given them, and without an adapter the graph computes
the very same bits as before. The rank is free per site and adapter. Where the graph packs q, k and v into one matmul,
the three A's stand side by side and B is block-diagonal.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from oleaster.core.errors import ModelError, collect
from oleaster.exporting.adapter_folder import Delta, LoraAdapter
from oleaster.exporting.quantize import stored_shape

FOLDER = "adapters"
SUFFIX = ".onnx_adapter"
SITE = re.compile(r"/model/(layers\.\d+/(?:attn|mlp)/\w+)/MatMul(?:_Q\d)?")


@dataclass(frozen=True)
class Site:
    """A matmul that can carry a branch."""

    name: str
    """`layers.0.attn.qkv_proj`"""
    inputs: int
    outputs: int
    parts: tuple[str, ...]
    """Torch modules whose rows it stacks, in order: `q_proj`, `k_proj`, `v_proj`; one name where it stacks none."""
    widths: tuple[int, ...]
    """Outputs of each part."""


def find_sites(graph: ir.Graph, heads: tuple[int, int, int]) -> dict[str, tuple[Site, ir.Node]]:
    """Sites of a graph of ours by name, quantised or not.

    Args:
        heads: query heads, key/value heads, head size; they tell how a packed qkv splits.
    """
    sites = {}
    for node in graph:
        match = SITE.fullmatch(node.name or "")
        if node.op_type not in ("MatMul", "MatMulNBits") or match is None:
            continue
        if node.op_type == "MatMulNBits":
            rows, columns = node.attributes["N"].as_int(), node.attributes["K"].as_int()
        else:
            rows, columns = stored_shape(node)
        name = match[1].replace("/", ".")
        last = name.rpartition(".")[2]
        parts, widths = (last,), (rows,)
        if last == "qkv_proj":
            q, kv = heads[0] * heads[2], heads[1] * heads[2]
            parts, widths = ("q_proj", "k_proj", "v_proj"), (q, kv, kv)
        sites[name] = (Site(name, columns, rows, parts, widths), node)
    return sites


def read_sites(folder: Path) -> dict[str, Site]:
    """Sites of an exported folder."""
    graph = ir.load(folder / "model.onnx").graph
    return {name: site for name, (site, _) in find_sites(graph, _heads(folder)).items()}


def place(adapter: LoraAdapter, sites: Mapping[str, Site]) -> dict[str, dict[str, Delta]]:
    """Site name -> part -> update of that part (the part is `` where the adapter trains the whole packed module).

    Raises: ModelError that lists everything a branch cannot carry.
    """
    problems = [
        ModelError(
            f"{name} was trained whole and is no low-rank branch",
            where=str(adapter.folder),
            remedy="merge this adapter: oleaster auto-opt --adapter_path ...",
        )
        for name in adapter.replaced
    ]
    placed: dict[str, dict[str, Delta]] = {}
    for path, delta in _unpacked(adapter.deltas, sites):
        own = path.removeprefix("model.").replace(".self_attn.", ".attn.")
        parent, _, last = own.rpartition(".")
        packed = f"{parent}.qkv_proj"
        if own in sites:
            site, part = sites[own], ""
            expected = site.outputs
        elif packed in sites and last in sites[packed].parts:
            site, part = sites[packed], last
            expected = site.widths[site.parts.index(last)]
        else:
            problems.append(ModelError(f"the graph has no matmul for {path}", where=str(adapter.folder)))
            continue
        if (delta.A.shape[1], delta.B.shape[0]) != (site.inputs, expected):
            found = f"[{delta.B.shape[0]}, {delta.A.shape[1]}]"
            problems.append(
                ModelError(
                    f"the update of {path} is {found}, the base's weight [{expected}, {site.inputs}]",
                    where=str(adapter.folder),
                    remedy="name the base model the adapter was trained for",
                )
            )
        placed.setdefault(site.name, {})[part] = delta
    collect(problems)
    return placed


def _unpacked(deltas: Mapping[str, Delta], sites: Mapping[str, Site]) -> Iterator[tuple[str, Delta]]:
    """Updates by torch path; the packed gate_up_proj of Phi-3 in two halves, as its graph has two matmuls."""
    for path, delta in deltas.items():
        if path.endswith(".gate_up_proj") and path.removeprefix("model.") not in sites:
            for part, rows in zip(("gate_proj", "up_proj"), delta.B.chunk(2), strict=True):
                yield path.replace("gate_up_proj", part), Delta(delta.A, rows, delta.scale)
        else:
            yield path, delta


def site_tensors(site: Site, deltas: Mapping[str, Delta]) -> tuple[np.ndarray, np.ndarray]:
    """(A [K, r], B [r, N]) of a site, float32, scales folded into B."""
    if "" in deltas:
        whole = deltas[""]
        return _array(whole.A.T), _array(whole.scale * whole.B.T)
    starts = dict(zip(site.parts, np.cumsum((0, *site.widths[:-1])).tolist(), strict=True))
    A = torch.cat([deltas[part].A.float() for part in site.parts if part in deltas]).T
    B = torch.zeros(A.shape[1], site.outputs)
    row = 0
    for part in site.parts:
        if part in deltas:
            delta = deltas[part]
            rank, width = delta.A.shape[0], delta.B.shape[0]
            B[row : row + rank, starts[part] : starts[part] + width] = delta.scale * delta.B.float().T
            row += rank
    return _array(A), _array(B)


def write_adapter_file(adapter: LoraAdapter, sites: Mapping[str, Site], path: Path) -> None:
    """Write `path` for the sites of one graph. Raises: ModelError when the adapter cannot be carried."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as ort

    tensors = {}
    for name, deltas in place(adapter, sites).items():
        A, B = site_tensors(sites[name], deltas)
        tensors[f"{name}.lora_A"] = ort.OrtValue.ortvalue_from_numpy(A)
        tensors[f"{name}.lora_B"] = ort.OrtValue.ortvalue_from_numpy(B)
    file = ort.AdapterFormat()
    file.set_adapter_version(1)
    file.set_model_version(1)
    file.set_parameters(tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.export_adapter(str(path))  # pyright: ignore[reportArgumentType]  (the stub wants a PathLike, the binding text)


def add_branches(folder: Path, wanted: Sequence[str]) -> None:
    """Give the named sites of the graph in `folder` (still staged) a branch; sites that have one keep it.

    Only model.onnx is written anew: the weights stay where they are, in model.onnx.data.
    """
    path = folder / "model.onnx"
    model = ir.load(path)
    graph = model.graph
    there = {value.name for value in graph.inputs}
    sites = find_sites(graph, _heads(folder))
    for name in wanted:
        if f"{name}.lora_A" not in there:
            _add_branch(graph, *sites[name])
    ir.save(model, path)


def _add_branch(graph: ir.Graph, site: Site, node: ir.Node) -> None:
    """y -> y + (x A) B behind `node`, in front of whatever used y (a bias too)."""
    A = _optional_input(graph, f"{site.name}.lora_A", (site.inputs, 0), (site.inputs, f"{site.name}.rank"))
    B = _optional_input(graph, f"{site.name}.lora_B", (0, site.outputs), (f"{site.name}.rank", site.outputs))
    y = node.outputs[0]
    base = f"/model/{site.name.replace('.attn.', '/attn/').replace('.mlp.', '/mlp/')}"
    down = ir.node("MatMul", [node.inputs[0], A], name=f"{base}/lora_A/MatMul")
    up = ir.node("MatMul", [down.outputs[0], B], name=f"{base}/lora_B/MatMul")
    users = [(use.node, use.idx) for use in y.uses()]
    total = ir.node("Add", [y, up.outputs[0]], name=f"{base}/lora/Add")
    for added in (down, up, total):
        added.outputs[0].name = f"{added.name}/output_0"
        added.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    total.outputs[0].shape = y.shape
    for user, index in users:
        user.replace_input_with(index, total.outputs[0])
    graph.insert_after(node, [down, up, total])


def _optional_input(graph: ir.Graph, name: str, empty: tuple[int, ...], shape: tuple[int | str, ...]) -> ir.Value:
    """A float graph input that is `empty` (zero size) when it is not given."""
    value = ir.Value(
        name=name,
        shape=ir.Shape(shape),
        type=ir.TensorType(ir.DataType.FLOAT),
        const_value=ir.tensor(np.zeros(empty, np.float32), name=name),
    )
    graph.inputs.append(value)
    graph.register_initializer(value)
    return value


def _heads(folder: Path) -> tuple[int, int, int]:
    decoder = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]["decoder"]
    return decoder["num_attention_heads"], decoder["num_key_value_heads"], decoder["head_size"]


def _array(tensor: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.float().numpy())
