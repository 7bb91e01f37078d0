"""A folder for ONNX Runtime GenAI: graph, weights, genai_config.json, tokenizer, prompt contract."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from oleaster.config.schema import ExportConfig
from oleaster.core.files import link_or_copy
from oleaster.exporting.calibrate import calibrate_graph
from oleaster.exporting.footprint import loaded_mb
from oleaster.exporting.genai_files import finish_folder
from oleaster.exporting.graph import build_graph, check_family
from oleaster.exporting.ladder import Rung
from oleaster.exporting.layouts.layout import Material
from oleaster.exporting.lessons import Lesson
from oleaster.exporting.quantize import int8_plan, quantise_graph
from oleaster.exporting.rungs import Questions, genai_rung, graph_rung, quantised_rung


class Genai:
    """See `Layout`."""

    kind = "onnx-genai"
    precisions = ("int4", "int8", "fp32")

    def check(self, model_folder: Path) -> None:
        """Refuse a family whose graph would be wrong."""
        config = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
        check_family(config, where=str(model_folder / "config.json"))

    def prepare(self, material: Material) -> Rung:
        """The float32 graph."""
        graph = material.work / "graph"
        build_graph(material.merged, graph)
        finish_folder(material.merged, graph, material.prompts)
        return graph_rung(graph, material.stops)

    def make(self, material: Material, precision: str, folder: Path) -> None:
        """Quantise the graph."""
        graph = material.work / "graph"
        folder.mkdir()
        for path in graph.iterdir():
            if not is_graph(path):
                shutil.copyfile(path, folder / path.name)
            elif precision == "fp32":
                link_or_copy(path, folder / path.name)
        if precision != "fp32":
            quantise(material.merged, graph, folder, precision, [Lesson(material.calibration)], material.options)

    def weights(self, folder: Path) -> list[Path]:
        """model.onnx and its data."""
        return [path for path in folder.iterdir() if is_graph(path)]

    def memory_mb(self, folder: Path) -> float:
        """Measured in a process of its own."""
        return loaded_mb(folder)

    def quantised_rung(self, folder: Path, precision: str, stops: Sequence[int], adapter: str | None = None) -> Rung:
        """The graph."""
        return quantised_rung(folder, stops, precision, adapter)

    def runtime_rung(self, folder: Path, questions: Questions, adapter: str | None = None) -> Rung:
        """Loaded by GenAI."""
        return genai_rung(folder, questions, adapter)


def is_graph(path: Path) -> bool:
    """model.onnx or its data."""
    return path.name.startswith("model.onnx")


def quantise(
    model: Path, graph: Path, folder: Path, precision: str, lessons: Sequence[Lesson], options: ExportConfig
) -> None:
    """Write the graph of the folder `graph` (float32, made from `model`) into `folder` as int8 or calibrated int4."""
    source = graph / "model.onnx"
    if precision == "int8":
        quantise_graph(source, folder / "model.onnx", int8_plan(source))
    else:
        plan, ready = calibrate_graph(model, source, lessons, options.target_mb)
        quantise_graph(source, folder / "model.onnx", plan, ready)
