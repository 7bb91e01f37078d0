"""How much memory an artifact takes, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import pathlib, resource, sys
from oleaster.inference.onnx_predictor import OnnxPredictor
from oleaster.inference.predictor import Sampling
predictor = OnnxPredictor(sys.argv[1], stop_ids=[-1])
predictor.generate([[5] * 256], Sampling(max_new_tokens=32))
status = pathlib.Path("/proc/self/status")
if status.exists():  # Linux gives a child its parent's peak in getrusage
    peak = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) * 1024
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(peak / 1e6)
"""


def loaded_mb(folder: Path) -> float:
    """Peak resident memory in MB of a process that loads `folder` and answers 32 tokens to a prompt of 256."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])
