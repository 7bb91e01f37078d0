"""Two processes on one training = one process with the same rows in a step."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from oleaster.core.run import Run
from oleaster.models.tiny import make_tiny

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
SETTINGS = [
    *("--dtype", "float32", "--num_threads", "1", "--max_steps", "8", "--logging_steps", "1", "--eval_steps", "4"),
    *("--learning_rate", "3e-3", "--early_stopping_patience", "0"),
]


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def test_two_processes_give_the_losses_of_one(tmp_path: Path) -> None:
    """27 rows: the last step of an epoch has an odd row, so that one process has more than the other."""
    model, rows = make_tiny("llama", tmp_path / "base"), tmp_path / "rows.jsonl"
    phrases = [{"prompt": "why " * (1 + i % 7), "completion": "because " * (1 + i % 3)} for i in range(30)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in phrases), encoding="utf-8")
    words = ["-m", "oleaster", "finetune", "-m", str(model), "-d", str(rows), *SETTINGS]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    runs = []
    for name, start, batch in (("one", [], "8"), ("two", launcher, "4")):
        command = [sys.executable, *start, *words, "-o", str(tmp_path / name), "--per_device_train_batch_size", batch]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        run = Run(tmp_path / name)
        assert run.is_done
        runs.append([event for event in run.read_log() if event["event"] != "notice"])
    one, two = runs
    assert [(e["event"], e["step"]) for e in one] == [(e["event"], e["step"]) for e in two]
    for a, b in zip(one, two, strict=True):
        key = "loss" if a["event"] == "step" else "eval_loss"
        assert a[key] == pytest.approx(b[key], abs=1e-5)
        assert a["target_tokens"] == b["target_tokens"]
    assert len({e["loss"] for e in one if e["event"] == "step"}) == 8
