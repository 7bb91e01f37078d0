"""What is trained: one file per method, entered in the table `methods`."""

from __future__ import annotations

from typing import Any

from oleaster.methods.full import Full
from oleaster.methods.lora import Lora
from oleaster.methods.method import Method, count, methods, trainable_parameters

__all__ = ["Method", "count", "get_method", "methods", "trainable_parameters"]

methods.register("lora")(Lora.from_config)
methods.register("full")(Full.from_config)


def get_method(config: Any) -> Method:
    """The method that a recipe's `method` section describes. Raises: ConfigError for an unknown `type`."""
    return methods.get(config.type)(config)
