"""The story: rows and a base model go in, a run that answers comes out.

Each function takes the typed `Config` and calls one room after the other; the rooms are imported inside, so that
`--help` stays quick and an artifact answers on a machine without torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oleaster.config.schema import Config
from oleaster.core.errors import ConfigError, DataError
from oleaster.core.run import Run

if TYPE_CHECKING:
    from oleaster.data.encode import EncodedData
    from oleaster.data.papers import Encoded, Example, Message
    from oleaster.data.prepare import Prepared
    from oleaster.evaluation.report import Report
    from oleaster.inference.predictor import Completion, Predictor, Sampling
    from oleaster.models.folder import ModelFolder
    from oleaster.models.loaded import LoadedModel
    from oleaster.training.reports import Sink


@dataclass(frozen=True)
class Ready:
    """Everything checked that can be checked before weights are read."""

    config: Config
    """With the shape of the rows and the use of the chat template decided."""
    base: ModelFolder
    tokenizer: Any
    prepared: Prepared
    data: EncodedData

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self.prepared.notes, *self.data.notes)


def get_ready(config: Config) -> Ready:
    """Find the base model, read and encode the rows. Raises: ConfigError, DataError, ModelError; nothing is written."""
    from oleaster.core.plugins import load_plugins
    from oleaster.data.encode import encode_all
    from oleaster.data.prepare import prepare
    from oleaster.models.sanity import check
    from oleaster.models.source import resolve
    from oleaster.models.tokenizer import load_tokenizer

    load_plugins(config.plugins)
    prepared = prepare(config.data, config.seed)
    base = resolve(config.model)
    tokenizer = load_tokenizer(base.folder, config.model.trust_remote_code)
    check(base, tokenizer, config.model.trust_remote_code)
    data = encode_all(prepared, tokenizer)
    return Ready(config.model_copy(update={"data": data.config}), base, tokenizer, prepared, data)


def finetune(config: Config, sinks: Sequence[Sink] = ()) -> Run:
    """Train an adapter (or the whole model) and write the run's folder, `DONE` last.

    Args:
        sinks: called with every `StepReport`, `EvalReport` and `Notice`, beside the log and TensorBoard.

    Raises:
        UserError: something in recipe, rows or model is wrong; nothing has been written.
        RunError: training stopped half way; `training.resume` goes on from its last checkpoint.
    """
    from oleaster.config.load import recipe_text
    from oleaster.config.load import replace as with_settings
    from oleaster.config.rules import TO_FINETUNE, check
    from oleaster.methods import get_method, trainable_parameters
    from oleaster.training.checkpoint import Checkpoints
    from oleaster.training.cluster import Cluster
    from oleaster.training.loop import train
    from oleaster.training.reports import Notice
    from oleaster.training.sinks import build_sinks

    if config.output_path is None:
        raise ConfigError("not given: the folder of the run", where="output_path", remedy="--output_path runs/first")
    check(config, TO_FINETUNE)
    use_threads(config)
    ready = get_ready(config)
    config, folder = ready.config, config.output_path
    recipe = recipe_text(with_settings(config, resume=False))
    with Run.claim(folder, recipe, resume=config.training.resume) as run:
        if run.is_done:
            return run
        _write_ledger(run, ready)
        cluster = Cluster.join()
        method = get_method(config.method)
        loaded, why_dtype = load_base(config, ready.base, ready.tokenizer, cluster.device, whole=method.trains_base)
        model: Any = loaded.model
        method.attach(model.hub_model, config.seed)
        model.gradient_checkpointing = config.training.gradient_checkpointing
        model.neftune_noise_alpha = config.training.neftune_noise_alpha
        checkpoints = Checkpoints(run.checkpoints, config.watch.save_total_limit)
        opened: list[Any] = []

        def all_sinks(resumed_step: int | None) -> list[Sink]:
            opened.extend(build_sinks(config.watch, run, resumed_step))
            everyone = [*sinks, *opened]
            for text in (*ready.notes, *_speed_notes(loaded, why_dtype)):
                for sink in everyone:
                    sink(Notice(resumed_step or 0, "note", text))
            return everyone

        try:
            outcome = train(
                model,
                trainable_parameters(model),
                ready.data.train,
                ready.data.validation,
                config,
                checkpoints,
                settings=_settings(ready, loaded),
                sinks=all_sinks,
                places=[example.source for example in ready.prepared.train],
                cluster=cluster,
            )
        finally:
            for sink in opened:
                sink.close()
        if cluster.is_main:
            _write_results(run, ready, loaded, method, outcome)
        cluster.wait()
    return run


def _settings(ready: Ready, loaded: LoadedModel) -> dict[str, Any]:
    """What a resumed run must have in common with the one it goes on with."""
    from oleaster.training.checkpoint import settings_that_matter
    from oleaster.training.loop import Plan, hash_rows

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

    model: Any = loaded.model
    config, base = ready.config, ready.base
    if method.trains_base:
        method.save(model.hub_model, run.model, base.source, base.revision)
        write_companions(base, run.model, {"dtype": "float32"})
    else:
        method.save(model.hub_model, run.adapter, base.source, base.revision)
        write_model_folder(base, run.model)
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
        scores = [{"split": "validation", "metric": "loss (nats per token)", "tuned": f"{outcome.best.loss:.4f}"}]
    settings = {k: v for k, v in leaf_values(config).items() if k not in ("data_files", "text_template")}
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

    yield f"base weights in {str(loaded.dtype).removeprefix('torch.')}: {why_dtype}"
    if loaded.why_generic:
        yield f"this model runs on transformers' code with padded rows, exact and slower: {loaded.why_generic}"
    elif reason := why_not_compiled():
        yield reason


def load_base(
    config: Config, base: ModelFolder, tokenizer: Any, device: Any = None, *, whole: bool = False
) -> tuple[LoadedModel, str]:
    """The base with its weights read, and why it has the number type it has.

    Args:
        whole: weights of the base are trained, so they are float32.
    """
    import torch

    from oleaster.models.load import load_weights
    from oleaster.models.loaded import LoadedModel
    from oleaster.models.precision import choose_dtype
    from oleaster.models.tokenizer import stop_ids

    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts = base.config()
    wanted = "bfloat16" if config.training.bf16 else config.model.dtype
    dtype, why = (torch.float32, "what is trained is float32") if whole else choose_dtype(wanted, facts, device)
    model, why_generic = load_weights(base.folder, dtype, config.model.trust_remote_code)
    loaded = LoadedModel(
        model=model.to(device),
        tokenizer=tokenizer,
        folder=base.folder,
        source=base.source,
        revision=base.revision,
        dtype=dtype,
        stop_ids=stop_ids(base.folder, tokenizer),
        context=facts.get("max_position_embeddings"),
        why_generic=why_generic,
    )
    return loaded, why


def use_threads(config: Config) -> None:
    """Give torch the CPU threads that the config asks for, else every core this process may use."""
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(config.training.num_threads or usable)


@dataclass(frozen=True)
class Preview:
    """What a training would do."""

    ready: Ready
    total_steps: int
    steps_per_epoch: int
    warmup: int
    trained: int
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
            *(("note", note) for note in self.ready.notes),
            ("output", f"{config.output_path} (nothing was written)"),
        ]


def _decoded_answer(ready: Ready) -> str:
    row = ready.data.train[0]
    return ready.tokenizer.decode(list(row.input_ids[row.prompt_length :]))


def plan(config: Config) -> Preview:
    """What `finetune` would do: rows read, checked and encoded, steps counted, memory estimated; nothing written."""
    from oleaster.config.rules import TO_FINETUNE, check
    from oleaster.data.batch import pack
    from oleaster.methods import get_method
    from oleaster.models.memory import estimate
    from oleaster.models.sanity import read_shapes
    from oleaster.training.loop import Plan
    from oleaster.training.optimizers import warmup_steps

    check(config, TO_FINETUNE)
    ready = get_ready(config)
    training, rows = config.training, ready.data.train
    steps = Plan.of(ready.config, len(rows), len(ready.data.validation))
    shapes, _ = read_shapes(ready.base.folder)
    trained = get_method(config.method).trained_numbers(shapes)
    longest = sorted(rows, key=lambda row: -len(row.input_ids))[: training.per_device_train_batch_size]
    memory = estimate(
        ready.base.config(),
        shapes,
        trained=trained,
        tokens=len(pack(longest).ids),
        longest=len(longest[0].input_ids),
        rank=getattr(config.method, "lora_r", 0),
        weight_bytes=2 if training.bf16 or config.model.dtype == "bfloat16" else 4,
        optim=training.optim,
        gradient_checkpointing=training.gradient_checkpointing,
    )
    warmup = warmup_steps(training, steps.total_steps)
    return Preview(ready, steps.total_steps, steps.steps_per_epoch, warmup, trained, memory.total / 2**20)


@dataclass(frozen=True)
class Assistant:
    """A model that answers people: rendering, generation and decoding in one."""

    predictor: Predictor
    tokenizer: Any
    config: Config

    def answer(
        self,
        prompt: str | Sequence[Message] | Mapping[str, str],
        sampling: Sampling | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Completion:
        """The answer to a text, to the columns of a template, or to a conversation.

        Args:
            on_text: called with each new piece of the answer as it comes.
        """
        from oleaster.data.encode import encode_prompt
        from oleaster.inference.predictor import Sampling

        ids = encode_prompt(prompt, self.tokenizer, self.config.data)
        sampling = sampling or Sampling(self.config.evaluation.max_new_tokens)
        stream = _stream(self.tokenizer, on_text) if on_text else None
        return self.predictor.generate([ids], sampling, stream)[0]


def _stream(tokenizer: Any, on_text: Callable[[str], None]) -> Callable[[int, int], None]:
    """Decode token by token; a character that several tokens make up is held back until it is whole."""
    ids: list[int] = []
    shown = ""

    def on_token(_: int, token: int) -> None:
        nonlocal shown
        ids.append(token)
        text = tokenizer.decode(ids, skip_special_tokens=True)
        if not text.endswith("\ufffd") and len(text) > len(shown):
            on_text(text[len(shown) :])
            shown = text

    return on_token


def load(path: Path | str, config: Config = Config()) -> Assistant:
    """A run, model folder, hub id, .gguf file or artifact, ready to answer.

    Args:
        config: for what a run's own recipe does not decide (threads, number type, sampling length).
    """
    from oleaster.core.artifact import Artifact

    run = run_of(path)
    if run is not None:
        config = _with_recipe_of(run, config)
    if Artifact.is_artifact(Path(path)):
        from oleaster.inference.onnx_predictor import OnnxPredictor
        from oleaster.models.tokenizer import load_tokenizer

        return Assistant(OnnxPredictor(Path(path)), load_tokenizer(Path(path)), config)
    from oleaster.inference.torch_predictor import TorchPredictor

    use_threads(config)
    loaded = load_tuned(path, config)
    return Assistant(TorchPredictor(loaded, str(path)), loaded.tokenizer, config)


def run_of(path: Path | str) -> Run | None:
    """The run that `path` is the folder of, or the `model` or `adapter` in."""
    folder = Path(path)
    return next((Run(f) for f in (folder, folder.parent) if Run.is_run(f)), None)


def _with_recipe_of(run: Run, config: Config) -> Config:
    """`config` with the rows' shape of the run, so that a prompt is rendered as in training."""
    from oleaster.config.load import load_config

    recipe = load_config(run.recipe)
    named = config.data.system_prompt
    data = recipe.data if named is None else recipe.data.model_copy(update={"system_prompt": named})
    return config.model_copy(update={"data": data})


