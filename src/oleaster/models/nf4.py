"""NF4: weights rounded to sixteen quantiles of the normal distribution, one scale per 64 (Dettmers et al. 2023,
https://arxiv.org/abs/2305.14314). The numbers of bitsandbytes with float32 scales."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 64
"""Weights that share a scale, along a row of the stored matrix."""
LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""The sixteen levels; 0 is one of them."""


def round_to_nf4(weight: Tensor) -> Tensor:
    """`weight` with each number at the nearest level times its block's largest magnitude; same shape and type."""
    flat = weight.detach().float().flatten()
    blocks = torch.nn.functional.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)
    scale = blocks.abs().amax(1, keepdim=True)
    levels = torch.tensor(LEVELS, device=weight.device)
    middles = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(blocks / scale.clamp_min(torch.finfo(torch.float32).tiny), middles)
    return (levels[codes] * scale).flatten()[: flat.numel()].view(weight.shape).to(weight.dtype)
