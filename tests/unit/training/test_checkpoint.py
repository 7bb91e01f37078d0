import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oleaster.config.schema import Config
from oleaster.core.errors import CheckpointError, ConfigError, StorageError
from oleaster.training.checkpoint import (
    Best,
    Checkpoints,
    TrainState,
    capture_rng,
    restore_rng,
    settings_that_matter,
)


def state_at(step: int, best: Best | None = None, size: int = 16) -> TrainState:
    """A state whose every part tells its step."""
    weight = torch.full((size, size), float(step))
    return TrainState(
        step=step,
        tensors={"layer.weight": weight, "layer.bias": torch.full((size,), step, dtype=torch.bfloat16)},
        optimizer={
            "state": {0: {"step": torch.tensor(float(step)), "exp_avg": weight * 2}},
            "param_groups": [{"lr": 0.1 / step, "betas": (0.9, 0.999), "fused": True, "params": [0]}],
        },
        scheduler={"last_epoch": step, "_last_lr": [0.1 / step], "lr_lambdas": [{}]},
        rng=capture_rng(),
        best=best,
        counters={"target_tokens": 10 * step, "loss_sum": 0.1 * step},
        watchers={"early_stopping": {"failures": 1, "best_loss": 1 / 3}},
        settings={"seed": 42, "training.learning_rate": 0.0003},
    )


def assert_equal(a: Any, b: Any) -> None:
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert a == b


def damage(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)


def test_a_state_reads_back_equal_to_the_bit(tmp_path: Path) -> None:
    written = state_at(3, Best(1 / 3, 3))
    folder = Checkpoints(tmp_path).save(written)
    read, notices = Checkpoints(tmp_path).latest(settings=written.settings)
    assert read is not None
    assert notices == ()
    for name in ("tensors", "optimizer", "scheduler", "rng", "counters", "watchers", "settings"):
        a, b = getattr(written, name), getattr(read, name)
        assert_equal(dict(sorted(a.items())), dict(sorted(b.items())))
    assert (read.step, read.best) == (written.step, written.best)
    assert folder.name == "step-00000003"
    assert json.loads((folder / "manifest.json").read_text())["step"] == 3


def test_random_generators_go_on_where_they_were(tmp_path: Path) -> None:
    def draw() -> tuple[Any, ...]:
        return torch.randn(3).tolist(), random.random(), random.gauss(0, 1), np.random.rand(2).tolist()

    random.gauss(0, 1)  # leaves half a pair behind in the generator, which belongs to its state
    np.random.randn()
    Checkpoints(tmp_path).save(state_at(1))
    expected = draw()
    state, _ = Checkpoints(tmp_path).latest()
    assert state is not None
    restore_rng(state.rng)
    assert draw() == expected


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, save_total_limit=2)
    assert checkpoints.best() == (None, ())
    for step, best in ((10, 10), (20, 20), (30, 20), (40, 20), (50, 20)):
        checkpoints.save(state_at(step, Best(1.0 / best, best)))
    assert checkpoints.steps() == [20, 40, 50]
    state, _ = checkpoints.best()
    assert state is not None
    assert state.step == 20


def test_a_damaged_best_is_named_and_the_best_before_it_used(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, save_total_limit=3)
    for step, best in ((10, 10), (20, 20), (30, 20)):
        checkpoints.save(state_at(step, Best(1.0 / best, best)))
    damage(tmp_path / "step-00000020", "trainable.safetensors")
    state, notices = checkpoints.best()
    assert state is not None
    assert state.step == 10
    assert "step-00000020 is damaged (trainable.safetensors is not what was written)" in notices[0].text


