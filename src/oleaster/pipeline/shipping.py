"""A run or model goes in, an artifact that was seen to answer like it comes out."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from oleaster.config.load import leaf_values, load_config, recipe_text, replace
from oleaster.config.places import seen_from
from oleaster.config.schema import Config
from oleaster.core.artifact import Artifact
from oleaster.core.errors import ConfigError, DataError, ModelError, UserError, collect
from oleaster.core.line import run_of
from oleaster.core.run import Run
from oleaster.pipeline.head_shipping import ship_head, verify_head
from oleaster.pipeline.heads import head_behind
from oleaster.pipeline.loading import parts, recipe_of, use_threads
from oleaster.pipeline.rows import names_rows, rows_to_ask

if TYPE_CHECKING:
    from oleaster.data.papers import Encoded, Example
    from oleaster.exporting.export import Candidate
    from oleaster.exporting.ladder import Figures
    from oleaster.exporting.verify import Tuned
    from oleaster.models.folder import ModelFolder

Progress = Callable[["str | Figures | Candidate"], None]
"""Told of each step, each rung of the ladder, each precision that was tried."""


def auto_opt(
    path: Path | str,
    config: Config,
    output: Path,
    adapter: Path | None = None,
    on_progress: Progress = lambda _: None,
    recipe: Path | None = None,
) -> Artifact:
    """Export a run, or a model with or without an adapter, for ONNX Runtime; `config.export` says how.

    The rows that climb the fidelity ladder are those that the run held out, or those that `config.data` names.

    Args:
        path: a run, its `model`, any model folder, hub id or .gguf file.
        output: the artifact's folder; an artifact that is there stays until the new one is complete.
        adapter: PEFT adapter folder to merge in; default: that of the run.
        recipe: that of the training behind a model that is no run's; it says which rows were held out.

    Raises:
        UserError: before any work.
        FidelityError: a form of the model lost more than allowed; names it. `output` is as it was.
    """
    from oleaster.core.plugins import load_plugins
    from oleaster.exporting.export import Origin, export
    from oleaster.exporting.options import check_hardware

    check_hardware(config.export)
    load_plugins(config.plugins)
    use_threads(config)
    source, own = parts(path, config)
    base, tokenizer = _base(source, config)
    run, adapter = run_of(adapter or path), adapter or own
    if adapter is not None:
        _refuse_what_no_graph_can_hold(adapter)
    if run is not None and adapter is None and run.adapter.is_dir():
        on_progress(f"{path} is the base of a run: its adapter is left out (--adapter_path {run.adapter} adds it)")
    trained = run.recipe if run else recipe
    behind = load_config(trained) if trained else None
    tuned_by = run if run is not None and (adapter is not None or not run.adapter.is_dir()) else None
    origin, carried = Origin(*_origin(base, tuned_by)), _carried(config, behind, run, output)
    if (head := head_behind(path)) is not None:
        where = (base.folder, adapter), output
        return ship_head(*where, head, config, behind, tokenizer, origin, carried, on_progress)
    rows = _held_rows(config, behind, tokenizer)
    if rows.note:
        on_progress(rows.note)
    return export(
        base.folder,
        adapter,
        output,
        rows.examples,
        rows.encoded,
        config.export,
        calibration=rows.calibration,
        origin=origin,
        recipe=recipe_text(carried),
        system_prompt=config.data.system_prompt,
        max_new_tokens=config.evaluation.max_new_tokens,
        on_progress=on_progress,
    )


def verify(
    path: Path | str,
    config: Config,
    run: Path | None = None,
    on_progress: Progress = lambda _: None,
    adapter: str | None = None,
) -> list[Figures]:
    """Climb the fidelity ladder again with an artifact that exists.

    Args:
        config: the recipe that the artifact carries (`recipe_of`), with other rows or limits laid over it.
        run: the run it was exported from; default: where its recipe says, if that folder still holds it. Without a
            run the artifact is held against its own graph and the rows' answers.
        adapter: the one that answers, in an artifact that carries several.

    Raises:
        ModelError: files of the artifact are missing or changed.
        FidelityError: a rung lost more than allowed.
    """
    from oleaster.exporting.verify import verify as climb
    from oleaster.models.tokenizer import load_tokenizer

    artifact = Artifact.open(Path(path), verify=True)
    carried = recipe_of(path, adapter)
    recipe = load_config(carried) if carried else None
    tuned = _tuned(artifact, run, recipe, config, adapter)
    if (head := head_behind(path, adapter)) is not None:
        use_threads(config)
        held_against = (tuned.folder, tuned.adapter) if tuned else None
        return verify_head(artifact, held_against, head, config, recipe, on_progress)
    if tuned is None:
        on_progress("the run it was exported from is not at hand (--run): the first rung is the artifact's own graph")
    use_threads(config)
    rows = _held_rows(config, recipe, load_tokenizer(tuned.folder if tuned else artifact.folder))
    if not rows.encoded:
        raise DataError(
            "not given: the rows", where=str(path), remedy=f"oleaster verify {quote(str(path))} -d rows.jsonl"
        )
    if rows.note:
        on_progress(rows.note)
    return climb(
        artifact,
        tuned,
        rows.examples,
        rows.encoded,
        config.export,
        adapter,
        system_prompt=config.data.system_prompt,
        max_new_tokens=config.evaluation.max_new_tokens,
        on_progress=on_progress,
    )


def generate_adapter(
    adapters: Sequence[Path],
    config: Config,
    output: Path,
    base: Path | str | None = None,
    on_progress: Progress = lambda _: None,
) -> Artifact:
    """Export one base that carries several adapters, each chosen per request; `output` may hold such a base already.

    Args:
        adapters: runs, or PEFT folders; each is called after its run's `task_name`, else its folder.
        config: `export` and what concerns this machine; rows and templates come from the adapters' own runs.
        base: the model they were trained on; default: that of the first run.

    Raises:
        UserError: before any work: adapters that were not trained on this base or hold what a branch cannot carry.
        FidelityError: an adapter answers otherwise than in torch. `output` is as it was.
    """
    from oleaster.exporting.adapters import FOLDER
    from oleaster.exporting.options import check_hardware
    from oleaster.exporting.shared_base import Tasks
    from oleaster.exporting.shared_base import generate_adapter as share

    check_hardware(config.export)
    use_threads(config)
    named = _named_adapters(adapters)
    runs = {name: run for name, folder in named.items() if (run := run_of(folder)) is not None}
    source = base or next((run.model for run in runs.values()), None)
    if source is None:
        raise ConfigError(
            "not given: the base model", where="--base_model_path", remedy="the model they were trained on"
        )
    found, tokenizer = _base(str(source), config)
    collect([problem for name, run in runs.items() for problem in _other_base(name, run, found)])
    tasks, recipes = {}, {}
    for name, run in runs.items():
        recipe = load_config(run.recipe)
        own = recipe.model_copy(update={"export": config.export})
        rows = _held_rows(own, recipe, tokenizer)
        tasks[name] = Tasks(rows.encoded, rows.examples, recipe.data.system_prompt, rows.calibration)
        recipes[name] = recipe_text(_carried(own, recipe, run, output / FOLDER))
    precision = "int8" if config.export.precision == "auto" else config.export.precision
    options = config.export.model_copy(update={"precision": precision})
    return share(
        found.folder,
        named,
        output,
        options,
        rows=tasks,
        recipes=recipes,
        base_source=found.source,
        base_revision=found.revision,
        on_progress=on_progress,
    )


def _named_adapters(folders: Sequence[Path]) -> dict[str, Path]:
    """Name -> PEFT folder. Raises: ConfigError for a folder without a LoRA adapter, or two of one name."""
    from oleaster.exporting.adapter_folder import is_lora

    named: dict[str, Path] = {}
    problems: list[UserError] = []
    for folder in folders:
        run = run_of(folder)
        place = run.adapter if run else folder
        name = (load_config(run.recipe).task_name or run.folder.name) if run else folder.name
        if not (place / "adapter_config.json").is_file():
            problems.append(
                ConfigError("no adapter lies here", where=str(folder), remedy="name a run or a PEFT folder")
            )
        elif not is_lora(place):
            problems.append(_merged_only(folder, place))
        elif name in named:
            remedy = "train with another --task_name, or rename a folder"
            problems.append(ConfigError(f"two adapters are called '{name}'", where=str(folder), remedy=remedy))
        named.setdefault(name, place)
    collect(problems)
    return named


def _merged_only(folder: Path, adapter: Path) -> UserError:
    """The problem with an adapter that is no low-rank update."""
    from oleaster.methods import saved_method

    merged = f"oleaster auto-opt {folder} merges it into an artifact of its own"
    remedy = "oleaster generate and evaluate answer with it" if saved_method(adapter).no_export else merged
    return ConfigError("only a plain LoRA can stand beside a shared base", where=str(folder), remedy=remedy)


def _other_base(name: str, run: Run, base: ModelFolder) -> Iterator[UserError]:
    """A problem when the run was trained on other weights, as far as both are known by their hash."""
    from oleaster.models.source import revision_of

    trained_on = run.summary["base_revision"] if run.is_done else ""
    if not (trained_on.startswith("sha256:") and base.revision.startswith("sha256:")):
        return
    # A base that was unpacked from one file is known by the hash of that file; the run keeps it as a folder.
    same = {trained_on} | ({revision_of(run.model)} if (run.model / "config.json").is_file() else set())
    if base.revision not in same:
        message = f"the adapter '{name}' was trained on {run.summary['base']} ({trained_on}), not on this base"
        yield ConfigError(message, where="--base_model_path", remedy=f"--base_model_path {run.model}")


def _refuse_what_no_graph_can_hold(adapter: Path) -> None:
    """Raises: ModelError for an adapter whose method answers in torch only."""
    from oleaster.methods import saved_method

    if reason := saved_method(adapter).no_export:
        remedy = "oleaster generate and evaluate answer with it; train with another --method to ship"
        raise ModelError(f"this adapter cannot be exported: {reason}", where=str(adapter), remedy=remedy)


@dataclass(frozen=True)
class HeldRows:
    """Rows that a model is held to, in an order that is not the file's, which may be sorted."""

    examples: tuple[Example, ...] = ()
    encoded: tuple[Encoded, ...] = ()
    calibration: tuple[Encoded, ...] = ()
    """Training rows, for calibrating; empty where they are not known."""
    note: str = ""


