"""What is trained: one file per method, entered in the table `methods`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from oleaster.core.errors import ConfigError, ModelError
from oleaster.methods.adapter_files import read_config
from oleaster.methods.full import Full
from oleaster.methods.lora import Lora, is_plain_lora
from oleaster.methods.method import Method, count, methods, trainable_parameters
from oleaster.methods.peft_method import TYPES, PeftMethod
from oleaster.methods.qlora import Qlora

__all__ = ["Method", "attach_saved", "count", "get_method", "methods", "saved_method", "trainable_parameters"]

methods.register("lora")(lambda config: (PeftMethod if config.use_dora else Lora).from_config(config))
methods.register("qlora")(Qlora.from_config)
methods.register("full")(Full.from_config)
for _name in TYPES:
    if _name != "dora":  # that is lora, with a setting
        methods.register(_name)(PeftMethod.from_config)


def get_method(config: Any) -> Method:
    """The method that a recipe's `method` section describes. Raises: ConfigError for an unknown `type`."""
    return methods.get(config.type)(config)


def saved_method(folder: Path) -> Method:
    """The method that wrote an adapter folder. Raises: ModelError when it is no adapter, or one we cannot attach."""
    return (Lora if is_plain_lora(read_config(folder)) else PeftMethod).from_folder(folder)


def attach_saved(model: nn.Module, folder: Path) -> Method:
    """Attach an adapter folder to a plain model, ready to answer or to merge. Raises: ModelError."""
    method = saved_method(folder)
    try:
        method.attach(model, seed=0)
    except ConfigError as error:
        raise ModelError(f"the adapter does not fit this model: {error}", where=str(folder)) from error
    method.load(model, folder)
    return method
