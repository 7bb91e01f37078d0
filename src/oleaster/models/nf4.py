"""NF4: weights rounded to sixteen quantiles of the normal distribution, one scale per 64 (Dettmers et al. 2023,
https://arxiv.org/abs/2305.14314). The numbers and the bytes of bitsandbytes with float32 scales."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oleaster.models import kernels

BLOCK = 64
"""Weights that share a scale, along a row of the stored matrix."""


def pack_nf4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes, two to a byte (the first one in the higher bits), and scales [blocks] float32. The last block is filled up
    with zeros."""
    return kernels.nf4_codes(weight.detach().flatten(), BLOCK)


def round_to_nf4(weight: Tensor) -> Tensor:
    """`weight` with each number at the nearest level times its block's largest magnitude; same shape and type."""
    codes, scales = pack_nf4(weight)
    numbers = kernels.nf4_numbers(codes, scales, weight.new_empty(2 * len(codes)))
    return numbers[: weight.numel()].view(weight.shape)


class Nf4Linear(nn.Module):
    """A frozen linear layer whose weight is held in 4 bits and made anew for each product."""

    codes: Tensor
    scales: Tensor
    _desk: dict[tuple[torch.dtype, torch.device], Tensor] = {}
    """Where all layers make their weights."""

    def __init__(self, weight: Tensor, bias: nn.Parameter | None, transposed: bool = False) -> None:
        """
        Args:
            weight: [out, in], or `transposed` [in, out], which is rounded as it is stored (GPT-2's Conv1D).
        """
        super().__init__()
        codes, scales = pack_nf4(weight)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.bias, self.transposed, self._stored = bias, transposed, weight.shape
        self.out_features, self.in_features = weight.shape[::-1] if transposed else weight.shape

    def numbers(self, dtype: torch.dtype) -> Tensor:
        """The weight, [out, in], until any layer is asked again.

        All use the same memory: pieces of this size, made and dropped between what a training keeps, would tear the
        heap apart (measured: three times the memory).
        """
        place, size = (dtype, self.codes.device), 2 * len(self.codes)
        desk = self._desk.get(place)
        if desk is None or len(desk) < size:
            desk = self._desk[place] = torch.empty(size, dtype=dtype, device=self.codes.device)
        stored = kernels.nf4_numbers(self.codes, self.scales, desk[:size])[: self._stored.numel()].view(self._stored)
        return stored.T if self.transposed else stored

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out] in the dtype of `x`."""
        y: Any = _Product.apply(x, self)
        return y if self.bias is None else y + self.bias.to(x.dtype)


def held_in_4_bits(model: nn.Module) -> str:
    """Which part of a model is held in 4 bits, in words; empty when none is."""
    layers = [module for module in model.modules() if isinstance(module, Nf4Linear)]
    held = sum(layer.codes.nbytes + layer.scales.nbytes for layer in layers) / 1e6
    plain = sum(2 * layer.out_features * layer.in_features for layer in layers) / 1e6
    return f"{len(layers)} linear layers in 4 bits: {held:.3g} MB, in 16 bits {plain:.3g}" if layers else ""


class _Product(torch.autograd.Function):
    """x W^T, with the weight made once more on the way back instead of kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Nf4Linear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.numbers(x.dtype))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return dy @ ctx.layer.numbers(dy.dtype), None