def _held_rows(config: Config, recipe: Config | None, tokenizer: Any) -> HeldRows:
    from oleaster.data.encode import encode

    if recipe is None and not names_rows(config.data):
        return HeldRows(note="no rows are named (-d rows.jsonl): only general texts are compared, no answers")
    asked, trained = rows_to_ask(config, recipe)
    note = ""
    if not asked:
        asked, note = trained, "the run held no rows out: its training rows climb the ladder"

    calibration = random.Random(0).sample(trained, min(len(trained), config.export.calibration_rows))
    held, learned = (encode(rows, tokenizer, config.data, every_turn=False)[0] for rows in (asked, calibration))
    return HeldRows(asked, tuple(random.Random(0).sample(held, len(held))), tuple(learned), note)


def _base(source: str, config: Config) -> tuple[ModelFolder, Any]:
    from oleaster.models.sanity import check
    from oleaster.models.source import resolve
    from oleaster.models.tokenizer import load_tokenizer

    base = resolve(config.model.model_copy(update={"model_name_or_path": source}))
    tokenizer = load_tokenizer(base.folder, config.model.trust_remote_code)
    check(base, tokenizer, config.model.trust_remote_code)
    return base, tokenizer


def _origin(base: ModelFolder, run: Run | None) -> tuple[str, str, str | None]:
    """(base model, its revision, run id): what the manifest says about where the model comes from."""
    if run is None:
        return base.source, base.revision, None
    if not run.is_done:
        return base.source, base.revision, run.id
    return run.summary["base"], run.summary["base_revision"], run.id