FILES = ["trainable.safetensors", "optimizer.pt", "state.json", "manifest.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["flipped", "missing", "cut"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(name: str, how: str, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_at(1))
    path = checkpoints.save(state_at(2)) / name
    if how == "missing":
        path.unlink()
    elif how == "cut":
        os.truncate(path, path.stat().st_size // 2)
    else:
        damage(path.parent, name)
    state, notices = checkpoints.latest()
    assert state is not None
    assert state.step == 1
    assert [(n.kind, n.step) for n in notices] == [("checkpoint_damaged", 2)]
    assert name in notices[0].text
    assert "step-00000002" in notices[0].text


def test_after_a_damage_the_new_way_replaces_the_old_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, save_total_limit=2)
    for step in (10, 20):
        checkpoints.save(state_at(step))
    damage(tmp_path / "step-00000020", "state.json")
    checkpoints.save(state_at(15))
    assert checkpoints.steps() == [10, 15]


def test_none_is_a_start_and_none_left_is_an_error(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    state, notices = checkpoints.latest()
    assert state is None
    assert [n.kind for n in notices] == ["no_checkpoint"]
    for step in (1, 2):
        damage(checkpoints.save(state_at(step)), "optimizer.pt")
    with pytest.raises(CheckpointError, match=r"(?s)step-00000002 is damaged.*step-00000001 is damaged"):
        checkpoints.latest()


def test_changed_settings_are_all_named(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(state_at(5))
    now = {"training.learning_rate": 0.1, "seed": 42, "data_hash": "ab"}
    with pytest.raises(ConfigError) as caught:
        Checkpoints(tmp_path).latest(settings=now)
    text = str(caught.value)
    assert "- training.learning_rate: 0.0003 then, 0.1 now" in text
    assert "- data_hash: None then, 'ab' now" in text
    assert "seed" not in text


def test_what_only_watches_may_change() -> None:
    def settings(**changes: Any) -> dict[str, Any]:
        config = Config.model_validate(changes)
        return settings_that_matter(config.model_dump(mode="json"), data_hash="ab")

    same = settings()
    assert same["data_hash"] == "ab"
    assert "training.learning_rate" in same
    assert settings(watch={"logging_steps": 1}, output_path="x", training={"resume": True, "num_threads": 1}) == same
    for change in ({"seed": 1}, {"training": {"learning_rate": 0.1}}, {"data": {"max_length": 5}}):
        assert settings(**change) != same


def test_the_same_step_may_be_saved_again(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_at(1))
    checkpoints.save(replace(state_at(1), counters={"again": 1}))
    state, _ = checkpoints.latest()
    assert state is not None
    assert state.counters == {"again": 1}


# ---- kills -----------------------------------------------------------------------------------------------------------

SAVER = """
import os, random, signal, sys, time
from pathlib import Path
from oleaster.training.checkpoint import Best, Checkpoints
from test_checkpoint import state_at

folder, dice = Path(sys.argv[1]), random.Random(0)

def say(word):
    # One write for the whole line: a kill between a word and its newline would glue the next word to it.
    os.write(1, f"{word}\\n".encode())

def save_for_ever(seed, deadly):
    dice = random.Random(seed)
    def at(moment):
        if dice.random() < deadly:
            say(moment)
            os.kill(os.getpid(), signal.SIGKILL)
    checkpoints = Checkpoints(folder, save_total_limit=2, at=at)
    state, notices = Checkpoints(folder).latest()
    assert [n.kind for n in notices] == ([] if state else ["no_checkpoint"])
    step = state.step if state else 0
    while True:
        step += 1
        best = step - step % 3
        checkpoints.save(state_at(step, Best(1.0 / best, best) if best else None, size=64))
        say(step)

# One process does the imports and forks a child per death.
for death in range(60):
    inside = death % 3 != 0
    pid = os.fork()
    if pid == 0:
        try:
            save_for_ever(seed=death, deadly=0.12 if inside else 0.0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    if not inside:
        time.sleep(dice.uniform(0.0, 0.08))
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), f"the child ended by itself: {status}"
    say("dead")
"""


def test_sixty_kills(tmp_path: Path) -> None:
    """Two thirds at chosen moments inside a save, a third from outside at any time; after each, all loads whole."""
    command = [sys.executable, "-c", SAVER, str(tmp_path / "checkpoints")]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split()
    assert lines.count("dead") == 60
    moments = {line for line in lines if line.isalpha()} - {"dead"}
    assert moments == {"tensors", "optimizer", "state", "manifest", "renamed", "rotated"}
    # Each child goes on from what it could load: were a durable checkpoint lost, a step would be announced twice.
    announced = [int(line) for line in lines if line.isdigit()]
    assert announced == sorted(set(announced))
    checkpoints = Checkpoints(tmp_path / "checkpoints", save_total_limit=2)
    state, notices = checkpoints.latest()
    assert state is not None
    assert notices == ()
    assert state.step >= announced[-1]
    assert torch.equal(state.tensors["layer.weight"], torch.full((64, 64), float(state.step)))
    checkpoints.save(state_at(state.step + 1, state.best))
    assert len(checkpoints.steps()) <= 3
    assert [p.name for p in checkpoints.folder.iterdir() if p.name.startswith(".")] == []


# ---- disk full -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("this user may not mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_too_small_is_known_before_the_write(small_disk: Path) -> None:
    checkpoints = Checkpoints(small_disk / "checkpoints")
    checkpoints.save(state_at(1, size=128))
    with pytest.raises(StorageError, match=r"needs [\d.]+ MB, [\d.]+ MB are free: [\d.]+ MB are missing"):
        checkpoints.save(state_at(2, size=1024))
    state, notices = checkpoints.latest()
    assert state is not None
    assert (state.step, notices) == (1, ())


def test_a_disk_that_fills_up_during_the_save_leaves_the_one_before(small_disk: Path) -> None:
    def fill(moment: str) -> None:
        if moment == "tensors":
            (small_disk / "other").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 8192))

    Checkpoints(small_disk / "checkpoints").save(state_at(1, size=128))
    with pytest.raises(StorageError, match="the disk is full"):
        Checkpoints(small_disk / "checkpoints", at=fill).save(state_at(2, size=128))
    (small_disk / "other").unlink()
    checkpoints = Checkpoints(small_disk / "checkpoints")
    state, notices = checkpoints.latest()
    assert state is not None
    assert (state.step, notices) == (1, ())
    assert [p.name for p in checkpoints.folder.iterdir()] == ["step-00000001"]
    checkpoints.save(state_at(2, size=128))


@pytest.mark.parametrize("small", ["tensors", "optimizer"])
def test_a_limit_on_files_is_a_storage_error_whichever_library_writes(small: str, tmp_path: Path) -> None:
    state = state_at(1, size=64)
    state = replace(state, tensors={}) if small == "tensors" else state
    before, ignore = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(StorageError, match="could not be written"):
            Checkpoints(tmp_path / "checkpoints").save(state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignore)
    assert list((tmp_path / "checkpoints").iterdir()) == []
