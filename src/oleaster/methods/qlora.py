"""QLoRA: LoRA over a base whose linear layers are held in 4 bits, NF4 (Dettmers et al. 2023).

Each product makes its weight anew from the codes, forward and back (`models/nf4.py`), in the training engine as in
transformers' code. The adapter is a plain LoRA; asking, merging and exporting put it on the full-precision base, never
into 4 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from oleaster.config.methods import ZERO_STARTS
from oleaster.methods.lora import Lora
from oleaster.methods.lora_layer import is_transposed, weight_of
from oleaster.methods.targets import head_path, linear_modules
from oleaster.models.loaded import BaseNeeds
from oleaster.models.nf4 import Nf4Linear


@dataclass(frozen=True)
class Qlora(Lora):
    """LoRA over an NF4 base."""

    @property
    def needs(self) -> BaseNeeds:
        trained = bool(self.modules_to_save)
        return BaseNeeds(trained=trained, nf4=not trained and self.init in ZERO_STARTS)

    def attach(self, model: nn.Module, seed: int) -> None:
        """As `Lora.attach`, with every frozen linear layer but the head in 4 bits. Raises: as `Lora.attach`."""
        head = head_path(model)
        super().attach(model, seed)
        for path, layer in linear_modules(model).items():
            if isinstance(layer, Nf4Linear) or path in (head, f"{head}.base") or weight_of(layer).requires_grad:
                continue
            packed = Nf4Linear(weight_of(layer), layer.bias, is_transposed(layer))  # type: ignore[arg-type]
            model.set_submodule(path, packed.train(layer.training))
