"""One exported base that carries any number of adapters."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oleaster.config.schema import ExportConfig
from oleaster.core.artifact import MANIFEST, Artifact
from oleaster.core.errors import ConfigError
from oleaster.core.files import link_or_copy, work_folder
from oleaster.data.papers import Encoded, Example
from oleaster.exporting.adapter_folder import LoraAdapter, read_lora
from oleaster.exporting.adapters import FOLDER, SUFFIX, add_branches, place, read_sites, write_adapter_file
from oleaster.exporting.export import general_rows
from oleaster.exporting.genai_files import finish_folder
from oleaster.exporting.graph import build_graph
from oleaster.exporting.ladder import Figures, Ladder, Limits
from oleaster.exporting.layouts.genai import is_graph, quantise
from oleaster.exporting.lessons import Lesson
from oleaster.exporting.options import check_hardware
from oleaster.exporting.rungs import Questions, genai_rung, quantised_rung, torch_rung
from oleaster.models.tokenizer import load_tokenizer, stop_ids

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Tasks:
    """Held-out rows of one adapter's task."""

    encoded: Sequence[Encoded]
    examples: Sequence[Example]
    system_prompt: str | None = None
    calibration: Sequence[Encoded] = ()
    """Training rows, which calibrate a 4-bit base; default: the held-out ones."""


def generate_adapter(
    base_folder: Path,
    adapters: Mapping[str, Path],
    output: Path,
    options: ExportConfig = ExportConfig(precision="int8"),
    *,
    rows: Mapping[str, Tasks] = {},
    recipes: Mapping[str, str] = {},
    base_source: str = "",
    base_revision: str = "",
    on_progress: Callable[[str | Figures], None] = lambda _: None,
) -> Artifact:
    """Write one base graph with `adapters/NAME.onnx_adapter` for each adapter; every adapter climbs its own ladder.

    An `output` that holds such an artifact keeps its base: its weights are linked, only the graph's file is written
    anew. So adding an adapter later costs no new build.

    Args:
        base_folder: full-precision model in the hub's layout that all adapters were trained for.
        adapters: PEFT folders by name.
        rows: held-out rows by adapter name; an adapter without any is compared on general texts.
        recipes: YAML by adapter name, carried as adapters/NAME.yaml: how its prompts are rendered.

    Raises: ConfigError for a name that is no file name or taken; ModelError that lists everything the adapters hold and
        a branch cannot carry; FidelityError when an adapter answers otherwise than in torch.
    """
    check_hardware(options)
    if options.precision not in ("int8", "int4", "fp32"):
        found = f"a shared base is int8, int4 or fp32, not {options.precision}"
        raise ConfigError(found, where="--precision", remedy="--precision int8")
    if bad := [name for name in adapters if not NAME.fullmatch(name)]:
        raise ConfigError(f"no name for an adapter: {bad[0]!r}", where="--task_name", remedy="letters, digits, . _ -")
    loaded = {name: read_lora(folder) for name, folder in adapters.items()}
    with Artifact.staged(output) as stage, work_folder(output) as work:
        before: dict[str, Any] = {}
        if Artifact.is_artifact(output):
            artifact = Artifact.open(output)
            before = artifact.fidelity.get("adapters", {})
            _take_over(artifact, stage)
        else:
            on_progress("building the graph")
            _build_base(base_folder, work / "fp32", stage, options, _lessons(base_folder, adapters, rows))
        _carry(loaded, stage)
        for name, recipe in recipes.items():
            (stage / FOLDER / f"{name}.yaml").write_text(recipe, encoding="utf-8")
        figures = dict(before)
        for name, folder in adapters.items():
            on_progress(f"adapter {name}")
            climbed = _climb(base_folder, folder, stage, name, rows.get(name), options, on_progress)
            figures[name] = [each.as_json() for each in climbed]
        Artifact.seal(
            stage,
            kind="onnx-genai",
            precision=options.precision,
            base_source=base_source or str(base_folder),
            base_revision=base_revision,
            fidelity={"adapters": figures},
        )
    return Artifact.open(output)


def _take_over(artifact: Artifact, stage: Path) -> None:
    """The old artifact's files into the staged one, weights and adapters by link, what will be edited as copies."""
    for file in artifact.files:
        source, target = artifact.folder / file.path, stage / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.path == "model.onnx":
            shutil.copyfile(source, target)
        elif file.path != MANIFEST:
            link_or_copy(source, target)


def _lessons(base_folder: Path, adapters: Mapping[str, Path], rows: Mapping[str, Tasks]) -> list[Lesson]:
    """What a 4-bit base is calibrated on: every task's rows with its adapter on; without any, general texts."""
    tasks = [Lesson(task.calibration or task.encoded, adapters[name]) for name, task in rows.items()]
    return tasks or [Lesson(general_rows(load_tokenizer(base_folder)))]


def _build_base(base_folder: Path, graph: Path, stage: Path, options: ExportConfig, lessons: Sequence[Lesson]) -> None:
    build_graph(base_folder, graph)
    finish_folder(base_folder, graph, [])
    for path in graph.iterdir():
        if options.precision == "fp32" or not is_graph(path):
            link_or_copy(path, stage / path.name)
    if options.precision != "fp32":
        quantise(base_folder, graph, stage, options.precision, lessons, options)


def _carry(loaded: Mapping[str, LoraAdapter], stage: Path) -> None:
    """Write the adapters' files, and give the graph the branches they need. Checks all of them before it writes."""
    sites = read_sites(stage)
    taken = [name for name in loaded if (stage / FOLDER / f"{name}{SUFFIX}").exists()]
    if taken:
        raise ConfigError(
            f"there is an adapter '{taken[0]}' already", where="--task_name", remedy="choose another name"
        )
    wanted: dict[str, None] = {}
    for adapter in loaded.values():
        wanted |= dict.fromkeys(place(adapter, sites))
    for name, adapter in loaded.items():
        write_adapter_file(adapter, sites, stage / FOLDER / f"{name}{SUFFIX}")
    add_branches(stage, list(wanted))


def _climb(
    base_folder: Path,
    adapter_folder: Path,
    stage: Path,
    name: str,
    task: Tasks | None,
    options: ExportConfig,
    on_progress: Callable[[str | Figures], None],
) -> list[Figures]:
    tokenizer = load_tokenizer(base_folder)
    examples = task.examples if task else ()
    rows = task.encoded[: options.verify_rows] if task else general_rows(tokenizer)
    references = [examples[row.example].target for row in rows] if examples else None
    ladder = Ladder(rows, references, Limits(options.max_drop, options.max_kl))
    rungs = [
        torch_rung(base_folder, adapter_folder),
        quantised_rung(stage, stop_ids(base_folder, tokenizer), options.precision, name),
        genai_rung(stage, Questions(rows, examples, tokenizer, task.system_prompt if task else None), name),
    ]
    return ladder.climb(rungs, on_progress)
