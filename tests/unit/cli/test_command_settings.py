"""Which recipe stands behind a command line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from oleaster.cli import finetune
from oleaster.cli.finetune import kept
from oleaster.cli.settings import config_for, recipes_behind, set_log_level
from oleaster.cli.words import Given, parse
from oleaster.config.load import replace, save_config
from oleaster.config.rules import ALWAYS
from oleaster.config.schema import Config

EARLIER = replace(Config(), model_name_or_path="M", data_name="D", output_path="runs/a", max_steps=7)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """An empty current folder; the environment of libraries is put back."""
    before, environment = Path.cwd(), dict(os.environ)
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)
    os.environ.clear()
    os.environ.update(environment)


def typed(*words: str) -> Given:
    return parse(finetune.command(), words)


def test_named_recipes_that_are_complete_stand_alone(project: Path) -> None:
    save_config(EARLIER, project / "oleaster.yaml")
    save_config(EARLIER, project / "other.yaml")
    assert recipes_behind(typed("--config", "other.yaml")) == [Path("other.yaml")]


def test_a_named_fragment_is_laid_over_the_folders_recipe(project: Path) -> None:
    save_config(EARLIER, project / "oleaster.yaml")
    (project / "fast.yaml").write_text("training: {max_steps: 2}\n")
    (project / "more.yaml").write_text("seed: 5\n")
    given = typed("--config", "fast.yaml", "more.yaml")
    assert recipes_behind(given) == [Path("oleaster.yaml"), Path("fast.yaml"), Path("more.yaml")]
    assert config_for(given, recipes_behind(given), ALWAYS) == replace(EARLIER, max_steps=2, seed=5)


def test_a_fragment_goes_on_from_its_output_folder_then_the_current_one(project: Path) -> None:
    assert recipes_behind(typed("--output_path", "runs/a")) == []
    save_config(EARLIER, project / "oleaster.yaml")
    assert recipes_behind(typed("--logging_steps", "10")) == [Path("oleaster.yaml")]
    assert recipes_behind(typed("--output_path", "runs/a")) == [Path("oleaster.yaml")]
    save_config(EARLIER, project / "runs/a/oleaster.yaml")
    assert recipes_behind(typed("--output_path", "runs/a")) == [Path("runs/a/oleaster.yaml")]


def test_nothing_of_an_earlier_run_slips_into_a_complete_command(project: Path) -> None:
    save_config(EARLIER, project / "oleaster.yaml")
    assert recipes_behind(typed("-m", "M", "-d", "D")) == []
    assert recipes_behind(typed("-m", "M", "--data_files", "x")) == []


def test_typed_settings_go_before_the_recipe(project: Path) -> None:
    save_config(EARLIER, project / "oleaster.yaml")
    given = typed("--max_steps", "9", "--log_level", "1")
    config = config_for(given, recipes_behind(given), ALWAYS)
    assert config == replace(EARLIER, max_steps=9, log_level=1)
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "info"


def test_log_levels_count_like_olives(project: Path) -> None:
    for level, name in enumerate(("debug", "info", "warning", "error", "critical")):
        set_log_level(level)
        assert os.environ["DATASETS_VERBOSITY"] == name


def test_a_stopped_run_says_what_is_kept(tmp_path: Path) -> None:
    assert "nothing of the training is kept" in kept(tmp_path)
    for step, age in ((5, 20), (10, 10)):
        folder = tmp_path / f"checkpoints/step-{step}"
        folder.mkdir(parents=True)
        os.utime(folder, (1e9 - age, 1e9 - age))
    (tmp_path / "checkpoints/.step-15.tmp-1").mkdir()
    said = kept(tmp_path)
    assert f"{tmp_path}/checkpoints/step-10 is kept" in said
    assert f"oleaster finetune --output_path {tmp_path} --resume" in said
