"""Tuned model -> a folder for ONNX Runtime GenAI that was seen to answer like it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from oleaster.config.schema import ExportConfig
from oleaster.core.artifact import Artifact
from oleaster.core.errors import FidelityError
from oleaster.core.files import work_folder
from oleaster.data.papers import Encoded, Example
from oleaster.exporting.calibrate import Row, calibrate
from oleaster.exporting.footprint import loaded_mb
from oleaster.exporting.genai_files import HARD_TEXTS, finish_folder
from oleaster.exporting.graph import build_graph
from oleaster.exporting.ladder import Figures, Ladder, Limits, Rung, require
from oleaster.exporting.merge import merge
from oleaster.exporting.options import check_hardware
from oleaster.exporting.quantize import INT8, quantise_graph, weight_shapes
from oleaster.exporting.rungs import genai_rung, graph_rung, merged_rung, quantised_rung, torch_rung
from oleaster.models.tokenizer import load_tokenizer, stop_ids

SMALLEST_FIRST = ("int4", "int8", "fp32")
CHOSEN = "chosen"
SHARES = ("top1", "exact_match", "natural_stop", "same_ids")


@dataclass(frozen=True)
class Origin:
    """Where a model comes from; kept in the manifest."""

    source: str
    revision: str
    run_id: str | None = None


@dataclass(frozen=True)
class Candidate:
    """One line of the table that a precision was chosen from."""

    precision: str
    size_mb: float
    """Graph and weights, in MB (1,000,000 bytes)."""
    memory_mb: float
    """Of a process that has it loaded; see `footprint`."""
    figures: Figures
    verdict: str
    """`chosen`, or why not."""


Progress = Callable[[str | Figures | Candidate], None]


def export(
    model_folder: Path,
    adapter_folder: Path | None,
    output: Path,
    examples: Sequence[Example] = (),
    encoded: Sequence[Encoded] = (),
    options: ExportConfig = ExportConfig(),
    *,
    calibration: Sequence[Encoded] = (),
    origin: Origin | None = None,
    recipe: str | None = None,
    system_prompt: str | None = None,
    max_new_tokens: int = 64,
    on_progress: Progress = lambda _: None,
) -> Artifact:
    """Merge, build the graph, quantise, and climb the ladder; `output` appears only when every rung held.

    Args:
        model_folder: full-precision model in the hub's layout.
        adapter_folder: PEFT adapter, merged in; None = the model as it is.
        output: the artifact's folder; an artifact already there stays until the new one is complete.
        examples: what the rows of `encoded` point to; their targets are the reference answers.
        encoded: held-out rows; the first `options.verify_rows` climb the ladder. Empty = a few general texts.
        calibration: rows whose activations calibrate 4-bit weights, best those of the training; default: the held-out
            rows that do not climb, or else those that do.
        recipe: YAML that the artifact carries, so that prompts are rendered as in training wherever it is taken.
        system_prompt: what training put in front of chats without a system message.
        on_progress: told of each step, each rung's figures and each candidate.

    Raises: ConfigError, MissingExtraError, ModelError before any work; FidelityError when a rung lost too much.
    """
    check_hardware(options)
    tokenizer = load_tokenizer(model_folder)
    stops = stop_ids(model_folder, tokenizer)
    rows = encoded[: options.verify_rows] or general_rows(tokenizer)
    references = [examples[row.example].target for row in rows] if encoded and examples else None
    ladder = Ladder(rows, references, Limits(options.max_drop, options.max_kl), max_new_tokens)
    calibration = (calibration or encoded[options.verify_rows :] or rows)[: options.calibration_rows]
    began = time.monotonic()
    with Artifact.staged(output) as stage, work_folder(output) as work:
        merged = model_folder
        if adapter_folder is not None:
            on_progress("merging the adapter into the float32 base")
            merged = work / "merged"
            merge(model_folder, adapter_folder, merged)
        on_progress("building the graph")
        graph = work / "fp32"
        build_graph(merged, graph)
        finish_folder(merged, graph, [tokenizer.decode(row.prompt_ids) for row in rows])

        rungs = [torch_rung(model_folder, adapter_folder), graph_rung(graph, stops)]
        if adapter_folder is not None:
            rungs.insert(1, merged_rung(merged))
        climbed = []
        for rung in rungs:
            climbed.append(_hold(ladder, rung, on_progress))
        table = _choose(merged, graph, ladder, calibration, stops, options, on_progress)
        chosen = next(line for line in table if line.verdict == CHOSEN)
        folder = graph.parent / chosen.precision
        final = _hold(ladder, genai_rung(folder, examples, rows, tokenizer, system_prompt), on_progress)
        shutil.copytree(folder, stage, dirs_exist_ok=True)
        origin = origin or Origin(str(model_folder), "")
        fidelity = {
            "ladder": [figures.as_json() for figures in [*climbed, chosen.figures, final]],
            "table": [asdict(line) for line in table],
            "limits": asdict(ladder.limits),
            "seconds": round(time.monotonic() - began, 1),
        }
        if recipe is not None:
            (stage / "oleaster.yaml").write_text(recipe, encoding="utf-8")
        (stage / "README.md").write_text(model_card(origin, chosen.precision, fidelity), encoding="utf-8")
        Artifact.seal(
            stage,
            kind="onnx-genai",
            precision=chosen.precision,
            base_source=origin.source,
            base_revision=origin.revision,
            run_id=origin.run_id,
            fidelity=fidelity,
        )
    return Artifact.open(output)


def _hold(ladder: Ladder, rung: Rung, on_progress: Progress) -> Figures:
    """Measure a rung that must hold. Raises: FidelityError."""
    figures = ladder.measure(rung)
    on_progress(figures)
    require(figures)
    return figures


def _choose(
    merged: Path,
    graph: Path,
    ladder: Ladder,
    calibration: Sequence[Encoded],
    stops: Sequence[int],
    options: ExportConfig,
    on_progress: Progress,
) -> list[Candidate]:
    """Make the precisions, smallest first, until one holds and fits; the last line of the table is the chosen one.

    Each is a folder beside `graph`, named after its precision. Raises: FidelityError when none will do.
    """
    table: list[Candidate] = []
    for precision in SMALLEST_FIRST if options.precision == "auto" else (options.precision,):
        on_progress(f"making {precision} weights")
        folder = graph.parent / precision
        if folder != graph:
            folder.mkdir()
            for path in graph.iterdir():
                if not path.name.startswith("model.onnx"):
                    shutil.copyfile(path, folder / path.name)
            quantise(merged, graph, folder, precision, calibration, options)
        figures = ladder.measure(quantised_rung(folder, stops, precision))
        memory = loaded_mb(folder)
        verdict = figures.fault or CHOSEN
        if figures.fault is None and options.memory is not None and memory > options.memory:
            verdict = f"takes {memory:.0f} MB, allowed {options.memory:.0f}"
        line = Candidate(precision, graph_mb(folder), round(memory, 1), figures, verdict)
        on_progress(line)
        table.append(line)
        if verdict == CHOSEN:
            return table
    reasons = "\n".join(f"  {line.precision} ({line.size_mb:.0f} MB): {line.verdict}" for line in table)
    raise FidelityError(f"rung 'quantised': no precision will do\n{reasons}")


def quantise(
    merged: Path, graph: Path, folder: Path, precision: str, calibration: Sequence[Encoded], options: ExportConfig
) -> None:
    """Write the graph of the folder `graph` (float32, made from the model `merged`) into `folder` as int8 or int4."""
    source = graph / "model.onnx"
    if precision == "int8":
        quantise_graph(source, folder / "model.onnx", dict.fromkeys(weight_shapes(source), INT8))
    else:
        rows = [Row(row.input_ids, row.targets) for row in calibration]
        plan, ready = calibrate(merged, source, rows, options.target_mb)
        quantise_graph(source, folder / "model.onnx", plan, ready)


def graph_mb(folder: Path) -> float:
    """Size of graph and weights in MB (1,000,000 bytes)."""
    return sum(path.stat().st_size for path in folder.glob("model.onnx*")) / 1e6


def general_rows(tokenizer: Any) -> list[Encoded]:
    """Texts of no task, for a model that is exported without rows: every token is predicted."""
    rows = []
    for index, text in enumerate(HARD_TEXTS):
        ids = tuple(tokenizer.encode(text, add_special_tokens=False))
        if len(ids) >= 4:
            rows.append(Encoded(ids, tuple(range(1, len(ids))), len(ids), index))
    return rows


def model_card(origin: Origin, precision: str, fidelity: dict[str, Any]) -> str:
    """README.md of an artifact: what it is, how it is run, how faithful it is."""
    lines = [
        f"# {Path(origin.source).name}, {precision}, for ONNX Runtime GenAI",
        "",
        f"Made by Oleaster from `{origin.source}`" + (f" at `{origin.revision}`." if origin.revision else "."),
        "",
        "| rung | KL, nats per token | top-1 | exact match | ends by itself | same ids |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for rung in fidelity["ladder"]:
        kl = "" if rung["kl"] is None else f"{rung['kl']:.2g}"
        shares = ["" if rung[k] is None else f"{100 * rung[k]:.1f} %" for k in SHARES]
        lines.append(f"| {rung['rung']} | {kl} | {' | '.join(shares)} |")
    lines += ["", "```python", "import onnxruntime_genai as og", 'model = og.Model("this folder")', "```", ""]
    return "\n".join(lines)
