"""Tuned model -> a folder for ONNX Runtime GenAI, transformers or llama.cpp that was seen to answer like it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from oleaster.config.schema import ExportConfig
from oleaster.core.artifact import Artifact
from oleaster.core.errors import FidelityError, ModelError
from oleaster.core.files import link_or_copy, work_folder
from oleaster.data.papers import Encoded, Example
from oleaster.exporting.adapter_folder import is_lora, read_lora
from oleaster.exporting.calibrate import LOW
from oleaster.exporting.genai_files import HARD_TEXTS
from oleaster.exporting.ladder import Figures, Ladder, Limits
from oleaster.exporting.layouts import LAYOUTS
from oleaster.exporting.layouts.layout import Layout, Material, size_mb
from oleaster.exporting.merge import merge
from oleaster.exporting.options import check_hardware
from oleaster.exporting.quantize import INT8
from oleaster.exporting.rungs import Questions, merged_rung, torch_rung
from oleaster.exporting.survival import survival, told
from oleaster.models.load import read_tensors
from oleaster.models.tokenizer import load_tokenizer, stop_ids

CHOSEN = "chosen"
ROUNDED = {"int4": LOW, "int8": INT8}
"""Formats that merged weights are rounded to, by precision."""
SHARES = ("top1", "exact_match", "natural_stop", "same_ids")
HOW_TO_RUN = {
    "onnx-genai": ("ONNX Runtime GenAI", 'import onnxruntime_genai as og\nmodel = og.Model("this folder")'),
    "hf": ("transformers", 'from transformers import pipeline\nask = pipeline("text-generation", "this folder")'),
    "gguf": ("llama.cpp", 'from llama_cpp import Llama\nmodel = Llama("model.gguf")'),
}
"""Artifact kind -> what runs it, and how it is loaded there."""


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
    figures: Figures
    verdict: str
    """`chosen`, or why not."""
    size_mb: float | None = None
    """Graph and weights, in MB (1,000,000 bytes); None = it could not be made."""
    memory_mb: float | None = None
    """Of a process that has it loaded, in MB; None = not measured for this kind."""
    adapter: str | None = None
    """How the merged adapter compares with the rounding; None = nothing is rounded or merged. See `survival`."""


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
    """Merge, write, quantise, and climb the ladder; `output` appears only when every rung held.

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
    layout = LAYOUTS[options.output_format]
    layout.check(model_folder)
    tokenizer = load_tokenizer(model_folder)
    stops = stop_ids(model_folder, tokenizer)
    rows = encoded[: options.verify_rows] or general_rows(tokenizer)
    references = [examples[row.example].target for row in rows] if encoded and examples else None
    ladder = Ladder(rows, references, Limits(options.max_drop, options.max_kl), max_new_tokens)
    calibration = (calibration or encoded[options.verify_rows :] or rows)[: options.calibration_rows]
    questions = Questions(rows, examples, tokenizer, system_prompt)
    began = time.monotonic()
    with Artifact.staged(output) as stage, work_folder(output) as work:
        merged = model_folder
        if adapter_folder is not None:
            on_progress("merging the adapter into the float32 base")
            merged = work / "merged"
            merge(model_folder, adapter_folder, merged)
        prompts = [tokenizer.decode(row.prompt_ids) for row in rows]
        adapter = read_lora(adapter_folder) if adapter_folder and is_lora(adapter_folder) else None
        material = Material(merged, adapter, work, stops, prompts, calibration, options)
        on_progress(f"preparing for {HOW_TO_RUN[layout.kind][0]}")
        exact = layout.prepare(material)
        rungs = [torch_rung(model_folder, adapter_folder), merged_rung(merged) if adapter_folder else None, exact]
        climbed = ladder.climb(filter(None, rungs), on_progress)
        table = choose(layout, material, ladder, on_progress)
        chosen = next(line for line in table if line.verdict == CHOSEN)
        climbed.append(chosen.figures)
        folder = work / chosen.precision
        final = layout.runtime_rung(folder, questions)
        if final is None:
            on_progress(f"{HOW_TO_RUN[layout.kind][0]} is not installed: the artifact was not loaded by it")
        else:
            climbed += ladder.climb([final], on_progress)
        for path in folder.iterdir():
            link_or_copy(path, stage / path.name)
        origin = origin or Origin(str(model_folder), "")
        fidelity = {
            "ladder": [figures.as_json() for figures in climbed],
            "table": [asdict(line) for line in table],
            "limits": asdict(ladder.limits),
            "seconds": round(time.monotonic() - began, 1),
        }
        if recipe is not None:
            (stage / "oleaster.yaml").write_text(recipe, encoding="utf-8")
        (stage / "README.md").write_text(model_card(origin, layout.kind, chosen.precision, fidelity), encoding="utf-8")
        Artifact.seal(
            stage,
            kind=layout.kind,
            precision=chosen.precision,
            base_source=origin.source,
            base_revision=origin.revision,
            run_id=origin.run_id,
            fidelity=fidelity,
        )
    return Artifact.open(output)


