"""Who may begin or join a search in a folder, and what is kept of the best trial."""

from __future__ import annotations

from pathlib import Path

import pytest

from oleaster.config.load import load_config, replace, save_config
from oleaster.config.schema import Config
from oleaster.core.errors import ConfigError
from oleaster.core.run import Run
from oleaster.search.folder import claim, keep_best, trial_folder

SEARCH = replace(Config(), search_space={"lora_r": [2, 4]}, num_trials=4)


def begun(folder: Path) -> Path:
    claim(folder, SEARCH)
    trial_folder(folder, 0).mkdir(parents=True)
    return folder


def test_a_search_that_began_is_joined_with_resume_only(tmp_path: Path) -> None:
    folder = begun(tmp_path / "s")
    with pytest.raises(ConfigError, match="--resume goes on"):
        claim(folder, SEARCH)
    claim(folder, replace(SEARCH, resume=True, num_trials=8, budget_minutes=1, search_workers=2, num_threads=1))
    assert load_config(folder / "search.yaml").search_strategy.num_trials == 8
    assert not load_config(folder / "search.yaml").training.resume


def test_what_is_compared_must_stay_the_same(tmp_path: Path) -> None:
    folder = begun(tmp_path / "s")
    with pytest.raises(ConfigError) as error:
        claim(folder, replace(SEARCH, resume=True, lora_dropout=0.1, objectives="accuracy"))
    assert "lora_dropout: 0.0 then, 0.1 now" in str(error.value)
    assert "objectives: ['eval_loss'] then, ['accuracy'] now" in str(error.value)


def test_a_start_without_a_trial_is_no_search(tmp_path: Path) -> None:
    claim(tmp_path / "s", SEARCH)
    (tmp_path / "s" / "study.journal").write_text("of another aim")
    claim(tmp_path / "s", replace(SEARCH, objectives="accuracy"))
    assert not (tmp_path / "s" / "study.journal").exists()


def test_who_joins_before_the_first_trial_leaves_what_is_known(tmp_path: Path) -> None:
    claim(tmp_path / "s", SEARCH)
    journal = tmp_path / "s" / "study.journal"
    journal.write_text("of the process that began")
    claim(tmp_path / "s", replace(SEARCH, resume=True))
    assert journal.read_text() == "of the process that began"
    with pytest.raises(ConfigError, match="objectives"):
        claim(tmp_path / "s", replace(SEARCH, resume=True, objectives="accuracy"))


def test_the_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match=r"not of a search: letter\.txt"):
        claim(tmp_path, SEARCH)
    with pytest.raises(ConfigError, match="is a file"):
        claim(tmp_path / "letter.txt", SEARCH)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_the_best_trial_has_a_folder_and_a_recipe_of_its_own(tmp_path: Path) -> None:
    folder = begun(tmp_path / "s")
    run = Run(trial_folder(folder, 0))
    save_config(replace(Config(), output_path=str(run.folder), lora_r=4, num_threads=1), run.recipe)
    for path in (run.adapter / "adapter.safetensors", run.checkpoints / "step-1" / "x", run.done):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    for _ in range(2):
        best = keep_best(folder, 0, None)
    assert best.is_done
    assert (best.adapter / "adapter.safetensors").read_text() == "{}"
    assert not best.checkpoints.exists()
    recipe = load_config(best.recipe)
    assert (recipe.output_path, recipe.method.lora_r, recipe.training.num_threads) == (folder / "best", 4, None)
