"""Rows and a base model go in, a run comes out."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oleaster.config.schema import Config
from oleaster.core.errors import ConfigError
from oleaster.core.run import Run
from oleaster.pipeline.loading import use_threads
from oleaster.pipeline.shelf import Ready, Shelf, get_ready

if TYPE_CHECKING:
    from oleaster.methods import Method
    from oleaster.models.loaded import BaseNeeds, LoadedModel
    from oleaster.training.cluster import Cluster
    from oleaster.training.driving import Answer, Demand
    from oleaster.training.losses import Loss
    from oleaster.training.reports import Sink


def finetune(config: Config, sinks: Sequence[Sink] = (), shelf: Shelf | None = None) -> Run:
    """Train an adapter (or the whole model) and write the run's folder, `DONE` last.

    Args:
        sinks: called with every `StepReport`, `EvalReport` and `Notice`, beside the log and TensorBoard.
        shelf: where to take rows and base from, and leave them for the next run; default: an empty one.

    Raises:
        UserError: something in recipe, rows or model is wrong; nothing has been written.
        RunError: training stopped half way; `training.resume` goes on from its last checkpoint.
    """
    from oleaster.training.driving import finish

    return finish(tuning(config, sinks, shelf or Shelf()))


def finetune_together(configs: Sequence[Config], sinks: Sequence[Sequence[Sink]] = ()) -> list[Run]:
    """Train several adapters over one frozen base that is read once, their rows in the same matrix products.

    Each run is what `finetune` would make of its config alone (equal up to the last bits of float32 sums; other random
    masks where dropout or NEFTune is on), in a folder of its own, and can be resumed, together or alone.

    Args:
        configs: recipes that name the same base; rows, method settings and optimisation may differ.
        sinks: for each config, see `finetune`.

    Raises: as `finetune`, and ConfigError when the recipes cannot share a base.
    """
    from oleaster.config.rules import check_together
    from oleaster.training.driving import drive_together

    check_together(configs)
    shelf = Shelf(together=True)
    for config in configs:
        shelf.ready(config)  # what is wrong with any rows is said before the first run's folder exists
    each = sinks or [()] * len(configs)
    return drive_together([tuning(config, own, shelf) for config, own in zip(configs, each, strict=True)])


def tuning(config: Config, sinks: Sequence[Sink], shelf: Shelf) -> Generator[Demand, Answer, Run]:
    """One run, from its config to its folder; asks for the gradients of its steps (see `training.driving`)."""
    from oleaster.config.load import leaf_values, recipe_text
    from oleaster.config.load import replace as with_settings
    from oleaster.config.rules import TO_FINETUNE, check
    from oleaster.methods import get_method, trainable_parameters
    from oleaster.training.checkpoint import Checkpoints
    from oleaster.training.cluster import Cluster
    from oleaster.training.loop import training
    from oleaster.training.reports import Notice
    from oleaster.training.sinks import build_sinks

    if config.output_path is None:
        raise ConfigError("not given: the folder of the run", where="output_path", remedy="--output_path runs/first")
    check(config, TO_FINETUNE)
    use_threads(config)
    ready = shelf.ready(config)
    config, folder = ready.config, config.output_path
    recipe = recipe_text(with_settings(config, resume=False))
    cluster = Cluster.join()
    with _claimed(folder, recipe, config.training.resume, cluster) as run, ExitStack() as lent:
        if run.is_done:
            return run
        if not run.log.exists():
            config = with_settings(config, resume=False)  # nothing to go on with is no news
        if cluster.is_main:
            _write_ledger(run, ready)
        checkpoints = Checkpoints(run.checkpoints, config.watch.save_total_limit)
        method = get_method(config.method)
        measured = _as_begun(config, checkpoints)
        base = shelf.base(measured, ready, cluster.device, _needs(config, method, cluster))
        loaded, why_dtype = lent.enter_context(base)
        model: Any = loaded.model
        loss = set_up(model, method, ready, measured, cluster)
        notes = [*ready.notes, *_speed_notes(loaded, why_dtype), *_export_notes(config, method)]
        if config.training.fsdp != "none":
            notes.append(_divided(model, cluster))
        opened: list[Any] = []

        def all_sinks(resumed_step: int | None) -> list[Sink]:
            if not cluster.is_main:
                return []
            opened.extend(build_sinks(config.watch, run, resumed_step, leaf_values(config)))
            everyone = [*sinks, *opened]
            for text in notes:
                for sink in everyone:
                    sink(Notice(resumed_step or 0, "note", text))
            return everyone

        try:
            outcome = yield from training(
                model,
                trainable_parameters(model),
                ready.data.train,
                ready.data.validation,
                config,
                checkpoints,
                settings=_settings(ready, loaded),
                sinks=all_sinks,
                places=[example.source for example in ready.prepared.train],
                loss=loss,
                cluster=cluster,
            )
        finally:
            for sink in opened:
                sink.close()
        if cluster.is_main:
            _write_results(run, ready, loaded, method, outcome)
        cluster.wait()
    return run


def set_up(model: Any, method: Method, ready: Ready, config: Config, cluster: Cluster) -> Loss | None:
    """Make a loaded base what is trained. Returns the loss; None: the loop's own."""
    from oleaster.pipeline.aims import load_teacher, objective
    from oleaster.pipeline.heads import train_head

    method.attach(model.hub_model, config.seed)
    train_head(model, ready.head)
    model.gradient_checkpointing = config.training.gradient_checkpointing
    model.neftune_noise_alpha = config.training.neftune_noise_alpha
    return objective(ready.aim, config, ready.head, ready.data.train, load_teacher(config, cluster.device))


