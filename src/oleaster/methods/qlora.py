"""QLoRA: LoRA over a base whose linear layers are rounded to 4 bits, NF4 (Dettmers et al. 2023).

The rounded numbers are held in the type that is computed with, so the fast engine trains over them: the frozen base
is that of QLoRA, the memory is that of LoRA. The adapter is a plain LoRA; asking, merging and exporting put it on the
full-precision base, never into 4 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from oleaster.methods.lora import Lora
from oleaster.methods.targets import head_path, linear_modules
from oleaster.models.nf4 import round_to_nf4


@dataclass(frozen=True)
class Qlora(Lora):
    """LoRA over an NF4 base."""

    def attach(self, model: nn.Module, seed: int) -> None:
        """As `Lora.attach`, with every frozen linear layer but the head rounded. Raises: as `Lora.attach`."""
        head, layers = head_path(model), linear_modules(model)
        super().attach(model, seed)
        for path, layer in layers.items():
            weight = layer.weight
            if path != head and isinstance(weight, nn.Parameter) and not weight.requires_grad:
                # a new parameter: the numbers of a base that others share stay
                layer.weight = nn.Parameter(round_to_nf4(weight), requires_grad=False)