def _carried(config: Config, recipe: Config | None, run: Run | None, folder: Path) -> Config:
    """The recipe that goes with the artifact, into `folder`: the run's, with the settings of this export.

    How loud libraries were, and what one evaluation held answers to, is nothing that an artifact goes on with.
    """
    evaluation = config.evaluation.model_copy(update={"answer_with": "auto"})
    given = {"export": config.export, "evaluation": evaluation, "log_level": Config().log_level}
    carried = (recipe or config).model_copy(update=given)
    trained = {"output_path": str(run.folder)} if run else {}
    return replace(carried, **seen_from(folder, leaf_values(carried) | trained))


def _tuned(
    artifact: Artifact, run: Path | None, recipe: Config | None, config: Config, adapter: str | None
) -> Tuned | None:
    """The model that `artifact` was made from, where it is at hand; of an adapter among several, its run."""
    from oleaster.exporting.verify import Tuned

    if run is None:
        guess = recipe.output_path if recipe else None
        if guess is None or not Run.is_run(guess) or (adapter is None and Run(guess).id != artifact.run_id):
            return None
        run = guess
    elif adapter is None and (found := Run.open(run).id) != artifact.run_id:
        raise ConfigError(
            f"the artifact was exported from the run {artifact.run_id}, this is {found}",
            where=f"--run {run}",
            remedy="name the run it was exported from, or export this one: oleaster auto-opt",
        )
    base, trained = parts(run, config)
    return Tuned(Path(base), trained)
