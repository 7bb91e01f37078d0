"""How A and B of a low-rank update begin.

Names and numbers are those of PEFT's `init_lora_weights`. Where B A does not begin at zero, it is taken out of the
frozen weight, so that the model still begins as the base; what is learned is then B A - B0 A0 (see `plain_update`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from oleaster.config.methods import ZERO_STARTS
from oleaster.core.errors import ConfigError
from oleaster.methods.lora_layer import LoraLinear, Start, is_transposed, shape_of, weight_of
from oleaster.models.nf4 import round_to_nf4

SVD_PASSES = 16
"""Of the randomised decomposition behind `pissa_niter_16`."""


def begin(layer: LoraLinear, how: str, generator: torch.Generator) -> None:
    """Set A and B of a new layer, whose A is drawn evenly and whose B is zero (`true`).

    gaussian: A is normal, B zero.
    pissa, pissa_niter_16: the part of W with the largest singular values (Meng et al. 2024).
    olora: the first rows and columns of W = Q R (Buyukakyuz 2024).
    loftq: the largest part of what rounding W to 4 bits loses (Li et al. 2023); W itself is rounded by the method.
    """
    rank = len(layer.lora_A)
    if how == "true":
        return
    if how == "gaussian":
        nn.init.normal_(layer.lora_A, std=1 / rank, generator=generator)
        return
    stored = weight_of(layer.base)
    wide = stored.detach().float()
    target = wide - round_to_nf4(wide) if how == "loftq" else wide
    transposed = is_transposed(layer.base)
    target = target.T if transposed else target  # [out, in]
    if how == "olora":
        q, r = torch.linalg.qr(target)
        a, b = r[:rank], q[:, :rank]
    else:
        u, s, v = _largest(target, rank, generator if how == "pissa_niter_16" else None)
        root = (s / layer.scaling).sqrt()
        a, b = root[:, None] * v.T, u * root
    layer.start = Start(a.contiguous().clone(), b.contiguous().clone())
    with torch.no_grad():
        layer.lora_A.copy_(a)
        layer.lora_B.copy_(b)
    if how != "loftq":
        rest = target - layer.delta()
        # a new parameter: the numbers of a base that others share stay
        layer.base.weight = nn.Parameter((rest.T if transposed else rest).to(stored.dtype), requires_grad=False)


def bad_start(path: str, base: nn.Module, how: str, rank: int) -> Iterator[ConfigError]:
    """A problem when the layer at `path` has fewer rows or columns than the update that is to begin as a part of it."""
    least = min(shape_of(base))
    if how not in ZERO_STARTS and rank > least:
        message = f"'{path}' has {least} rows or columns, fewer than an update of rank {rank} that begins as {how}"
        yield ConfigError(message, where="lora_r", remedy=f"at most {least}, or --init_lora_weights true")


def _largest(weight: torch.Tensor, rank: int, generator: torch.Generator | None) -> tuple[torch.Tensor, ...]:
    """U [out, r], S [r], V [in, r] of the largest singular values; exact, or by a few passes over a random start."""
    if generator is None:
        u, s, vt = torch.linalg.svd(weight, full_matrices=False)
        return u[:, :rank], s[:rank], vt[:rank].T
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        return torch.svd_lowrank(weight, rank, niter=SVD_PASSES)
