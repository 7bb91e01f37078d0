"""What the process takes from the machine."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil
import torch

from oleaster.core.machine import peak_memory_mb, swap_mb

_MIB = 1024 * 1024


@dataclass(frozen=True)
class Resources:
    """One reading; the field names are those of `StepReport`."""

    memory_mb: float
    """Resident memory in MiB."""
    peak_memory_mb: float
    """Highest resident memory since the process began, in MiB."""
    cpu_percent: float
    """CPU time of the process over wall time since the reading before; 200 = two busy cores."""
    gpu_memory_mb: float | None
    """Memory of all tensors on this process's GPUs, in MiB; None without a GPU."""
    machine_cpu_percent: float
    """CPU time of all programs over wall time since the reading before; 200 = two busy cores."""
    swap_mb: float
    """Memory of the process that lies on the disk, in MiB; 0 where the system does not say."""


class ResourceMeter:
    """Call it for a reading. CPU use is that since the call before (the first time: since the meter was made)."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._cpu, self._wall = self._cpu_seconds(), time.perf_counter()
        psutil.cpu_percent()  # a call gives the use since the call before

    def __call__(self) -> Resources:
        cpu, wall = self._cpu_seconds(), time.perf_counter()
        percent = 100 * (cpu - self._cpu) / max(wall - self._wall, 1e-9)
        self._cpu, self._wall = cpu, wall
        memory = self._process.memory_info().rss / _MIB
        machine = psutil.cpu_percent() * (psutil.cpu_count() or 1)
        return Resources(memory, max(memory, peak_memory_mb()), percent, _gpu_memory_mb(), machine, swap_mb())

    def _cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system


def _gpu_memory_mb() -> float | None:
    if not torch.cuda.is_available():
        return None
    return sum(torch.cuda.memory_allocated(i) for i in range(torch.cuda.device_count())) / _MIB