@contextmanager
def _claimed(folder: Path, recipe: str, resume: bool, cluster: Cluster) -> Iterator[Run]:
    """The main process takes the folder; the others of a distributed training go in when it has."""
    if cluster.is_main:
        with Run.claim(folder, recipe, resume=resume) as run:
            cluster.wait()
            yield run
    else:
        cluster.wait()
        yield Run(folder)


def _needs(config: Config, method: Method, cluster: Cluster) -> BaseNeeds:
    """How the base must be read for this method, divided over the processes or not.

    Raises: ConfigError when it is to be divided and there is one process.
    """
    from dataclasses import replace

    from oleaster.training.sharding import WHY_GENERIC

    if config.training.fsdp == "none":
        return method.needs
    if cluster.size == 1:
        remedy = "torchrun --nproc_per_node 2 -m oleaster finetune ..., or leave it out"
        raise ConfigError("one process has nobody to share the base with", where="fsdp", remedy=remedy)
    return replace(method.needs, generic=WHY_GENERIC)


def _divided(model: Any, cluster: Cluster) -> str:
    """Divide the base; says what came of it."""
    from oleaster.training.sharding import shard

    held, whole = shard(model, cluster)
    return f"of {whole / 1e6:,.1f} MB of weights each of {cluster.size} processes holds {held / 1e6:,.1f} MB"


def _as_begun(config: Config, checkpoints: Any) -> Config:
    """With the number type that a resumed training began with: another measurement may find another one faster."""
    from oleaster.config.load import replace as with_settings

    begun = checkpoints.last_settings().get("dtype") if config.training.resume else None
    return with_settings(config, dtype=begun.removeprefix("torch.")) if begun else config


def _settings(ready: Ready, loaded: LoadedModel) -> dict[str, Any]:
    """What a resumed run must have in common with the one it goes on with."""
    from oleaster.training.checkpoint import settings_that_matter
    from oleaster.training.order import Plan, hash_rows

    rows, held = ready.data.train, ready.data.validation
    return settings_that_matter(
        ready.config.model_dump(mode="json"),
        rows=hash_rows(rows),
        validation_rows=hash_rows(held),
        revision=ready.base.revision,
        dtype=str(loaded.dtype),
        total_steps=Plan.of(ready.config, len(rows), len(held)).total_steps,
    )


def _write_ledger(run: Run, ready: Ready) -> None:
    from oleaster.core.files import atomic_write_json

    atomic_write_json(run.ledger, ready.data.ledger.to_json())


def _write_results(run: Run, ready: Ready, loaded: LoadedModel, method: Any, outcome: Any) -> None:
    """Adapter, model, card, DONE."""
    from dataclasses import asdict

    from oleaster.config.load import leaf_values
    from oleaster.core.files import atomic_write_text
    from oleaster.methods import count
    from oleaster.models.card import model_card
    from oleaster.models.folder import write_companions, write_model_folder
    from oleaster.pipeline.heads import write_head_files

    model: Any = loaded.model
    config, base = ready.config, ready.base
    if method.saves_model:
        method.save(model.hub_model, run.model, base.source, base.revision)
        write_companions(base, run.model, {"dtype": "float32"})
    else:
        method.save(model.hub_model, run.adapter, base.source, base.revision)
        write_model_folder(base, run.model)
    write_head_files(run.model, run.adapter, base, ready.tokenizer, ready.head)
    trained, everything = count(model)
    summary = {
        **{name: value for name, value in asdict(outcome).items() if name != "best"},
        "best_step": outcome.best.step if outcome.best else None,
        "eval_loss": outcome.best.loss if outcome.best else None,
        "trained_parameters": trained,
        "parameters": everything,
        "base": base.source,
        "base_revision": base.revision,
        "dtype": str(loaded.dtype).removeprefix("torch."),
    }
    scores = []
    if outcome.best:
        per = "nats per token" if ready.aim is None else f"{ready.aim.name}, per {ready.aim.unit}"
        scores = [{"split": "validation", "metric": f"loss ({per})", "tuned": f"{outcome.best.loss:.4f}"}]
    settings = {k: v for k, v in leaf_values(config).items() if k not in ("data_files", "text_template", "labels")}
    card = model_card(
        base,
        name=config.task_name or run.folder.name,
        method=config.method.type,
        datasets=_dataset_names(config),
        settings=settings,
        ledger=ready.data.ledger.to_json(),
        scores=scores,
        prompt=_decoded_prompt(ready),
    )
    atomic_write_text(run.card, card)
    run.finish(summary)


