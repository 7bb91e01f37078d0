"""Facts about the machine and this process."""

import os
import subprocess
import sys

import pytest

from oleaster.core.machine import peak_memory_mb, swap_mb, usable_cores


def test_the_peak_is_not_that_of_the_parent():
    taken = bytearray(b"x" * (256 * 1024 * 1024))  # well above what the child needs for its imports
    code = "from oleaster.core.machine import peak_memory_mb; print(peak_memory_mb())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(child.stdout) < len(taken) / 2**20 < peak_memory_mb()
    assert swap_mb() >= 0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux bounds the cores of a process")
def test_cores_that_this_process_may_not_use_do_not_count():
    allowed = os.sched_getaffinity(0)
    assert usable_cores() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
