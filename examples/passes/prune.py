"""A pass of one's own: magnitude pruning (Han et al. 2015). The weights nearest to zero become zero.

    plugins: [examples/passes/prune.py]
    passes:
      - finetune
      - merge                     # pruning needs plain weights, an adapter lies beside them
      - prune: {sparsity: 0.2}
      - evaluate                  # says what it cost
      - onnx

The keyword arguments are the pass's settings; a wrong one is refused with its line before anything is loaded.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file

from oleaster.pipeline.passes import Work, passes


@passes.register("prune")
def prune(
    work: Work,
    *,
    sparsity: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    modules: list[str] | None = None,
) -> Path:
    """Write `work.given` with the smallest weights of each matrix set to zero.

    Args:
        sparsity: share of each matrix that becomes zero.
        modules: parts of the names of the matrices that are pruned; default: all but embedding and head.
    """
    source = Path(work.given)
    weights = sorted(source.glob("*.safetensors"))
    if not weights:
        raise FileNotFoundError(f"{source} holds no weights; is there a merge in front of prune?")
    shutil.copytree(source, work.output, dirs_exist_ok=True)
    zeros = total = 0
    for path in weights:
        tensors = load_file(path)
        for name, weight in tensors.items():
            if weight.ndim != 2 or not _wanted(name, modules):
                continue
            flat = weight.abs().flatten()
            limit = flat.kthvalue(max(1, round(sparsity * len(flat)))).values
            tensors[name] = torch.where(weight.abs() <= limit, torch.zeros_like(weight), weight)
            zeros += int((tensors[name] == 0).sum())
            total += len(flat)
        save_file(tensors, work.output / path.name, metadata={"format": "pt"})
    work.tell(f"{zeros:,} of {total:,} weights are zero now")
    return work.output


def _wanted(name: str, modules: list[str] | None) -> bool:
    if modules is None:
        return "embed" not in name and "lm_head" not in name
    return any(part in name for part in modules)
