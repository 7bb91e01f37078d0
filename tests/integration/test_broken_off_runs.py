"""Trainings that are killed, lose a file, run out of disk or blow up: what is left, what is said, how it goes on."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from oleaster.core.run import Run
from oleaster.models.tiny import make_tiny
from oleaster.training.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
STEPS = 24
SETTINGS = [
    *("--num_threads", "1", "--per_device_train_batch_size", "4", "--lora_dropout", "0.1", "--max_steps", str(STEPS)),
    *("--logging_steps", "1", "--save_steps", "3", "--eval_steps", "12", "--early_stopping_patience", "0"),
]


@pytest.fixture(scope="module")
def finetune(tmp_path_factory) -> Callable[..., subprocess.Popen[str]]:
    """Start `oleaster finetune` on a tiny model, writing to `folder`."""
    task = tmp_path_factory.mktemp("task")
    make_tiny("llama", task / "base")
    rows = [{"prompt": "what is " + "very " * (i % 5) + "red", "completion": f"colour {i}"} for i in range(30)]
    (task / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = [sys.executable, "-m", "oleaster", "finetune", "-m", str(task / "base"), "-d", str(task / "rows.jsonl")]

    def start(folder: Path, *more: str, dtype: str = "float32") -> subprocess.Popen[str]:
        command = [*words, "-o", str(folder), *SETTINGS, "--dtype", dtype, *more]
        return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


@pytest.fixture(scope="module")
def alone(finetune, tmp_path_factory) -> Run:
    """An uninterrupted run."""
    run = Run(tmp_path_factory.mktemp("alone") / "run")
    ended(finetune(run.folder), 0)
    return run


def ended(process: subprocess.Popen[str], code: int) -> str:
    """Wait; what it printed."""
    out, errors = process.communicate()
    assert process.returncode == code, errors
    return out + errors


def wait_for_step(process: subprocess.Popen[str], run: Run, step: int) -> None:
    while process.poll() is None:
        if run.log.exists() and any(e["event"] == "step" and e["step"] >= step for e in run.read_log()):
            return
        time.sleep(0.005)
    raise AssertionError(process.communicate()[1])


def begun_and_killed(finetune, folder: Path) -> Run:
    run, process = Run(folder), finetune(folder)
    wait_for_step(process, run, 10)
    process.kill()
    process.communicate()
    assert len(Checkpoints(run.checkpoints).steps()) >= 2
    assert not run.is_done
    return run


def same_result(a: Run, b: Run) -> bool:
    weights = [(run.adapter / "adapter_model.safetensors").read_bytes() for run in (a, b)]
    losses = [[(e["step"], e["loss"]) for e in run.read_log() if e["event"] == "step"] for run in (a, b)]
    return weights[0] == weights[1] and losses[0] == losses[1] and [s for s, _ in losses[0]] == [*range(1, STEPS + 1)]


def test_killed_at_random_moments() -> None:
    """A few kills here; `benchmarks/kills.py` does fifty."""
    command = [sys.executable, str(ROOT / "benchmarks" / "kills.py"), "--quick"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] >= 5
    assert found["equal_weights"]
    assert found["equal_log"]


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(finetune, alone, tmp_path) -> None:
    run = begun_and_killed(finetune, tmp_path / "run")
    newest = run.checkpoints / f"step-{Checkpoints(run.checkpoints).steps()[-1]:08d}"
    content = bytearray((newest / "trainable.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "trainable.safetensors").write_bytes(content)
    printed = ended(finetune(run.folder, "--resume"), 0)
    assert newest.name in printed.replace("\n", "")
    assert [e["kind"] for e in run.read_log() if e.get("kind") == "checkpoint_damaged"] == ["checkpoint_damaged"]
    assert same_result(run, alone)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a running process is changed")
def test_a_full_disk_ends_cleanly_and_the_work_before_is_kept(finetune, alone, tmp_path) -> None:
    run, process = Run(tmp_path / "run"), finetune(tmp_path / "run")
    wait_for_step(process, run, 10)
    kept = Checkpoints(run.checkpoints).steps()[-1]
    psutil.Process(process.pid).rlimit(psutil.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    printed = ended(process, 1)
    assert "could not be written" in printed
    assert "Traceback" not in printed
    state, notices = Checkpoints(run.checkpoints).latest()
    assert state is not None
    assert state.step >= kept
    assert notices == ()
    ended(finetune(run.folder, "--resume"), 0)
    assert same_result(run, alone)


def test_a_loss_that_is_not_finite_names_the_rows_and_keeps_the_last_good_state(finetune, tmp_path) -> None:
    run = Run(tmp_path / "run")
    printed = ended(finetune(run.folder, "--learning_rate", "1e30"), 1)
    assert "Traceback" not in printed
    assert "rows.jsonl:" in printed
    state, notices = Checkpoints(run.checkpoints).latest()
    assert notices == ()
    assert state is not None
    assert all(tensor.isfinite().all() for tensor in state.tensors.values())
    assert not run.is_done


def test_a_resumed_run_keeps_the_number_type_it_began_with(finetune, alone, tmp_path) -> None:
    """`auto` measures; another start may measure otherwise. Here: begun where float32 was the faster one."""
    run = begun_and_killed(finetune, tmp_path / "run")
    checkpoints = Checkpoints(run.checkpoints)
    state, _ = checkpoints.latest()
    assert state is not None
    checkpoints.save(replace(state, settings={**state.settings, "model.dtype": "auto"}))
    ended(finetune(run.folder, "--resume", dtype="auto"), 0)
    assert run.summary["dtype"] == "float32"
    assert same_result(run, alone)