def load_tuned(path: Path | str, config: Config) -> LoadedModel:
    """The base of a run with its adapter attached; or a plain model."""
    base, adapter = _parts(path, config)
    loaded = _load_part(base, config)
    if adapter is not None:
        _attach(loaded, adapter)
    return loaded


def _parts(path: Path | str, config: Config) -> tuple[str, Path | None]:
    """(what to load as the base, adapter folder or None)"""
    run = run_of(path)
    if run is None:
        return str(path), None
    if not run.is_done:
        remedy = f"oleaster finetune --output_path {run.folder} --resume"
        raise ConfigError("the run is not finished", where=str(run.folder), remedy=remedy)
    return str(run.model), (run.adapter if run.adapter.is_dir() and Path(path).name != "model" else None)


def _load_part(source: str, config: Config) -> LoadedModel:
    from oleaster.models.sanity import check
    from oleaster.models.source import resolve
    from oleaster.models.tokenizer import load_tokenizer

    base = resolve(config.model.model_copy(update={"model_name_or_path": source}))
    tokenizer = load_tokenizer(base.folder, config.model.trust_remote_code)
    check(base, tokenizer, config.model.trust_remote_code)
    return load_base(config, base, tokenizer)[0]


def _attach(loaded: LoadedModel, adapter: Path) -> None:
    from oleaster.methods.lora import attach_saved

    model: Any = loaded.model
    attach_saved(model.hub_model, adapter)
    model.eval()


