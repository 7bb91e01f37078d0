"""A model with a head -> a graph for ONNX Runtime that was seen to answer like it.

The ladder is that of generating models, on the head's answers: torch, the float32 graph (exact but for rounding), the
precision that ships (which may lose what the user allows).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from oleaster.config.schema import ExportConfig
from oleaster.core.artifact import Artifact
from oleaster.core.errors import ConfigError, FidelityError
from oleaster.core.files import link_or_copy, work_folder
from oleaster.data.encode_heads import pooled
from oleaster.data.papers import Encoded, Head
from oleaster.exporting.export import CHOSEN, Candidate, Origin, Progress, general_rows
from oleaster.exporting.graph import build_graph
from oleaster.exporting.head_folder import as_language_model, head_weights, merge_headed
from oleaster.exporting.head_graph import put_head_on
from oleaster.exporting.ladder import CAUSES, EXACT_KL, Figures, Limits, log_softmax, require
from oleaster.exporting.layouts.layout import size_mb
from oleaster.exporting.merge import copy_small_files
from oleaster.exporting.options import check_hardware
from oleaster.exporting.quantize import HEAD, INT8, int8_plan, quantise_graph
from oleaster.inference.head_predictor import Floats, HeadBackend
from oleaster.inference.onnx_heads import GRAPH, KIND, OnnxHeads
from oleaster.models.tokenizer import load_tokenizer

RECIPE = "oleaster.yaml"
PRECISIONS = ("int8", "fp32")
"""Smallest first."""


@dataclass(frozen=True)
class Asked:
    """Texts that climb the ladder."""

    texts: list[tuple[int, ...]]
    places: list[tuple[int, ...]]
    wanted: list[tuple[int, ...]]
    """Ids of the right labels; empty where they are not known, and for embeddings."""


def export_head(
    model_folder: Path,
    adapter_folder: Path | None,
    output: Path,
    head: Head,
    encoded: Sequence[Encoded],
    options: ExportConfig,
    *,
    origin: Origin,
    recipe: str,
    on_progress: Progress = lambda _: None,
) -> Artifact:
    """Merge, write, quantise, and climb the ladder; `output` appears only when every rung held.

    Args:
        encoded: held-out rows as `encode_for_head` gives them; empty: a few general texts.

    Raises: ConfigError, MissingExtraError, ModelError before any work; FidelityError when a rung lost too much.
    """
    check_hardware(options)
    _check_options(options)
    tokenizer = load_tokenizer(model_folder)
    asked = _asked(encoded[: options.verify_rows] or general_rows(tokenizer), head)
    began = time.monotonic()
    with Artifact.staged(output) as stage, work_folder(output) as work:
        reference = _torch_heads(model_folder, tokenizer, head, adapter_folder)
        ladder = _Ladder(asked, head, options, reference.read(asked.texts, asked.places))
        del reference
        climbed = [ladder.hold("torch", None, on_progress)]
        merged = merge_headed(model_folder, adapter_folder, work / "merged", work)
        if adapter_folder is not None:
            on_progress("merging the adapter into the float32 base")
            climbed.append(ladder.hold("merged", _torch_heads(merged, tokenizer, head), on_progress))
        if options.output_format == "hf":
            folder, kind = merged, "hf"
            table = [Candidate("fp32", climbed[-1], CHOSEN, size_mb(list(merged.glob("*.safetensors"))))]
        else:
            on_progress("preparing for ONNX Runtime")
            _write_graph(merged, work, head)
            climbed.append(ladder.hold("onnx-fp32", OnnxHeads(work / "fp32" / GRAPH, head), on_progress))
            table = _choose(merged, work, ladder, on_progress)
            if table[-1].precision != "fp32":
                climbed.append(table[-1].figures)
            folder, kind = work / table[-1].precision, KIND
            copy_small_files(merged, merged, stage)
            shutil.copyfile(merged / "config.json", stage / "config.json")
        for path in folder.iterdir():
            if path.is_file() and path.name not in ("README.md", RECIPE):  # written anew below: no second name of those
                link_or_copy(path, stage / path.name)
        (stage / RECIPE).write_text(recipe, encoding="utf-8")
        (stage / "README.md").write_text(_card(origin, kind, table[-1].precision, head, climbed), encoding="utf-8")
        _seal(stage, kind, origin, climbed, table, options, time.monotonic() - began)
    return Artifact.open(output)


def _seal(stage: Path, kind: str, origin: Origin, climbed: Sequence[Figures], table: Sequence[Candidate],
          options: ExportConfig, seconds: float) -> None:  # fmt: skip
    """Write the manifest."""
    fidelity = {
        "ladder": [figures.as_json() for figures in climbed],
        "table": [asdict(line) for line in table],
        "limits": {"max_drop": options.max_drop, "max_kl": options.max_kl},
        "seconds": round(seconds, 1),
    }
    source = {"base_source": origin.source, "base_revision": origin.revision, "run_id": origin.run_id}
    Artifact.seal(stage, kind=kind, precision=table[-1].precision, **source, fidelity=fidelity)


def verify_head(
    artifact: Artifact,
    tuned: tuple[Path, Path | None],
    head: Head,
    encoded: Sequence[Encoded],
    options: ExportConfig,
    on_progress: Progress = lambda _: None,
) -> list[Figures]:
    """Hold an artifact's graph against the model it was made from, again.

    Args:
        tuned: folders of base and adapter.

    Raises: FidelityError when it lost too much.
    """
    tokenizer = load_tokenizer(artifact.folder)
    asked = _asked(encoded[: options.verify_rows] or general_rows(tokenizer), head)
    ladder = _Ladder(
        asked, head, options, _torch_heads(tuned[0], tokenizer, head, tuned[1]).read(asked.texts, asked.places)
    )
    climbed = [ladder.hold("torch", None, on_progress)]
    hub = artifact.kind == "hf"
    shipped = _torch_heads(artifact.folder, tokenizer, head) if hub else OnnxHeads(artifact.folder / GRAPH, head)
    return [*climbed, ladder.hold(artifact.precision, shipped, on_progress, options.max_kl)]


def _check_options(options: ExportConfig) -> None:
    """Raises: ConfigError for what only generating models can become."""
    if options.output_format not in ("genai", "hf"):
        message = f"a model with a head has no {options.output_format} form"
        raise ConfigError(message, where="output_format", remedy="leave it out (ONNX Runtime), or --output_format hf")
    known = ("auto", "fp32") if options.output_format == "hf" else ("auto", *PRECISIONS)
    if options.precision not in known:
        message = f"a model with a head is not made in {options.precision}"
        raise ConfigError(message, where="precision", remedy=f"--precision {' or '.join(known)}")


def _asked(rows: Sequence[Encoded], head: Head) -> Asked:
    """The texts of the rows (both of a pair), where the head reads them, and what it should say."""
    lines = [line for row in rows for line in (row, row.pair) if line is not None]
    texts = [line.prompt_ids for line in lines]
    if head.kind == "embedding":
        return Asked(texts, [pooled(len(text), head) for text in texts], [])
    places = [line.sources or (len(line.prompt_ids) - 1,) for line in lines]
    wanted = [tuple(line.input_ids[t] for t in line.targets if t >= line.prompt_length) for line in lines]
    return Asked(texts, places, wanted if all(wanted) else [])


def _torch_heads(folder: Path, tokenizer: Any, head: Head, adapter: Path | None = None) -> HeadBackend:
    import torch

    from oleaster.inference.torch_heads import TorchHeads
    from oleaster.methods import attach_saved
    from oleaster.models.load import load_weights
    from oleaster.models.loaded import LoadedModel

    model: Any = load_weights(folder, torch.float32, head=head)[0]
    if adapter is not None:
        attach_saved(model.hub_model, adapter)
    return TorchHeads(LoadedModel(model.eval(), tokenizer, folder, str(folder), "", torch.float32, ()), head)


def _write_graph(merged: Path, work: Path, head: Head) -> None:
    """`work/fp32/model.onnx` with the head, and `work/body/model.onnx` without: what other precisions start from."""
    build_graph(as_language_model(merged, work / "language"), work / "body", language_head=False)
    (work / "fp32").mkdir()
    _with_head(work / "body" / GRAPH, work / "fp32" / GRAPH, merged, head)


def _with_head(body: Path, graph: Path, merged: Path, head: Head) -> None:
    weight, bias = (None, None) if head.kind == "embedding" else head_weights(merged)
    put_head_on(body, graph, head, weight, bias)


def _choose(merged: Path, work: Path, ladder: _Ladder, on_progress: Progress) -> list[Candidate]:
    """Make the precisions, smallest first, until one holds. The head itself stays float32: a few thousand numbers.

    Raises: FidelityError when none will do.
    """
    table: list[Candidate] = []
    options, head = ladder.options, ladder.head
    for precision in PRECISIONS if options.precision == "auto" else (options.precision,):
        folder = work / precision
        if precision != "fp32":
            on_progress(f"making {precision} weights")
            folder.mkdir()
            body, small = work / "body" / GRAPH, work / f"body-{precision}.onnx"
            quantise_graph(body, small, {**int8_plan(body), HEAD: INT8})
            _with_head(small, folder / GRAPH, merged, head)
        figures = ladder.measure(precision, OnnxHeads(folder / GRAPH, head), options.max_kl)
        size = size_mb(list(folder.glob(f"{GRAPH}*")))
        too_large = options.memory is not None and size > options.memory
        verdict = f"takes more than {size:.0f} MB, allowed {options.memory:.0f}" if too_large else CHOSEN
        line = Candidate(precision, figures, figures.fault or verdict, size)
        on_progress(line)
        table.append(line)
        if line.verdict == CHOSEN:
            return table
    reasons = "\n".join(f"  {line.precision}: {line.verdict}" for line in table)
    raise FidelityError(f"rung 'quantised': no precision will do\n{reasons}")


class _Ladder:
    """Measures forms of the model on the same texts, each against what torch gave."""

    def __init__(self, asked: Asked, head: Head, options: ExportConfig, expected: Sequence[Floats]) -> None:
        self.asked, self.head, self.options, self._expected = asked, head, options, expected
        self._first = _figures("torch", expected, expected, asked, head)

    def hold(self, rung: str, backend: HeadBackend | None, on_progress: Progress, most_kl: float = EXACT_KL) -> Figures:
        """A rung that must hold; None: torch itself. Raises: FidelityError."""
        figures = self._first if backend is None else self.measure(rung, backend, most_kl)
        on_progress(figures)
        require(figures)
        return figures

    def measure(self, rung: str, backend: HeadBackend, most_kl: float) -> Figures:
        """The rung's figures, with its fault if it has one."""
        found = backend.read(self.asked.texts, self.asked.places)
        figures = _figures(rung, self._expected, found, self.asked, self.head)
        allowed = Limits(self.options.max_drop).drop_among(figures.rows)
        drop, lost = (self._first.exact_match or 0.0) - (figures.exact_match or 0.0), None
        if figures.kl is None or not figures.kl <= most_kl:
            lost = f"{'1 - cosine' if self.head.kind == 'embedding' else 'KL'} is {figures.kl}, allowed {most_kl:.2g}"
        elif drop > allowed + 1e-9:
            lost = f"{100 * drop:.1f} points of right answers are lost, allowed {100 * allowed:.1f}"
        if lost is None:
            return figures
        return replace(figures, fault=f"{lost}. Likely cause: {CAUSES.get(rung, CAUSES['quantised'])}")


