"""Trainings and searches on a Ray cluster of two nodes, both on this machine."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from command_line import Program

import oleaster
from oleaster.core.run import Run

pytest.importorskip("ray", reason="needs the extra 'ray'")
SETTINGS = (
    *("--prompt_field", "phrase", "--completion_field", "tone"),
    *("--dtype", "float32", "--logging_steps", "1", "--eval_steps", "4"),
    *("--learning_rate", "3e-3", "--early_stopping_patience", "0"),
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Two nodes of one core each; gives their address."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  Ray's own name; beside other programs a node would never get to work
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    yield nodes.address
    nodes.shutdown()


@pytest.fixture(scope="module")
def program() -> Program:
    """As for the other commands, but that nodes may speak with each other."""
    package = str(Path(oleaster.__file__).parents[1])
    return Program({**os.environ, "PYTHONPATH": package, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})


def losses(folder: Path) -> list[float]:
    return [event["loss"] for event in Run(folder).read_log() if event["event"] == "step"]


def test_a_training_on_two_nodes(program: Program, cluster: str, tiny: Path, rows: Path, tmp_path: Path) -> None:
    words = ("finetune", "-m", tiny, "-d", rows, *SETTINGS, "--max_steps", "8")
    program(*words, "-o", "one", "--per_device_train_batch_size", "8", cwd=tmp_path)
    on_ray = ("--ray_workers", "2", "--ray_address", cluster, "--per_device_train_batch_size", "4")
    done = program(*words, "-o", "two", *on_ray, cwd=tmp_path)
    assert "oleaster watch two" in done.stdout
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    assert "num_threads: 1" in Run(tmp_path / "two").recipe.read_text()  # its share of the cluster
    assert {path.name for path in (tmp_path / "two").iterdir()} & {"ray", "oleaster.yaml.before"} == set()
    again = program(*words, "-o", "two", *on_ray, cwd=tmp_path, code=2)
    assert "holds a finished run" in again.stderr


def test_a_killed_process_of_a_training_is_begun_again(
    program: Program, cluster: str, tiny: Path, rows: Path, tmp_path: Path
) -> None:
    words = ("finetune", "-m", tiny, "-d", rows, *SETTINGS, "--max_steps", "100", "--save_steps", "3")
    run = Run(tmp_path / "run")
    running = program.start(*words, "-o", "run", "--ray_workers", "2", "--ray_address", cluster, cwd=tmp_path)
    while not (run.log.exists() and len(run.read_log()) > 12):
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    first = workers()
    assert len(first) == 2
    psutil.Process(max(first)).kill()
    while not workers() - first:
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    _, errors = running.communicate(timeout=240)
    assert running.returncode == 0, errors
    assert run.is_done
    steps = [event["step"] for event in run.read_log() if event["event"] == "step"]
    assert steps == list(range(1, 101))


def workers() -> set[int]:
    """Process ids."""
    return {p.pid for p in psutil.process_iter(["cmdline"]) if "RayTrainWorker" in " ".join(p.info["cmdline"] or ())}


def test_a_search_on_two_nodes(program: Program, cluster: str, tiny: Path, rows: Path, tmp_path: Path) -> None:
    words = ("search", "-m", tiny, "-d", rows, *SETTINGS, "--max_steps", "8", "-o", "found", "--num_trials", "4")
    space = json.dumps({"lora_r": [2, 4, 8, 16]})
    on_ray = ("--search_strategy", "grid", "--search_engine", "ray", "--ray_address", cluster, "--search_workers", "2")
    done = program(*words, "--search_space", space, *on_ray, cwd=tmp_path)
    assert "4 of 4 complete trials" in done.stdout
    assert all(Run(tmp_path / "found" / "trials" / f"{i:04d}").is_done for i in range(4))
