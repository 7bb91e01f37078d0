"""kernels.c, compiled once per machine, called through ctypes. See __init__ for what each function takes and gives.

The shared library lies in the cache folder under a name made of the source, the compiler and the processor, so a new
version or another machine compiles anew (about a second). OLEASTER_KERNELS=off leaves it out.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from oleaster.core.cache import cache_folder
from oleaster.data.batch import Bucket
from oleaster.models.kernels.reference import NF4_LEVELS, least_kept, nf4_middles

SOURCE = Path(__file__).with_name("kernels.c")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
SUFFIX = {torch.float32: "float", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class Library:
    """The loaded functions, or the reason why there are none."""

    functions: ctypes.CDLL | None
    reason: str | None = None


@lru_cache(maxsize=1)
def library() -> Library:
    """Compile if needed, load, keep."""
    if os.environ.get("OLEASTER_KERNELS") == "off":
        return Library(None, "OLEASTER_KERNELS=off")
    compiler = _compiler()
    if compiler is None:
        return Library(None, "there is no C compiler (cc, gcc or clang): element-wise steps run in torch, slower")
    try:
        target = cache_folder() / "kernels" / f"{_fingerprint(compiler)}.so"
        if not target.exists() and (problem := _compile(compiler, target)):
            return Library(None, f"the C compiler failed ({problem}): element-wise steps run in torch, slower")
        return Library(ctypes.CDLL(str(target)))
    except OSError as problem:
        return Library(None, f"the compiled kernels do not load ({problem}): element-wise steps run in torch, slower")


def _compile(compiler: list[str], target: Path) -> str | None:
    """Write `target`; None, or the first line of what the compiler complains of."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    command = [*compiler, *FLAGS, "-o", str(fresh), str(SOURCE), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return next(iter(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
    fresh.replace(target)
    return None


def _compiler() -> list[str] | None:
    """$CC, which may hold flags or a wrapper (`ccache gcc`), else the first of the usual names; None: not there."""
    named = shlex.split(os.environ.get("CC", ""))
    choices = [named] if named else [["cc"], ["gcc"], ["clang"]]
    return next((words for words in choices if shutil.which(words[0])), None)


def _fingerprint(compiler: list[str]) -> str:
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False).stdout
    cpu = Path("/proc/cpuinfo")
    flags = next((x for x in cpu.read_text().splitlines() if x.startswith("flags")), "") if cpu.exists() else ""
    parts = (
        SOURCE.read_text(encoding="utf-8"),
        " ".join((*compiler, *FLAGS)),
        version,
        platform.machine(),
        platform.processor(),
        flags,
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _call(name: str, dtype: torch.dtype, *arguments: Tensor | int | float | None) -> None:
    """Tensors go as pointers (they must be contiguous), None as a null pointer."""
    function = getattr(library().functions, f"{name}_{SUFFIX[dtype]}")
    converted = [
        ctypes.c_void_p(a.data_ptr() if isinstance(a, Tensor) else None)
        if a is None or isinstance(a, Tensor)
        else ctypes.c_float(a)
        if isinstance(a, float)
        else ctypes.c_int64(a)
        for a in arguments
    ]
    function(*converted)


def rms_norm(x: Tensor, delta: Tensor | None, scale: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    x = x.contiguous()
    y, width = torch.empty_like(x), x.shape[-1]
    total = x if delta is None else torch.empty_like(x)
    inverse = torch.empty(x.shape[:-1], dtype=torch.float32)
    delta = None if delta is None else delta.contiguous()
    _call("rms_norm", x.dtype, x, delta, scale.contiguous(), y, total, inverse, inverse.numel(), width, float(eps))
    return y, total, inverse


def rms_norm_backward(dy: Tensor, dtotal: Tensor | None, total: Tensor, scale: Tensor, inverse: Tensor) -> Tensor:
    dy, dx = dy.contiguous(), torch.empty_like(total)
    dtotal = None if dtotal is None else dtotal.contiguous()
    _call("rms_norm_backward", dy.dtype, dy, dtotal, total, scale, inverse, dx, inverse.numel(), total.shape[-1])
    return dx


def gated(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    y = torch.empty_like(gate)
    _call("gated", gate.dtype, gate, up, y, gate.numel(), int(activation != "silu"))
    return y


def gated_backward(dy: Tensor, gate: Tensor, up: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    dgate, dup = torch.empty_like(gate), torch.empty_like(up)
    _call("gated_backward", dy.dtype, dy.contiguous(), gate, up, dgate, dup, dy.numel(), int(activation != "silu"))
    return dgate, dup


def dropped(x: Tensor, share: float, seed: int) -> Tensor:
    x, y = x.contiguous(), torch.empty(x.shape, dtype=x.dtype)
    _call("dropped", x.dtype, x, y, x.numel(), 1.0 / (1.0 - share), least_kept(share), seed)
    return y


def _geometry(bucket: Bucket, prefix: int, line: Tensor, angles: tuple[Tensor, Tensor] | None) -> list:
    cos, sin = (None, None) if angles is None else angles
    half = 0 if cos is None else cos.shape[-1]
    offsets, lengths = bucket.offsets
    sizes = [len(bucket.lengths), bucket.longest, bucket.start, prefix, line.shape[1], line.shape[2]]
    return [offsets, lengths, *sizes, cos, sin, half]


def to_block(line: Tensor, bucket: Bucket, prefix: int, angles: tuple[Tensor, Tensor] | None) -> Tensor:
    line = line.contiguous()
    places = prefix + bucket.longest
    block = torch.empty(len(bucket.lengths), line.shape[1], places, line.shape[2], dtype=line.dtype)
    _call("to_block", line.dtype, line, block, *_geometry(bucket, prefix, line, angles))
    return block


def from_block(
    block: Tensor, line: Tensor, bucket: Bucket, prefix: int, angles: tuple[Tensor, Tensor] | None
) -> Tensor | None:
    total = torch.zeros(prefix, *line.shape[1:]) if prefix else None
    _call("from_block", line.dtype, block.contiguous(), line, total, *_geometry(bucket, prefix, line, angles))
    return total


def softmax(scores: Tensor, prefix: int, window: int | None, scale: float) -> Tensor:
    _call("softmax", scores.dtype, scores, scores.shape[0], scores.shape[1], prefix, window or 0, float(scale))
    return scores


def softmax_backward(share: Tensor, dshare: Tensor, scale: float) -> Tensor:
    rows = share.numel() // share.shape[-1]
    _call("softmax_backward", share.dtype, share, dshare, rows, share.shape[-1], float(scale))
    return dshare


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float, gradient: bool) -> Tensor:
    loss, (rows, vocab) = torch.empty(logits.shape[0]), logits.shape
    _call("cross_entropy", logits.dtype, logits, targets, loss, rows, vocab, float(smoothing), int(gradient))
    return loss


def nf4_codes(flat: Tensor, block: int) -> tuple[Tensor, Tensor]:
    blocks = -(-flat.numel() // block)
    codes, scales = torch.empty(blocks * block // 2, dtype=torch.uint8), torch.empty(blocks)
    _call("nf4_codes", flat.dtype, flat.contiguous(), nf4_middles(), codes, scales, flat.numel(), blocks, block)
    return codes, scales


def nf4_numbers(codes: Tensor, scales: Tensor, out: Tensor) -> Tensor:
    _call(
        "nf4_numbers", out.dtype, codes, scales, torch.tensor(NF4_LEVELS), out, len(scales), len(codes) // len(scales)
    )
    return out