def _figures(rung: str, expected: Sequence[Floats], found: Sequence[Floats], asked: Asked, head: Head) -> Figures:
    """Differences from `expected`; of an embedding the KL is the mean of 1 - cosine."""
    one, other = (np.concatenate(list(each)).astype(np.float64) for each in (expected, found))
    if head.kind == "embedding":
        cosine = (one * other).sum(1) / np.maximum(np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1), 1e-12)
        largest, turned = float(np.abs(one - other).max()), float(np.maximum(1.0 - cosine, 0.0).mean())
        return Figures(rung, len(asked.texts), positions=len(one), max_difference=largest, kl=turned)
    one, other = one - one.mean(1, keepdims=True), other - other.mean(1, keepdims=True)
    logs = log_softmax(one), log_softmax(other)
    right = [
        bool((logits.argmax(-1) == wanted).all())
        for logits, wanted in zip(found, asked.wanted, strict=bool(asked.wanted))
    ]
    return Figures(
        rung,
        len(asked.texts),
        positions=len(one),
        max_difference=float(np.abs(one - other).max()),
        kl=float((np.exp(logs[0]) * (logs[0] - logs[1])).sum(1).mean()),
        top1=float((one.argmax(1) == other.argmax(1)).mean()),
        exact_match=float(np.mean(right)) if right else None,
    )


