"""A base model lent to a method and given back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """When the block ends, however it ends, `model` has the modules, parameters, hooks and attributes it had before.

    For methods that add to a model or put modules in the place of others. The numbers in its tensors are not copied:
    a method that changes the base's own weights (`needs.trained`) needs a base of its own.
    """
    before = [(module, _copy(module)) for module in model.modules()]
    learned = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for module, attributes in before:
            module.__dict__.clear()
            module.__dict__.update(attributes)
        for parameter, requires_grad in learned:
            parameter.requires_grad_(requires_grad)
            parameter.grad = None


def _copy(module: nn.Module) -> dict[str, object]:
    """The attributes of a module; its tables of children, parameters, buffers and hooks as tables of their own."""
    return {name: value.copy() if isinstance(value, dict) else value for name, value in vars(module).items()}