def _dataset_names(config: Config) -> list[str]:
    return list(config.data.data_files or [config.data.data_name or ""])


def _decoded_prompt(ready: Ready) -> str:
    """The first training row's prompt as the model sees it."""
    return ready.tokenizer.decode(list(ready.data.train[0].prompt_ids))


def _speed_notes(loaded: LoadedModel, why_dtype: str) -> Iterator[str]:
    from oleaster.models.kernels import why_not_compiled
    from oleaster.models.nf4 import held_in_4_bits

    yield f"base weights in {str(loaded.dtype).removeprefix('torch.')}: {why_dtype}"
    if held := held_in_4_bits(loaded.model):
        yield held
    if loaded.why_generic:
        yield f"this model runs on transformers' code with padded rows, exact and slower: {loaded.why_generic}"
    elif reason := why_not_compiled():
        yield reason


def _export_notes(config: Config, method: Method) -> Iterator[str]:
    if method.no_export:
        yield f"{config.method.type} answers in torch only, auto-opt will refuse it: {method.no_export}"


@dataclass(frozen=True)
class Preview:
    """What a training would do."""

    ready: Ready
    total_steps: int
    steps_per_epoch: int
    warmup: int
    trained: int
    method: Method
    peak_mb: float
    """Memory estimate in MiB, by arithmetic."""

    def rows(self) -> list[tuple[str, str]]:
        """(what, how much) for printing."""
        config, ledger = self.ready.config, self.ready.data.ledger
        counts = [(what, f"{a:,} training, {b:,} validation") for what, a, b in ledger.rows()]
        return [
            ("base model", f"{self.ready.base.source} (revision {self.ready.base.revision})"),
            *counts,
            ("prompt of the first row", repr(_decoded_prompt(self.ready))),
            ("answer of the first row", repr(_decoded_answer(self.ready))),
            ("trained numbers", f"{self.trained:,}"),
            ("optimiser steps", f"{self.total_steps:,} ({self.steps_per_epoch:,} per epoch, {self.warmup} warm-up)"),
            ("memory, estimated", f"{self.peak_mb:,.0f} MB"),
            *(("note", note) for note in (*self.ready.notes, *_export_notes(config, self.method))),
            ("output", f"{config.output_path} (nothing was written)"),
        ]


def _decoded_answer(ready: Ready) -> str:
    row = ready.data.train[0]
    return ready.tokenizer.decode(list(row.input_ids[row.prompt_length :]))


def plan(config: Config) -> Preview:
    """What `finetune` would do: rows read, checked and encoded, steps counted, memory estimated; nothing written."""
    from oleaster.config.rules import TO_FINETUNE, check
    from oleaster.methods import get_method
    from oleaster.models.sanity import read_shapes
    from oleaster.training.optimizers import warmup_steps
    from oleaster.training.order import Plan

    check(config, TO_FINETUNE)
    ready = get_ready(config)
    training, rows = config.training, ready.data.train
    steps = Plan.of(ready.config, len(rows), len(ready.data.validation))
    shapes, _ = read_shapes(ready.base.folder)
    method = get_method(config.method)
    trained = method.trained_numbers(shapes)
    memory = estimated_memory(ready.config, ready, shapes, trained)
    warmup = warmup_steps(training, steps.total_steps)
    return Preview(ready, steps.total_steps, steps.steps_per_epoch, warmup, trained, method, memory / 2**20)


def estimated_memory(config: Config, ready: Ready, shapes: Mapping[str, tuple[int, ...]], trained: int) -> int:
    """Bytes at the peak of a step, by arithmetic (`models.memory`), of the batch of the longest rows."""
    from oleaster.data.batch import pack
    from oleaster.models.memory import estimate

    training = config.training
    longest = sorted(ready.data.train, key=lambda row: -len(row.input_ids))[: training.per_device_train_batch_size]
    return estimate(
        ready.base.config(),
        shapes,
        trained=trained,
        tokens=len(pack(longest).ids),
        longest=len(longest[0].input_ids),
        rank=getattr(config.method, "lora_r", 0),
        weight_bytes=2 if training.bf16 or config.model.dtype == "bfloat16" else 4,
        nf4=config.method.type == "qlora",
        optim=training.optim,
        gradient_checkpointing=training.gradient_checkpointing,
    ).total