def choose(layout: Layout, material: Material, ladder: Ladder, on_progress: Progress) -> list[Candidate]:
    """Make the precisions, smallest first, until one holds and fits; the last line of the table is the chosen one.

    Each is a folder of `material.work`, named after its precision. Raises: FidelityError when none will do; ModelError
    when the only one cannot be made.
    """
    table: list[Candidate] = []
    wanted = material.options.precision
    precisions = layout.precisions if wanted == "auto" else (wanted,)
    for precision in precisions:
        on_progress(f"making {precision} weights")
        try:
            layout.make(material, precision, material.work / precision)
        except ModelError as error:
            if len(precisions) == 1:
                raise
            line = Candidate(precision, Figures(precision, fault=error.message), error.message)
        else:
            line = _judged(layout, material, precision, ladder)
        on_progress(line)
        table.append(line)
        if line.verdict == CHOSEN:
            return table
    reasons = "\n".join(f"  {line.precision}: {line.verdict}" for line in table)
    raise FidelityError(f"rung 'quantised': no precision will do\n{reasons}")


def _judged(layout: Layout, material: Material, precision: str, ladder: Ladder) -> Candidate:
    folder, allowed = material.work / precision, material.options.memory
    with ThreadPoolExecutor(1) as beside:
        weighed = beside.submit(layout.memory_mb, folder)  # another process, which mostly waits for the disk
        figures = ladder.measure(layout.quantised_rung(folder, precision, material.stops))
    memory = weighed.result()
    verdict = figures.fault or CHOSEN
    if figures.fault is None and allowed is not None and memory is not None and memory > allowed:
        verdict = f"takes {memory:.0f} MB, allowed {allowed:.0f}"
    size = size_mb(layout.weights(folder))
    adapter = _survival(material, precision)
    if figures.fault is not None and adapter is not None:
        verdict = f"{verdict}; {adapter}: oleaster generate-adapter keeps it apart"
    return Candidate(precision, figures, verdict, size, None if memory is None else round(memory, 1), adapter)


def _survival(material: Material, precision: str) -> str | None:
    if material.adapter is None or precision not in ROUNDED:
        return None
    stored = read_tensors(material.merged)
    weights = {path: stored.get(f"{path}.weight") for path in material.adapter.deltas}
    if any(weight is None for weight in weights.values()):  # a base that names its weights in a way of its own
        return None
    arrays = {path: weight.float().numpy() for path, weight in weights.items() if weight is not None}
    found = survival(material.adapter, arrays, ROUNDED[precision])
    return told(found) if found else None


def general_rows(tokenizer: Any) -> list[Encoded]:
    """Texts of no task, for a model that is exported without rows: every token is predicted."""
    rows = []
    for index, text in enumerate(HARD_TEXTS):
        ids = tuple(tokenizer.encode(text, add_special_tokens=False))
        if len(ids) >= 4:
            rows.append(Encoded(ids, tuple(range(1, len(ids))), len(ids), index))
    return rows


def model_card(origin: Origin, kind: str, precision: str, fidelity: dict[str, Any]) -> str:
    """README.md of an artifact: what it is, how it is run, how faithful it is."""
    runtime, code = HOW_TO_RUN[kind]
    lines = [
        f"# {Path(origin.source).name}, {precision}, for {runtime}",
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
    return "\n".join([*lines, "", "```python", code, "```", ""])
