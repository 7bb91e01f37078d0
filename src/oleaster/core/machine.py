"""What the machine is, and what this process takes of its memory."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

_MIB = 1024 * 1024


def usable_cores() -> int:
    """Logical cores that this process may use: fewer than the machine's in a container or under `taskset`."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_nvidia_gpu() -> bool:
    """Is there an NVIDIA GPU, found out without torch?"""
    return shutil.which("nvidia-smi") is not None or Path("/dev/nvidiactl").exists()


def peak_memory_mb() -> float:
    """Highest resident memory of this process so far, in MiB."""
    if sys.platform == "linux":
        # Not getrusage: its figure is carried over from the process that started this one.
        if (found := _status_mb("VmHWM")) is not None:
            return found
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / _MIB
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (_MIB if sys.platform == "darwin" else 1024)  # bytes on macOS, KiB elsewhere


def swap_mb() -> float:
    """Memory of this process that was moved to the disk, in MiB; only Linux says it of a single process."""
    return (_status_mb("VmSwap") or 0.0) if sys.platform == "linux" else 0.0


def _status_mb(name: str) -> float | None:
    """A figure of the kernel about this process, in MiB."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return None
