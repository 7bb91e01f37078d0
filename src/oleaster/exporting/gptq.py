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
    # Everything is kept transposed, [K, N]: a column of the weight is then one run of memory.
    block_of = order // form.block
    column_scale, column_zero = scales.T.contiguous(), zeros.T.contiguous()
    H = hessian.clone()
    H.diagonal()[dead] = 1.0
    H.diagonal().add_(DAMPING * H.diagonal().mean())
    H = H[order][:, order].double()
    mend = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(H)), upper=True).float()
    rest = weight.T[order].contiguous()
    codes = torch.empty_like(rest, dtype=torch.uint8)
    columns = rest.shape[0]
    for start in range(0, columns, PANEL):
        end = min(start + PANEL, columns)
        errors = torch.empty(end - start, rest.shape[1])
        for j in range(start, end):
            scale, zero = column_scale[block_of[j]], column_zero[block_of[j]]
            code = torch.div(rest[j], scale).add_(zero).round_().clamp_(0, form.top)
            codes[j] = code
            error = errors[j - start]
            torch.sub(rest[j], code.sub_(zero).mul_(scale), out=error).div_(mend[j, j])
            rest[j + 1 : end].addr_(mend[j, j + 1 : end], error, alpha=-1)
        rest[end:].addmm_(mend[start:end, end:].T, errors, alpha=-1)
    stored = torch.empty_like(codes)
    stored[order] = codes
    return Quantised(
        form,
        stored.T.contiguous().numpy(),
        scales.half().numpy(),
        zeros.to(torch.uint8).numpy() if form.asymmetric else None,
    )


def _best_grid(weight: torch.Tensor, importance: torch.Tensor, form: Format) -> tuple[torch.Tensor, torch.Tensor]:
    """Per block the shrunk grid with the least error, each column weighted by its mean squared input.

    Returns float32 (scales, zeros), both [N, K / block]; the scales are float16 numbers.
    """
    blocks = weight.unflatten(1, (-1, form.block))
    weights = importance.unflatten(0, (-1, form.block))
    full_scales, full_zeros = block_grid(weight.numpy(), form)
    zeros = torch.from_numpy(full_zeros).float() if full_zeros is not None else torch.tensor(2.0 ** (form.bits - 1))
    zeros = zeros.expand(full_scales.shape).contiguous()
    best, least = torch.from_numpy(full_scales).float(), torch.full(full_scales.shape, torch.inf)
    offset = zeros[..., None]
    for shrink in SHRINKS:
        # A range shrunk on both sides keeps its zero point.
        scales = (torch.from_numpy(full_scales).float() * shrink).half().float()
        codes = torch.div(blocks, scales[..., None]).add_(offset).round_().clamp_(0, form.top)
        error = codes.sub_(offset).mul_(scales[..., None]).sub_(blocks).square_().mul_(weights).sum(-1)
        better = error < least
        best, least = torch.where(better, scales, best), torch.where(better, error, least)
    return best, zeros
