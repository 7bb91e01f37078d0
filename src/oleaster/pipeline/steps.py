"""The passes that come with Oleaster. Their settings are those of the recipe's sections that they read."""

from __future__ import annotations

from pathlib import Path

from oleaster.config.load import replace
from oleaster.core.errors import ConfigError
from oleaster.core.run import Run
from oleaster.pipeline.passes import Work, passes, traits

_TRAINING = ("", "model", "data", "method", "training", "watch")
_EXPORT = ("model", "data", "evaluation", "export")


@passes.register("finetune")
@traits(reads=_TRAINING, takes="base", makes="adapter", in_place=True)
def finetune(work: Work) -> Path:
    """Train on the newest model that is whole; after a kill go on from the last checkpoint."""
    from oleaster import pipeline

    begun = Run(work.output).checkpoints.is_dir()
    config = replace(work.config, model_name_or_path=work.base, output_path=work.output, resume=begun)
    return pipeline.finetune(config, [work.tell]).folder


@passes.register("search")
@traits(reads=(*_TRAINING, "evaluation", "export", "search_strategy"), takes="base", makes="adapter", in_place=True)
def search(work: Work) -> Path:
    """Train trials of the recipe's search_space on the newest model that is whole; the best one goes on."""
    from oleaster import pipeline
    from oleaster.search.folder import BEST

    config = replace(work.config, model_name_or_path=work.base, output_path=work.output, resume=True)
    return pipeline.run_search(config, work.tell).folder / BEST


@passes.register("merge")
@traits(reads=("model",), takes="torch")
def merge(work: Work) -> Path | str:
    """Add the adapter of the newest training into its base: a plain model folder in float32."""
    from oleaster.exporting.merge import merge as merge_weights
    from oleaster.models.source import resolve
    from oleaster.pipeline.loading import parts

    source, adapter = parts(work.torch, work.config)
    if adapter is None:
        work.tell(f"{work.torch} has no adapter: nothing is to be merged")
        return work.torch
    base = resolve(work.config.model.model_copy(update={"model_name_or_path": source}))
    merge_weights(base.folder, adapter, work.output)
    return work.output


@passes.register("export")
@passes.register("onnx")
@traits(reads=_EXPORT, takes="torch", makes="artifact")
def onnx(work: Work) -> Path:
    """Export for ONNX Runtime GenAI and prove that it answers the same; `precision` says how small."""
    from oleaster import pipeline

    recipe = work.run.recipe if work.run else None
    return pipeline.auto_opt(work.torch, work.config, work.output, on_progress=work.tell, recipe=recipe).folder


@passes.register("quantize")
@traits(reads=_EXPORT, takes="torch", makes="artifact")
def quantize(work: Work) -> Path | str:
    """Export once more, smaller: int8, int4, or (auto) the smallest whose quality holds.

    Quantised weights are made from the torch model and its rows, never from an export that was rounded before.
    """
    if work.config.export.precision == "fp32":
        raise ConfigError("fp32 is not quantised", where="passes.quantize.precision", remedy="int8, int4 or auto")
    return onnx(work)


@passes.register("evaluate")
@traits(reads=("model", "data", "evaluation"), takes="given", makes="nothing", in_place=True)
def evaluate(work: Work, *, base: bool = True) -> str:
    """Score the model as it is now; a training also against its base, unless `base` is false."""
    from oleaster import pipeline

    recipe = work.run.recipe if work.run else None
    work.tell(pipeline.evaluate(work.given, work.config, base, work.output, recipe=recipe))
    return work.given


@passes.register("generate-adapter")
@traits(reads=_EXPORT, takes="all", makes="artifact")
def generate_adapter(work: Work, *, adapters: list[str] | None = None) -> Path:
    """Export one base that carries the adapters of several trainings: of the steps named, or of all."""
    from oleaster import pipeline
    from oleaster.core.line import run_of

    trained = {name: path for name, path in work.made.items() if (run := run_of(path)) and run.adapter.is_dir()}
    wrong = [name for name in adapters or () if name not in trained]
    if wrong or not trained:
        found = f"no step before this one trained {', '.join(wrong)}" if wrong else "no step before this one trains"
        raise ConfigError(found, where="passes.generate-adapter", remedy=f"trained: {', '.join(trained) or 'none'}")
    chosen = [Path(trained[name]) for name in adapters or trained]
    return pipeline.generate_adapter(chosen, work.config, work.output, on_progress=work.tell).folder
