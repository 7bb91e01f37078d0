"""Two processes on one training = one process with the same rows in a step."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from oleaster.core.run import Run
from oleaster.models.tiny import make_tiny

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
SETTINGS = [
    *("--dtype", "float32", "--num_threads", "1", "--logging_steps", "1", "--eval_steps", "4"),
    *("--learning_rate", "3e-3", "--early_stopping_patience", "0"),
]


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """27 training rows: the last step of an epoch has an odd row, so that one process has more than the other."""
    model, rows = make_tiny("llama", tmp_path / "base"), tmp_path / "rows.jsonl"
    phrases = [{"prompt": "why " * (1 + i % 7), "completion": "because " * (1 + i % 3)} for i in range(30)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in phrases), encoding="utf-8")
    return ["-m", "oleaster", "finetune", "-m", str(model), "-d", str(rows), *SETTINGS]


def launcher(*more: str) -> list[str]:
    return ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port(), *more]


def events(folder: Path) -> list[dict[str, Any]]:
    return [event for event in Run(folder).read_log() if event["event"] != "notice"]


def assert_same_training(one: list[dict[str, Any]], two: list[dict[str, Any]], within: float) -> None:
    assert [(e["event"], e["step"]) for e in one] == [(e["event"], e["step"]) for e in two]
    for a, b in zip(one, two, strict=True):
        key = "loss" if a["event"] == "step" else "eval_loss"
        assert a[key] == pytest.approx(b[key], abs=within)
        assert a["target_tokens"] == b["target_tokens"]


def test_two_processes_give_the_losses_of_one(words: list[str], tmp_path: Path) -> None:
    for name, start, batch in (("one", [], "8"), ("two", launcher(), "4")):
        command = [sys.executable, *start, *words, "-o", str(tmp_path / name), "--max_steps", "8"]
        command += ["--per_device_train_batch_size", batch]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        assert Run(tmp_path / name).is_done
    one, two = events(tmp_path / "one"), events(tmp_path / "two")
    assert_same_training(one, two, within=1e-5)
    assert len({e["loss"] for e in one if e["event"] == "step"}) == 8


def test_a_base_divided_over_two_processes_gives_the_losses_of_one(words: list[str], tmp_path: Path) -> None:
    more = [*words, "--max_steps", "8", "--per_device_eval_batch_size", "2"]
    for name, start, flags in (("one", [], ["8"]), ("two", launcher(), ["4", "--fsdp", "full_shard"])):
        command = [sys.executable, *start, *more, "-o", str(tmp_path / name), "--per_device_train_batch_size", *flags]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    assert_same_training(events(tmp_path / "one"), events(tmp_path / "two"), within=2e-5)
    notes = [event["text"] for event in Run(tmp_path / "two").read_log() if "processes holds" in event.get("text", "")]
    whole, held = (float(number.replace(",", "")) for number in re.findall(r"([\d.,]+) MB", notes[0]))
    assert held < whole
    adapters = [load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("one", "two")]
    for name, tensor in adapters[0].items():
        torch.testing.assert_close(adapters[1][name], tensor, atol=1e-4, rtol=1e-3)
    asked = [sys.executable, *words[:3], "--fsdp", "full_shard", *words[3:], "-o", str(tmp_path / "alone")]
    refused = subprocess.run(asked, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "one process has nobody to share the base with" in refused.stderr


@pytest.mark.parametrize("base", ["whole in each", "divided"])
def test_a_killed_process_and_the_same_command_again(words: list[str], tmp_path: Path, base: str) -> None:
    """Dropout is on: the masks of each process are drawn again as well. All lines come out as if nothing had been."""
    more = ["--per_device_train_batch_size", "4", "--lora_dropout", "0.2", "--max_steps", "60", "--save_steps", "3"]
    more += ["--fsdp", "full_shard"] if base == "divided" else []
    whole = [sys.executable, *launcher(), *words, *more, "-o", str(tmp_path / "whole")]
    subprocess.run(whole, env=ENVIRONMENT, capture_output=True, check=True)
    run = Run(tmp_path / "broken")
    again = [*words, *more, "-o", str(run.folder), "--resume"]
    broken = [sys.executable, *launcher(), *again]
    with subprocess.Popen(broken, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as program:
        while program.poll() is None and not (run.log.exists() and len(run.read_log()) > 12):
            time.sleep(0.02)
        ranks = [child for child in psutil.Process(program.pid).children() if child.environ().get("RANK") == "1"]
        assert len(ranks) == 1
        ranks[0].kill()
        assert program.wait() != 0
    assert not run.is_done
    subprocess.run([sys.executable, *launcher(), *again], env=ENVIRONMENT, capture_output=True, check=True)
    assert run.is_done
    assert_same_training(events(tmp_path / "whole"), events(run.folder), within=0.0)
