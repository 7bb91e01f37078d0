"""What a fine-tuning method is: four verbs over any torch model, and the table they are entered in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from oleaster.core.registry import Registry
from oleaster.models.loaded import BaseNeeds
from oleaster.models.nf4 import Nf4Linear


class Method(Protocol):
    """One way to change a model.

    The trained tensors are exactly the parameters with `requires_grad`; they are float32 whatever the base is.
    """

    @property
    def needs(self) -> BaseNeeds:
        """How the base must be read."""
        ...

    @property
    def saves_model(self) -> bool:
        """True when `save` writes the weights of a whole model instead of an adapter."""
        ...

    @property
    def no_export(self) -> str | None:
        """Why what it makes cannot be exported for ONNX Runtime; None when it can."""
        ...

    def trained_numbers(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """How many numbers would be trained on a base with these tensors (name -> shape); for estimates."""
        ...

    def attach(self, model: nn.Module, seed: int) -> None:
        """Freeze the base and add what is trained. At the start the model computes what it did before."""
        ...

    def merge(self, model: nn.Module) -> None:
        """Fold what was trained into plain weights, in place. Only on a full-precision base."""
        ...

    def save(self, model: nn.Module, folder: Path, base: str, revision: str) -> None:
        """Write what was trained: an adapter in PEFT's layout, or a model's weights in the hub's."""
        ...

    def load(self, model: nn.Module, folder: Path) -> None:
        """Read what `save` wrote into an attached model."""
        ...


methods: Registry[Callable[[Any], Method]] = Registry("method")
"""By the word in `method.type`: a function from that section of the config to a Method."""


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained, by name, in the model's order. A tied parameter appears once, under its first name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def count(model: nn.Module) -> tuple[int, int]:
    """(trained, all) numbers in the model's parameters; a tied one counts once, one held in 4 bits as any other."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    packed = sum(m.out_features * m.in_features for m in model.modules() if isinstance(m, Nf4Linear))
    return sum(n for n, trained in sizes if trained), packed + sum(n for n, _ in sizes)
