"""How much memory an artifact takes, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from oleaster.core.machine import peak_memory_mb
from oleaster.inference.onnx_predictor import OnnxPredictor
from oleaster.inference.predictor import Sampling
predictor = OnnxPredictor(sys.argv[1], stop_ids=[-1])
predictor.generate([[5] * 256], Sampling(max_new_tokens=32))
print(peak_memory_mb() * 2**20 / 1e6)
"""


def loaded_mb(folder: Path) -> float:
    """Peak resident memory in MB of a process that loads `folder` and answers 32 tokens to a prompt of 256."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])
