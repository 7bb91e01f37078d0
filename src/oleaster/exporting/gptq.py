"""GPTQ: rounds the columns of a weight one after another, each time mending the rest (Frantar et al. 2022).

The error that counts is |X (W - Q)^T|^2 over the inputs X of the task, so all it needs of them is H = X^T X. Blocks and
their scales are fixed beforehand ("static groups"); so the columns can be taken in the order of their importance, and
the result is still stored in the order of the weight, as the runtime wants it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from oleaster.exporting.quantize import Format, Quantised, block_grid

DAMPING = 0.01
"""Share of the mean diagonal added to H: inputs never seen keep their columns near plain rounding."""
PANEL = 32
"""Columns mended among themselves before the rest of the matrix is."""
SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
"""Grids tried per block: the full range, or a finer grid that clips the largest weights."""


def gptq(weights: Sequence[torch.Tensor], hessians: Sequence[torch.Tensor], form: Format) -> list[Quantised]:
    """Quantise weights of one shape together: a small model's layers are too small to keep a CPU busy one by one.

    Args:
        weights: G of float32 [N, K], K a multiple of the block.
        hessians: G of float32 [K, K], sum of x x^T over the inputs.
    """
    H = torch.stack(list(hessians))
    importance = H.diagonal(dim1=1, dim2=2).clone()
    grids = [_best_grid(weight, each, form) for weight, each in zip(weights, importance, strict=True)]
    order = importance.argsort(dim=1, descending=True)
    mend = _mending(H, importance, order)
    # Everything is kept transposed, [G, K, N]: a column of a weight is then one run of memory.
    rest = torch.stack([weight.T[columns] for weight, columns in zip(weights, order, strict=True)])
    scales, zeros = (torch.stack([grid[i].T for grid in grids]) for i in (0, 1))  # [G, K / block, N]
    block_of = order // form.block
    each = torch.arange(len(weights))
    codes = torch.empty_like(rest, dtype=torch.uint8)
    columns = rest.shape[1]
    for start in range(0, columns, PANEL):
        end = min(start + PANEL, columns)
        errors = torch.empty(len(weights), end - start, rest.shape[2])
        for j in range(start, end):
            scale, zero = scales[each, block_of[:, j]], zeros[each, block_of[:, j]]
            code = torch.div(rest[:, j], scale).add_(zero).round_().clamp_(0, form.top)
            codes[:, j] = code
            error = errors[:, j - start]
            torch.sub(rest[:, j], code.sub_(zero).mul_(scale), out=error).div_(mend[:, j, j, None])
            rest[:, j + 1 : end].addcmul_(mend[:, j, j + 1 : end, None], error[:, None], value=-1)
        if end < columns:
            rest[:, end:].baddbmm_(mend[:, start:end, end:].mT, errors, alpha=-1)
    made = []
    for index, (scale, zero) in enumerate(grids):
        stored = torch.empty_like(codes[index])
        stored[order[index]] = codes[index]
        offsets = zero.to(torch.uint8).numpy() if form.asymmetric else None
        made.append(Quantised(form, stored.T.contiguous().numpy(), scale.half().numpy(), offsets))
    return made


def _mending(H: torch.Tensor, importance: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Upper triangular U with H^-1 = U^T U, [G, K, K], columns in `order`; changes H.

    Row j of U, over its diagonal, says how the columns behind j make good for an error in j. H = R R^T with R upper
    triangular (Cholesky's factor of H turned round) gives it without an inverse of H: U = R^-1.
    """
    diagonal = H.diagonal(dim1=1, dim2=2)
    diagonal[importance == 0] = 1.0
    diagonal += DAMPING * diagonal.mean(dim=1, keepdim=True)
    for index, columns in enumerate(order):
        H[index] = H[index][columns][:, columns]
    R = torch.linalg.cholesky(H.flip(1, 2)).flip(1, 2)
    return torch.linalg.solve_triangular(R, torch.eye(H.shape[1]).expand_as(H), upper=True)


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
