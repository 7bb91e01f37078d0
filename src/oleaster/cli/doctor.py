"""`oleaster doctor`: what this machine and this installation can do. Reports; never fails on what it finds."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from oleaster.cli.words import Command, Given
from oleaster.config.flags import Flag

Fact = tuple[str, str]
"""(what, finding)"""

_PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "tokenizers",
    "onnxruntime",
    "onnxruntime-genai",
    "peft",
)
_INSTRUCTION_SETS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI (int8)",
    "avx512_bf16": "AVX-512 BF16",
    "amx_bf16": "AMX BF16",
    "amx_int8": "AMX int8",
    "asimd": "NEON",
    "asimddp": "NEON dot product (int8)",
    "bf16": "Arm BF16",
    "sve": "SVE",
}
"""Flag in /proc/cpuinfo -> name for people."""
_GIB = 2**30


def command() -> Command:
    """What `doctor` takes."""
    return Command(
        name="doctor",
        summary="Say what this machine and this installation can do.",
        usage=("oleaster doctor [--measure]",),
        run=run,
        own=(Flag("measure", "Measure the matrix multiplication of this machine too (about 5 s).", "switch", False),),
    )


def run(given: Given) -> int:
    """Print all facts, then what follows from them."""
    from oleaster.cli.tables import print_pairs

    speeds = gemm_speeds() if given.own["measure"] else {}
    print_pairs(list(machine()), "machine")
    print_pairs([*installation(), *extras()], "installation")
    if speeds:
        print_pairs([(f"{name} GEMM", f"{speed:,.0f} GFLOP/s") for name, speed in speeds.items()], "measured")
    print_pairs(list(abilities(speeds)), "so this machine can")
    return 0


def machine() -> Iterator[Fact]:
    """Processor, memory, disk, graphics."""
    import psutil

    model, flags = cpu()
    cores = f"{psutil.cpu_count(logical=False) or '?'} cores, {os.cpu_count()} threads"
    yield "processor", f"{model}, {cores}"
    found = [name for flag, name in _INSTRUCTION_SETS.items() if flag in flags]
    yield "instructions", ", ".join(found) or f"{platform.machine()}, no list on {platform.system()}"
    memory = psutil.virtual_memory()
    yield "memory", f"{memory.total / _GIB:.1f} GiB, {memory.available / _GIB:.1f} GiB free"
    yield "disk", f"{shutil.disk_usage(Path()).free / _GIB:.0f} GiB free in {Path().resolve()}"
    yield "GPU", gpu()


def cpu() -> tuple[str, frozenset[str]]:
    """Model name and instruction flags; flags are known on Linux only."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine(), frozenset()
    fields: dict[str, str] = {}
    for line in info.read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = fields.get("flags") or fields.get("Features") or ""
    return fields.get("model name", platform.machine()), frozenset(flags.split())


def gpu() -> str:
    """The GPUs that torch can use."""
    try:
        import torch
    except ImportError:
        return "unknown: torch is not installed"
    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    if torch.backends.mps.is_available():
        return "Apple (mps)"
    built = "this torch is built without CUDA" if torch.version.cuda is None else "no driver or device"
    return f"none ({built})"


def installation() -> Iterator[Fact]:
    """Python and the packages the work is done with."""
    from oleaster.core.extras import installed

    yield "python", f"{platform.python_version()} in {sys.prefix}"
    yield "oleaster", installed("oleaster") or "not installed (run from its source)"
    for package in _PACKAGES:
        yield package, installed(package) or "-"
    if importlib.util.find_spec("onnxruntime"):
        import onnxruntime

        yield "providers", ", ".join(onnxruntime.get_available_providers())
    yield "compiled kernels", kernels()


def kernels() -> str:
    """Whether a training's element-wise steps run compiled here, found out as the training does it."""
    if importlib.util.find_spec("torch") is None:
        return "unknown: torch is not installed"
    from oleaster.models.kernels import why_not_compiled

    return why_not_compiled() or "in use"


def extras() -> Iterator[Fact]:
    """Which optional parts are installed, and how to install the others."""
    from oleaster.core import extras

    for extra in extras.extras():
        yield f"[{extra}]", f'pip install "oleaster[{extra}]"' if extras.missing(extra) else "installed"


def gemm_speeds() -> dict[str, float]:
    """GFLOP/s by type for a matrix product as it occurs in training: 1024 x 576 times 576 x 1536; best of 1.5 s."""
    import torch

    speeds = {}
    for dtype in (torch.float32, torch.bfloat16):
        left, right = torch.randn(1024, 576).to(dtype), torch.randn(576, 1536).to(dtype)
        times = []
        deadline = time.perf_counter() + 1.5
        while time.perf_counter() < deadline:
            start = time.perf_counter()
            torch.mm(left, right)
            times.append(time.perf_counter() - start)
        speeds[str(dtype).removeprefix("torch.")] = 2 * 1024 * 576 * 1536 / min(times) / 1e9
    return speeds


def abilities(speeds: Mapping[str, float]) -> Iterator[Fact]:
    """What follows: the faster type, how large a model fits, and whether it can be shipped. Sizes are estimates."""
    import psutil

    free = psutil.virtual_memory().available
    if speeds:
        yield "compute", f"fastest in {max(speeds, key=lambda name: speeds[name])}"
    else:
        yield "compute", "in float32 or bfloat16; a short measurement at the start of a run decides (--measure)"
    # A frozen base, and about a quarter of its size again for activations, adapter and optimiser.
    half, whole = (free / (size * 1.25) / 1e9 for size in (2, 4))
    yield "LoRA", f"models up to about {whole:.1f} billion parameters in float32, {half:.1f} in bfloat16"
    # Weights, gradients and the two moments of Adam in float32 (16 bytes), and the same quarter.
    yield "full", f"models up to about {free / (16 * 1.25) / 1e9:.1f} billion parameters"
    ready = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxruntime_genai"))
    yield "export", "to ONNX Runtime GenAI" if ready else 'not yet: pip install "oleaster[auto-opt]"'
