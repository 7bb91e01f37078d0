"""`oleaster search` as a person uses it: the tutorial's blocks, a kill in the middle, two workers, wrong spaces."""

from __future__ import annotations

import json
import time
from pathlib import Path

import psutil
import pytest
from command_line import Program

from tutorial import SEARCH


@pytest.fixture
def recipe(tiny: Path, rows: Path, tmp_path: Path) -> Path:
    path = tmp_path / "hyperparameter-search.yaml"
    path.write_text(
        f"""\
model: {{model_name_or_path: {tiny}, dtype: float32}}
data: {{data_name: {rows}, prompt_field: phrase, completion_field: tone}}
training: {{max_steps: 12, num_threads: 1}}
watch: {{eval_steps: 2}}
"""
        + SEARCH.replace("num_trials: 20", "num_trials: 4"),
        encoding="utf-8",
    )
    return path


def trials(folder: Path) -> list[tuple[object, ...]]:
    """What is in the study, as another tool for Optuna sees it."""
    import optuna

    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "study.journal")))
    study = optuna.load_study(study_name="oleaster", storage=storage)
    return [(t.number, t.state.name, tuple(t.params.items()), t.value) for t in study.trials]


def test_killed_in_the_middle_it_ends_as_one_left_alone(program: Program, recipe: Path, tmp_path: Path) -> None:
    done = program("search", "--config", recipe, "-o", "whole", cwd=tmp_path)
    for name in ("best/adapter/adapter_model.safetensors", "best/oleaster.yaml", "report.html", "search.yaml"):
        assert (tmp_path / "whole" / name).is_file()
    assert "4 of 4 complete trials" in done.stdout
    assert "next: oleaster evaluate whole/best" in done.stdout
    killed = program.start("search", "--config", recipe, "-o", "killed", cwd=tmp_path)
    assert killed.stdout is not None
    for line in killed.stdout:
        if "trial 2:" in line:
            break
    killed.kill()
    killed.communicate()
    assert [state for _, state, *_ in trials(tmp_path / "killed")] == ["COMPLETE", "COMPLETE", "RUNNING"]
    program("report", "killed", "-o", "now.html", cwd=tmp_path)
    assert "2 of 4" in (tmp_path / "now.html").read_text("utf-8")
    goes_on = program("search", "-o", "killed", "--resume", cwd=tmp_path)
    assert "trial 2 goes on" in goes_on.stdout
    assert trials(tmp_path / "killed") == trials(tmp_path / "whole")
    best = [tmp_path / name / "best/adapter/adapter_model.safetensors" for name in ("whole", "killed")]
    assert best[0].read_bytes() == best[1].read_bytes()
    refused = program("search", "--config", recipe, "-o", "whole", cwd=tmp_path, code=2)
    assert "--resume goes on with it" in refused.stderr


def test_two_workers_share_one_study(program: Program, recipe: Path, tmp_path: Path) -> None:
    done = program("search", recipe, "-o", "two", "--search_workers", "2", "--num_trials", "6", cwd=tmp_path)
    assert "6 of 6 complete trials" in done.stdout
    found = trials(tmp_path / "two")
    assert [(number, state) for number, state, *_ in found] == [(i, "COMPLETE") for i in range(6)]
    assert len({params for _, _, params, _ in found}) == 6
    begun = [json.loads((tmp_path / f"two/trials/{i:04d}/DONE").read_text())["steps"] for i in range(6)]
    assert begun == [12] * 6


def test_when_a_worker_is_killed_its_trial_goes_on_elsewhere(program: Program, recipe: Path, tmp_path: Path) -> None:
    settings = ("--num_trials", "2", "--search_workers", "2", "--max_steps", "300", "--eval_steps", "20")
    running = program.start("search", recipe, "-o", "two", *settings, cwd=tmp_path)
    steps = [tmp_path / "two" / "trials" / name / "log.jsonl" for name in ("0000", "0001")]
    while not all(log.exists() and log.read_text().count("eval_loss") > 0 for log in steps):
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    (worker,) = [p for p in psutil.Process(running.pid).children() if "oleaster.pipeline.search_workers" in p.cmdline()]
    worker.kill()
    said, _ = running.communicate(timeout=240)
    assert running.returncode == 0
    assert "a worker ended with code -9; its trial goes on here" in said
    assert "goes on" in said.replace("its trial goes on here", "")
    assert [(number, state) for number, state, *_ in trials(tmp_path / "two")] == [(i, "COMPLETE") for i in range(2)]
    done = [json.loads((tmp_path / f"two/trials/{i:04d}/DONE").read_text())["steps"] for i in range(2)]
    assert done == [300] * 2


def test_a_wrong_space_is_answered_line_by_line(program: Program, recipe: Path, tmp_path: Path) -> None:
    text = recipe.read_text(encoding="utf-8").replace("learning_rate:", "learning_rat:").replace("low: 8", "low: 80")
    recipe.write_text(text, encoding="utf-8")
    done = program("search", recipe, "-o", "no", cwd=tmp_path, code=2)
    assert "hyperparameter-search.yaml:11: search_space.learning_rat: there is no such setting" in done.stderr
    assert "did you mean 'learning_rate'?" in done.stderr
    assert "hyperparameter-search.yaml:19: search_space.lora_r.low: 80 is not below high (64)" in done.stderr
    assert not (tmp_path / "no").exists()


def test_a_dry_run_says_what_would_be_searched(program: Program, recipe: Path, tmp_path: Path) -> None:
    done = program("search", recipe, "-o", "no", "--dry_run", cwd=tmp_path)
    assert "4, chosen by random, 1 at a time" in done.stdout
    assert "learning_rate: 1e-06 to 0.001 (log)" in done.stdout
    assert not (tmp_path / "no").exists()
