"""A frozen linear layer with a low-rank update beside it."""

from __future__ import annotations

import math
from itertools import chain
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D


class Start(NamedTuple):
    """A and B as they began, where B A was not zero; neither is ever changed."""

    a: torch.Tensor
    """[r, in], float32"""
    b: torch.Tensor
    """[out, r], float32"""


class LoraLinear(nn.Module):
    """y = W x + scaling * B A x; stands at the path where the layer stood.

    `forward` is the reference. The training engine's fused path reads `base`, `lora_A`, `lora_B`, `scaling` and
    `dropout` instead of calling it.
    """

    def __init__(
        self, base: nn.Module, rank: int, scaling: float, dropout: float, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        out_features, in_features = shape_of(base)
        self.base = base
        self.lora_A = nn.Parameter(torch.empty(rank, in_features))
        """[r, in], float32"""
        self.lora_B = nn.Parameter(torch.zeros(out_features, rank))
        """[out, r], float32; zeros, so that the model starts as the base"""
        self.start: Start | None = None
        self.scaling = scaling
        self.dropout = dropout
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5), generator=generator)
        self.to(next(chain(base.parameters(), base.buffers())).device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out] in the dtype of `x`."""
        dropped = functional.dropout(x, self.dropout, self.training)
        inner = functional.linear(dropped, self.lora_A.to(x.dtype))
        return self.base(x) + self.scaling * functional.linear(inner, self.lora_B.to(x.dtype))

    def delta(self) -> torch.Tensor:
        """The update of the weight, [out, in] in float32."""
        return self.scaling * (self.lora_B.detach().float() @ self.lora_A.detach().float())

    def extra_repr(self) -> str:
        return f"r={self.lora_A.shape[0]}, scaling={self.scaling:g}, dropout={self.dropout:g}"


def plain_update(layer: LoraLinear) -> tuple[torch.Tensor, torch.Tensor]:
    """A [R, in] and B [out, R] of what was learned: the update of the hub's own weight.

    R is r, or 2 r where the update did not begin at zero: B A - B0 A0 as one product. (So PEFT converts such adapters.)
    """
    if layer.start is None:
        return layer.lora_A, layer.lora_B
    a, b = layer.start
    return torch.cat([layer.lora_A, a]), torch.cat([layer.lora_B, -b], dim=1)


def shape_of(layer: nn.Module) -> tuple[int, int]:
    """(outputs, inputs)"""
    if isinstance(layer, Conv1D):
        return layer.weight.shape[1], layer.weight.shape[0]
    return layer.out_features, layer.in_features  # type: ignore[return-value]


def is_transposed(layer: nn.Module) -> bool:
    """Is the weight stored as [in, out]?"""
    return isinstance(layer, Conv1D) or getattr(layer, "transposed", False)


def weight_of(layer: nn.Module) -> nn.Parameter:
    """[out, in] of a Linear, [in, out] of a Conv1D."""
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    return weight
