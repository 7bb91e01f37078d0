"""What a fine-tuning method is: four verbs over any torch model."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torch import nn


class Method(Protocol):
    """One way to change a model. Entries of the registry `methods` are instances.

    The trained tensors are exactly the parameters with `requires_grad`; they are float32 whatever the base is.
    """

    def attach(self, model: nn.Module, seed: int) -> None:
        """Freeze the base and add what is trained. At the start the model computes what it did before."""
        ...

    def merge(self, model: nn.Module) -> None:
        """Fold what was trained into plain weights, in place. Only on a full-precision base."""
        ...

    def save(self, model: nn.Module, folder: Path, base: str, revision: str) -> None:
        """Write what was trained, in PEFT's layout."""
        ...

    def load(self, model: nn.Module, folder: Path) -> None:
        """Read what `save` wrote into an attached model."""
        ...
