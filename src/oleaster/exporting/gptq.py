"""GPTQ: rounds the columns of a weight one after another, each time mending the rest (Frantar et al. 2022).

The error that counts is |X (W - Q)^T|^2 over the inputs X of the task, so all it needs of them is H = X^T X. Blocks and
their scales are fixed beforehand ("static groups"); so the columns can be taken in the order of their importance, and
the result is still stored in the order of the weight, as the runtime wants it.
"""

from __future__ import annotations

import torch

from oleaster.exporting.quantize import Format, Quantised, block_grid

DAMPING = 0.01
"""Share of the mean diagonal added to H: inputs never seen keep their columns near plain rounding."""
PANEL = 64
"""Columns mended among themselves before the rest of the matrix is."""
SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
"""Grids tried per block: the full range, or a finer grid that clips the largest weights."""


def gptq(weight: torch.Tensor, hessian: torch.Tensor, form: Format) -> Quantised:
    """Quantise `weight`.

    Args:
        weight: float32 [N, K], K a multiple of the block.
        hessian: float32 [K, K], sum of x x^T over the inputs.
    """
    importance = hessian.diagonal()
    dead = importance == 0
    order = importance.argsort(descending=True)
    scales, zeros = _best_grid(weight, importance, form)
    column_scale = scales.repeat_interleave(form.block, 1)[:, order]
    column_zero = zeros.repeat_interleave(form.block, 1)[:, order]
    H = hessian.clone()
    H.diagonal()[dead] = 1.0
    H.diagonal().add_(DAMPING * H.diagonal().mean())
    H = H[order][:, order].double()
    mend = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(H)), upper=True).float()
    rest = weight[:, order].clone()
    codes = torch.empty_like(rest)
    columns = rest.shape[1]
    for start in range(0, columns, PANEL):
        end = min(start + PANEL, columns)
        errors = torch.empty(rest.shape[0], end - start)
        for j in range(start, end):
            code = (rest[:, j] / column_scale[:, j] + column_zero[:, j]).round_().clamp_(0, form.top)
            codes[:, j] = code
            error = (rest[:, j] - (code - column_zero[:, j]) * column_scale[:, j]) / mend[j, j]
            rest[:, j + 1 : end].addr_(error, mend[j, j + 1 : end], alpha=-1)
            errors[:, j - start] = error
        rest[:, end:].addmm_(errors, mend[start:end, end:], alpha=-1)
    stored = torch.empty_like(codes)
    stored[:, order] = codes
    return Quantised(
        form,
        stored.to(torch.uint8).numpy(),
        scales.half().numpy(),
        zeros.to(torch.uint8).numpy() if form.asymmetric else None,
    )


def _best_grid(weight: torch.Tensor, importance: torch.Tensor, form: Format) -> tuple[torch.Tensor, torch.Tensor]:
    """Per block the shrunk grid with the least error, each column weighted by its mean squared input.

    Returns float32 (scales, zeros), both [N, K / block]; the scales are float16 numbers.
    """
    blocks = weight.unflatten(1, (-1, form.block))
    weights = importance.unflatten(0, (-1, form.block))
    found_scales, found_zeros, least = None, None, None
    for shrink in SHRINKS:
        halves, whole = block_grid((shrink * weight).numpy(), form)
        scales = torch.from_numpy(halves).float()
        zeros = torch.full_like(scales, 2 ** (form.bits - 1)) if whole is None else torch.from_numpy(whole).float()
        codes = (blocks / scales[..., None] + zeros[..., None]).round().clamp(0, form.top)
        error = (((codes - zeros[..., None]) * scales[..., None] - blocks).square() * weights).sum(-1)
        if least is None or found_scales is None or found_zeros is None:
            found_scales, found_zeros, least = scales, zeros, error
        else:
            better = error < least
            found_scales = torch.where(better, scales, found_scales)
            found_zeros = torch.where(better, zeros, found_zeros)
            least = torch.where(better, error, least)
    assert found_scales is not None
    assert found_zeros is not None
    return found_scales, found_zeros