def _card(origin: Origin, kind: str, precision: str, head: Head, climbed: Sequence[Figures]) -> str:
    """README.md of the artifact."""
    what = f"{len(head.labels)} labels, {head.kind} head" if head.labels else f"embedding, {head.pooling} of the states"
    if kind == "hf":
        code = f'from transformers import pipeline\nask = pipeline("{head.kind}-classification", "this folder")'
    else:
        gives = "embedding [B, C]" if head.kind == "embedding" else "logits [B, labels]"
        gives = "logits [B, L, labels]" if head.kind == "token" else gives
        code = (
            'import onnxruntime\nsession = onnxruntime.InferenceSession("model.onnx")\n'
            f'session.run(None, {{"input_ids": ids, "attention_mask": mask}})  # [B, L] int64, right-padded -> {gives}'
        )
    lines = [
        f"# {Path(origin.source).name}, {what}, {precision}",
        "",
        f"Made by Oleaster from `{origin.source}`. `oleaster generate` and `oleaster evaluate` take this folder.",
        "",
        "| rung | difference from torch | same answers | right answers |",
        "|---|---:|---:|---:|",
    ]
    for each in climbed:
        shares = ["" if share is None else f"{100 * share:.1f} %" for share in (each.top1, each.exact_match)]
        lines.append(f"| {each.rung} | {each.kl:.2g} | {' | '.join(shares)} |")
    return "\n".join([*lines, "", "```python", code, "```", "", f"Labels: {json.dumps(head.labels)}", ""])
