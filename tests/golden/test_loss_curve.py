"""The losses of a tiny recipe, to the last digit: a refactoring may not move them.

    OLEASTER_GOLDEN=write pytest tests/golden/test_loss_curve.py

writes the file anew; do that only for a change that is meant to alter numbers, and say so in its commit.

Kernels in plain torch, float32, one thread. The order in which a processor's matrix product adds up decides the last
digits, so another processor than the one that wrote the file (AVX-512) is allowed 1e-5; on the same one, equal runs are
equal to the bit (`test_the_curve_repeats`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).with_name("loss_tiny_llama.txt")
TOLERANCE = 1e-5
PROGRAM = """
import sys, tempfile, torch
from pathlib import Path
from oleaster.config.load import replace
from oleaster.config.schema import Config
from oleaster.data.papers import Encoded
from oleaster.methods import get_method, trainable_parameters
from oleaster.models.kernels import why_not_compiled
from oleaster.models.load import load_weights
from oleaster.models.tiny import make_tiny
from oleaster.training.checkpoint import Checkpoints
from oleaster.training.loop import train
from oleaster.training.reports import StepReport

torch.set_num_threads(1)
assert why_not_compiled() == "OLEASTER_KERNELS=off"
lengths = [(5 * i) % 17 + 4 for i in range(16)]
lines = [tuple((7 * i + 3 * j) % 250 + 4 if j > 2 else j + 4 for j in range(n)) for i, n in enumerate(lengths)]
rows = [Encoded(ids, tuple(range(len(ids) // 2 + 1, len(ids))), len(ids) // 2 + 1, i) for i, ids in enumerate(lines)]
config = replace(Config(), learning_rate=1e-2, per_device_train_batch_size=2, gradient_accumulation_steps=2,
                 max_steps=20, logging_steps=1, weight_decay=0.01, lora_r=4)
with tempfile.TemporaryDirectory() as folder:
    model = load_weights(make_tiny("llama", Path(folder) / "base"), torch.float32)[0]
    get_method(config.method).attach(model.hub_model, config.seed)
    def tell(event):
        if isinstance(event, StepReport):
            print(event.step, repr(event.loss))
    train(model, trainable_parameters(model), rows, [], config, Checkpoints(Path(folder) / "checkpoints"),
          settings={}, sinks=lambda _: [tell])
"""


def curve() -> str:
    """`step loss` a line."""
    environment = {**os.environ, "OLEASTER_KERNELS": "off", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def now() -> str:
    return curve()


def test_the_curve_is_the_one_written_down(now):
    if os.environ.get("OLEASTER_GOLDEN") == "write":
        FILE.write_text(now, encoding="utf-8")
    written = [line.split() for line in FILE.read_text(encoding="utf-8").splitlines()]
    found = [line.split() for line in now.splitlines()]
    assert [step for step, _ in found] == [step for step, _ in written]
    for (step, a), (_, b) in zip(found, written, strict=True):
        assert float(a) == pytest.approx(float(b), abs=TOLERANCE), f"step {step}"
    assert float(found[-1][1]) < 0.8 * float(found[0][1])


def test_the_curve_repeats(now):
    assert curve() == now
