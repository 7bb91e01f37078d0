import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from oleaster.core.errors import ConfigError, DataError
from oleaster.core.run import Run, flat

RECIPE = "seed: 42\ntraining:\n  learning_rate: 0.0003\n  resume: false\n"
RESUMED = RECIPE.replace("false", "true")


def finished(folder: Path) -> Run:
    with Run.claim(folder, RECIPE) as run:
        run.adapter.mkdir()
        (run.adapter / "adapter_config.json").write_text("{}")
        run.finish({"loss": 0.5})
    return run


def unfinished(folder: Path) -> Run:
    with Run.claim(folder, RECIPE) as run:
        (run.checkpoints / "step-00000010").mkdir(parents=True)
    return run


def test_a_new_run_reads_back_equal(tmp_path: Path) -> None:
    run = finished(tmp_path / "out")
    again = Run.open(tmp_path / "out")
    assert again == run
    assert again.is_done
    assert again.summary == {"loss": 0.5}
    assert again.recipe.read_text() == RECIPE
    assert again.id == run.id
    assert len(run.id) == 12


def test_a_folder_without_a_recipe_is_no_run(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=r"oleaster finetune --output_path"):
            Run.open(folder)


@pytest.mark.parametrize("make", [finished, unfinished])
def test_work_is_not_overwritten_by_a_new_run(make, tmp_path: Path) -> None:
    make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="output_path"), Run.claim(tmp_path, RECIPE):
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_resume_may_be_given_at_any_time(tmp_path: Path) -> None:
    with Run.claim(tmp_path, RESUMED, resume=True) as run:
        assert run.recipe.read_text() == RESUMED
        (run.checkpoints / "step-00000010").mkdir(parents=True)
    with Run.claim(tmp_path, RESUMED, resume=True) as run:
        assert not run.is_done
        assert (run.checkpoints / "step-00000010").is_dir()
        run.finish({})
    with Run.claim(tmp_path, RESUMED, resume=True) as run:
        assert run.is_done


def test_resuming_a_finished_run_with_other_settings_names_them(tmp_path: Path) -> None:
    finished(tmp_path)
    with pytest.raises(ConfigError) as caught, Run.claim(tmp_path, RESUMED.replace("0.0003", "0.1"), resume=True):
        pass
    assert "- training.learning_rate: 0.0003 in the folder, 0.1 now" in str(caught.value)
    assert "resume" not in caught.value.message
    assert Run(tmp_path).is_done


def test_a_start_that_died_before_any_work_may_be_repeated(tmp_path: Path) -> None:
    with Run.claim(tmp_path, RECIPE) as run:
        run.log.write_text('{"step": 1}\n')
        run.checkpoints.mkdir()
        (run.checkpoints / ".step-00000001.tmp-1").mkdir()
    with Run.claim(tmp_path, RECIPE) as run:
        assert not run.log.exists()
        assert not run.checkpoints.exists()


def test_a_recipe_written_by_hand_is_kept(tmp_path: Path) -> None:
    (tmp_path / "oleaster.yaml").write_text("seed: 42  # mine\n")
    with Run.claim(tmp_path, RECIPE):
        pass
    assert (tmp_path / "oleaster.yaml").read_text() == RECIPE
    assert (tmp_path / "oleaster.yaml.before").read_text() == "seed: 42  # mine\n"


@pytest.mark.parametrize("resume", [False, True])
def test_a_foreign_folder_is_left_alone(resume: bool, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(ConfigError, match=r"thesis\.txt\n.*output_path"), Run.claim(tmp_path, RECIPE, resume=resume):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(ConfigError, match="a file is in the place"), Run.claim(tmp_path / "thesis.txt", RECIPE):
        pass


def test_two_processes_cannot_have_one_folder_and_a_kill_frees_it(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from oleaster.core.run import Run\n"
        f"with Run.claim(pathlib.Path({str(tmp_path)!r}), {RECIPE!r}): print('in', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"
        refused = pytest.raises(ConfigError, match=f"another process works .*process {other.pid}, since")
        with refused, Run.claim(tmp_path, RECIPE, resume=True):
            pass
        assert Run(tmp_path).is_under_way
        os.kill(other.pid, signal.SIGKILL)
    assert not Run(tmp_path).is_under_way
    with Run.claim(tmp_path, RECIPE):
        pass


def test_a_folder_above_runs_names_the_highest_and_newest_first(tmp_path: Path) -> None:
    for age, name in enumerate(("support/first", "support/search/trials/0000", "old")):
        folder = tmp_path / "runs" / name
        with Run.claim(folder, RECIPE):
            pass
        os.utime(folder / "oleaster.yaml", (1e9 - age, 1e9 - age))
    runs = tmp_path / "runs"
    with pytest.raises(ConfigError, match="holds one") as one:
        Run.open(runs / "support" / "search")
    assert one.value.remedy == f"name it: {runs}/support/search/trials/0000"
    with pytest.raises(ConfigError, match="holds some") as some:
        Run.open(runs)
    assert some.value.remedy == f"name one: {runs}/old, {runs}/support/first"  # trials lie deeper than is looked


def test_the_log_reads_back_without_its_torn_end(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.read_log() == []
    run.log.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert run.read_log() == [{"step": 1}, {"step": 2}]
    run.log.write_text('{"step": 1}\nnot json\n{"step": 3}\n')
    with pytest.raises(DataError, match=r"log\.jsonl:2"):
        run.read_log()


def test_flat_joins_keys() -> None:
    assert flat({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}


def refused(folder: Path, *, with_work: bool) -> None:
    with Run.claim(folder, RECIPE) as run:
        if with_work:
            (run.checkpoints / "step-00000010").mkdir(parents=True)
        raise ConfigError("there is no such module")


def test_wrong_input_that_shows_late_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        refused(tmp_path / "out", with_work=False)
    assert list(tmp_path.iterdir()) == []


def test_work_and_folders_of_the_users_stay_when_input_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        refused(tmp_path / "out", with_work=True)
    assert (tmp_path / "out" / "checkpoints" / "step-00000010").is_dir()
    (tmp_path / "own").mkdir()
    with pytest.raises(ConfigError):
        refused(tmp_path / "own", with_work=False)
    assert (tmp_path / "own").is_dir()