def evaluate(path: Path | str, config: Config, base: bool = True, output: Path | None = None) -> list[Report]:
    """Score a run, model or artifact on rows; a run also against its base.

    The rows are those that `config.data` names; for a run whose recipe names the same, its held-out rows.

    Args:
        base: score the base as well, first.
        output: folder for the reports and predictions; default: `predictions` of a run.
    """
    from oleaster.core.artifact import Artifact
    from oleaster.core.plugins import load_plugins
    from oleaster.evaluation.evaluate import evaluate as score
    from oleaster.inference.torch_predictor import TorchPredictor

    load_plugins(config.plugins)
    run = run_of(path)
    if run is not None and output is None:
        output = run.predictions

    def scored(predictor: Predictor, folder: str) -> Report:
        where = None if output is None else output / folder
        return score(predictor, examples, encoded, config.evaluation, where)

    if Artifact.is_artifact(Path(path)):
        from oleaster.inference.onnx_predictor import OnnxPredictor
        from oleaster.models.tokenizer import load_tokenizer

        examples, encoded = _rows_to_score(config, load_tokenizer(Path(path)), run)
        return [scored(OnnxPredictor(Path(path), name=Path(path).name), "artifact")]
    use_threads(config)
    source, adapter = _parts(path, config)
    loaded = _load_part(source, config)
    examples, encoded = _rows_to_score(config, loaded.tokenizer, run)
    reports = [scored(TorchPredictor(loaded, "base"), "base")] if adapter is None or base else []
    if adapter is not None:
        _attach(loaded, adapter)
        reports.append(scored(TorchPredictor(loaded, "tuned"), "tuned"))
    return reports


def _rows_to_score(config: Config, tokenizer: Any, run: Run | None) -> tuple[Sequence[Example], list[Encoded]]:
    from oleaster.config.load import load_config
    from oleaster.data.encode import encode
    from oleaster.data.prepare import prepare, read_test_rows

    data = config.data
    recipe = load_config(run.recipe) if run is not None else None
    if recipe is not None and _names_rows(recipe.data) == _names_rows(data):
        examples = prepare(recipe.data, recipe.seed).validation
        if not examples:
            raise DataError(
                "the run held no rows out",
                where=str(run.folder) if run else None,
                remedy="name test rows: -d test.jsonl",
            )
    else:
        names = data.data_files or [data.data_name or ""]
        examples = tuple(e for name in names for e in read_test_rows(data, name, data.eval_split))
    return examples, encode(examples, tokenizer, data, every_turn=False)[0]


def _names_rows(data: Any) -> tuple[Any, ...]:
    return data.data_name, tuple(data.data_files or ()), data.eval_split, tuple(data.eval_data_files or ())
