"""Oleaster adapts small language models to a task and takes them to production on ONNX Runtime.

    from oleaster import Config, finetune, load, load_config

    run = finetune(load_config("recipe.yaml"))
    print(load(run.folder).answer("Where is my parcel?").text)

Names are imported when they are first used, so that `import oleaster` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oleaster.config.load import load_config, replace, save_config
    from oleaster.config.schema import Config
    from oleaster.core.errors import OleasterError, UserError
    from oleaster.core.run import Run
    from oleaster.inference.predictor import Completion, Sampling
    from oleaster.pipeline import (
        auto_opt,
        evaluate,
        evaluate_model,
        finetune,
        finetune_together,
        forecast,
        generate_adapter,
        load,
        plan,
        run_search,
        verify,
    )

    __version__: str

__all__ = [
    "Completion",
    "Config",
    "OleasterError",
    "Run",
    "Sampling",
    "UserError",
    "__version__",
    "auto_opt",
    "evaluate",
    "evaluate_model",
    "finetune",
    "finetune_together",
    "forecast",
    "generate_adapter",
    "load",
    "load_config",
    "plan",
    "replace",
    "run_search",
    "save_config",
    "verify",
]

_HOMES = {
    "Completion": "inference.predictor",
    "Config": "config.schema",
    "OleasterError": "core.errors",
    "Run": "core.run",
    "Sampling": "inference.predictor",
    "UserError": "core.errors",
    "auto_opt": "pipeline",
    "evaluate": "pipeline",
    "evaluate_model": "pipeline",
    "finetune": "pipeline",
    "finetune_together": "pipeline",
    "forecast": "pipeline",
    "generate_adapter": "pipeline",
    "load": "pipeline",
    "load_config": "config.load",
    "plan": "pipeline",
    "replace": "config.load",
    "run_search": "pipeline",
    "save_config": "config.load",
    "verify": "pipeline",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("oleaster")
    if name not in _HOMES:
        raise AttributeError(f"module 'oleaster' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"oleaster.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
