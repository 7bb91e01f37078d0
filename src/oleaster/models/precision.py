"""Which number type the frozen base is fastest in, found out by trying."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import torch

from oleaster.core.cache import cache_folder
from oleaster.core.errors import StorageError
from oleaster.core.files import atomic_write_json

WORTH = 1.1
"""bfloat16 must be this much faster than float32: it also rounds."""
ATTEMPTS = 10


def choose_dtype(wanted: str, config: dict[str, Any], device: torch.device) -> tuple[torch.dtype, str]:
    """(type, why) for base weights and activations.

    Args:
        wanted: `float32`, `bfloat16`, or `auto`: the faster one for a matrix product of the model's own size. On a CPU
            that is bfloat16 where the processor multiplies it fast in hardware (AMX), else float32. The answer for a
            machine is kept in the cache, so that every run there, and a resumed one, gets the same.
        config: config.json of the model.
    """
    if wanted != "auto":
        return getattr(torch, wanted), "asked for"
    if device.type == "cuda":
        good = torch.cuda.is_bf16_supported()
        return (torch.bfloat16 if good else torch.float32), f"the GPU {'has' if good else 'lacks'} bfloat16"
    hidden = config.get("hidden_size") or config.get("n_embd") or 1024
    inner = config.get("intermediate_size") or 4 * hidden
    gain = _known_gain(hidden, inner)
    why = f"a {hidden} x {inner} product is {gain:.2f} times as fast in bfloat16 as in float32 on this machine"
    return (torch.bfloat16 if gain >= WORTH else torch.float32), why


def _known_gain(hidden: int, inner: int) -> float:
    capability, amx = torch.backends.cpu.get_cpu_capability(), torch.cpu._is_amx_tile_supported()
    name = f"{torch.__version__} {capability} amx={amx} {hidden}x{inner}"
    path = cache_folder() / "precision.json"
    known: dict[str, float] = {}
    with suppress(OSError, ValueError):  # never measured here, or the note was damaged: measure again
        known = json.loads(path.read_text("utf-8"))
    if name not in known:
        known[name] = round(_measured_gain(hidden, inner), 3)
        with suppress(OSError, StorageError):  # no place for the note costs the next run a moment
            atomic_write_json(path, known)
    return known[name]


def _measured_gain(hidden: int, inner: int, tokens: int = 128) -> float:
    """Time of a product [tokens, hidden] x [hidden, inner] in float32 over that in bfloat16.

    One thread and the shortest of several turns, the two types by turns: what other programs do on the machine must
    not decide.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    data = {dtype: (torch.ones(tokens, hidden, dtype=dtype), torch.ones(inner, hidden, dtype=dtype)) for dtype in best}
    for _ in range(ATTEMPTS):
        for dtype, (x, weight) in data.items():
            begun = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            best[dtype] = min(best[dtype], time.perf_counter() - begun)
    torch.set_num_threads(threads)
    return best[torch.float32] / best[torch.bfloat16]
