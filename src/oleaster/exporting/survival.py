"""Does an adapter survive the rounding of the weight it is merged into?

Merged, an update is part of a weight that is rounded to a grid. Where it is finer than the grid's own noise, what is
left of it is mostly luck: 8 bits keep nearly any adapter, 4 bits drown a weak one. Kept unmerged beside the rounded
base, it loses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from oleaster.exporting.adapter_folder import LoraAdapter
from oleaster.exporting.quantize import Format, block_grid


@dataclass(frozen=True)
class Survival:
    """One module's update against its rounding."""

    module: str
    update: float
    """Root mean square of scale * B A."""
    rounding: float
    """Root mean square of the error that plain rounding makes: step / sqrt(12)."""

    @property
    def drowns(self) -> bool:
        """Is the update below the rounding's noise?"""
        return self.update < self.rounding


def survival(adapter: LoraAdapter, weights: Mapping[str, np.ndarray], form: Format) -> list[Survival]:
    """Each module that the adapter updates, the weakest update first.

    Args:
        weights: float32 [out, in] by module path: what `form` is to round, with or without the update in it. Modules
            whose columns `form` does not divide are left out: they stay as they are.
    """
    found = []
    for path, delta in adapter.deltas.items():
        weight = weights[path]
        grid = form.fitting(weight.shape[1])
        if weight.shape[1] % grid.block:
            continue
        # |B A|^2 summed over all entries is tr(A A^T B^T B): no matrix of the weight's size is made.
        A, B = delta.A.double(), delta.B.double()
        total = float(((A @ A.T) * (B.T @ B)).sum())
        steps = block_grid(weight, grid)[0].astype(np.float64)
        rounding = math.sqrt(float(np.square(steps).mean()) / 12)
        found.append(Survival(path, abs(delta.scale) * math.sqrt(max(total, 0.0) / weight.size), rounding))
    return sorted(found, key=lambda each: each.update / each.rounding)


def told(found: list[Survival]) -> str:
    """The verdict in a sentence."""
    weakest = found[0]
    drowned = sum(each.drowns for each in found)
    ratio = weakest.update / weakest.rounding
    return (
        f"the adapter's update is finer than the rounding in {drowned} of {len(found)} modules, "
        f"least in {weakest.module} ({ratio:.2g} of it)"
    )
