"""A run, model folder, hub id or .gguf file as a torch model, its adapter attached."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from oleaster.config.load import RECIPE_NAME
from oleaster.config.schema import Config
from oleaster.core.artifact import Artifact
from oleaster.core.errors import ConfigError
from oleaster.core.line import run_of
from oleaster.core.machine import usable_cores

if TYPE_CHECKING:
    from oleaster.data.papers import Head
    from oleaster.inference.predictor import Predictor
    from oleaster.models.folder import ModelFolder
    from oleaster.models.loaded import BaseNeeds, LoadedModel


def load_base(
    config: Config,
    base: ModelFolder,
    tokenizer: Any,
    device: Any = None,
    needs: BaseNeeds | None = None,
    head: Head | None = None,
) -> tuple[LoadedModel, str]:
    """The base with its weights read, and why it has the number type it has.

    Args:
        needs: of what is to be attached; default: none.
        head: what answers in the place of the vocabulary.
    """
    import torch

    from oleaster.models.load import load_weights
    from oleaster.models.loaded import BaseNeeds, LoadedModel
    from oleaster.models.precision import choose_dtype
    from oleaster.models.tokenizer import stop_ids

    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts = base.config()
    wanted = "bfloat16" if config.training.bf16 else config.model.dtype
    needs = needs or BaseNeeds()
    dtype, why = choose_dtype(wanted, facts, device)
    if needs.trained:
        dtype, why = torch.float32, "what is trained is float32"
    model, why_generic = load_weights(base.folder, dtype, config.model.trust_remote_code, head, config.seed, needs)
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

    torch.set_num_threads(config.training.num_threads or usable_cores())


def recipe_of(path: Path | str, adapter: str | None = None) -> Path | None:
    """The recipe of the run that `path` belongs to, or the one that an artifact (or an adapter in it) carries."""
    if (run := run_of(path)) is not None:
        return run.recipe
    carried = Path(path) / (f"adapters/{adapter}.yaml" if adapter else RECIPE_NAME)
    return carried if Artifact.is_artifact(Path(path)) and carried.is_file() else None


def refuse_adapter(path: Path | str, adapter: str | None) -> None:
    """Raises: ConfigError when an adapter is named beside something that carries none."""
    if adapter is not None:
        message = f"{path} is no exported base with adapters"
        raise ConfigError(message, where="--adapter", remedy="oleaster generate-adapter makes one; a run has its own")


def load_tuned(path: Path | str, config: Config, head: Head | None = None) -> LoadedModel:
    """The base of a run with its head and its adapter; or a plain model."""
    base, adapter = parts(path, config)
    loaded = load_part(base, config, adapter, head)
    if adapter is not None:
        attach(loaded, adapter)
    return loaded


def parts(path: Path | str, config: Config) -> tuple[str, Path | None]:
    """(what to load as the base, adapter folder or None) of a run, its `model` or `adapter`, or any other model.

    Raises: ConfigError when the run is not finished.
    """
    run = run_of(path)
    if run is None:
        return str(path), None
    if not run.is_done:
        remedy = f"oleaster finetune --output_path {quote(str(run.folder))} --resume"
        raise ConfigError("the run is not finished", where=str(run.folder), remedy=remedy)
    return str(run.model), (run.adapter if run.adapter.is_dir() and Path(path).name != "model" else None)


def load_artifact(path: Path | str, config: Config, adapter: str | None = None) -> tuple[Predictor, Any]:
    """What runs an artifact, and the tokenizer that lies in it.

    A .gguf file without llama-cpp-python on this machine is unpacked and answers through torch.

    Raises: ModelError when the artifact is damaged; ConfigError for an adapter beside a kind that has none.
    """
    from oleaster.models.tokenizer import load_tokenizer

    folder = Path(path)
    kind, threads = Artifact.kind_of(folder), config.training.num_threads
    if kind == "onnx-genai":
        from oleaster.inference.onnx_predictor import OnnxPredictor

        return OnnxPredictor(folder, adapter, threads=threads), load_tokenizer(folder)
    refuse_adapter(path, adapter)
    if kind == "gguf":
        from oleaster.inference.llama_cpp_predictor import FILE, LlamaCppPredictor, llama_cpp_is_there

        if llama_cpp_is_there():
            return LlamaCppPredictor(folder, threads=threads), load_tokenizer(folder)
        path = folder / FILE
    from oleaster.inference.torch_predictor import TorchPredictor

    use_threads(config)
    loaded = load_part(str(path), config)
    return TorchPredictor(loaded, folder.name), loaded.tokenizer


def load_part(source: str, config: Config, adapter: Path | None = None, head: Head | None = None) -> LoadedModel:
    """A model without an adapter, checked before its weights are read. Raises: ModelError.

    Args:
        adapter: what will be attached to it.
    """
    from oleaster.methods import saved_method
    from oleaster.models.sanity import check
    from oleaster.models.source import resolve
    from oleaster.models.tokenizer import load_tokenizer

    base = resolve(config.model.model_copy(update={"model_name_or_path": source}))
    tokenizer = load_tokenizer(base.folder, config.model.trust_remote_code)
    check(base, tokenizer, config.model.trust_remote_code)
    needs = saved_method(adapter).needs if adapter else None
    return load_base(config, base, tokenizer, needs=needs, head=head)[0]


def attach(loaded: LoadedModel, adapter: Path) -> None:
    """Put a saved adapter onto a loaded base, in place."""
    from oleaster.methods import attach_saved

    model: Any = loaded.model
    attach_saved(model.hub_model, adapter)
    model.eval()
