"""Which run and which recipe stand behind a path."""

from __future__ import annotations

from pathlib import Path

import pytest

from oleaster.config.load import load_config, replace, save_config
from oleaster.config.schema import Config
from oleaster.core.artifact import Artifact
from oleaster.core.line import run_of
from oleaster.pipeline.loading import recipe_of

RECIPE = replace(Config(), model_name_or_path="M", data_name="D", output_path="runs/a", text_template="Q: {q} A: {a}")


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """An artifact inside a run's folder, with a recipe of its own."""
    save_config(RECIPE, tmp_path / "run/oleaster.yaml")
    folder = tmp_path / "run/onnx"
    with Artifact.staged(folder) as stage:
        save_config(replace(RECIPE, task_name="shipped"), stage / "oleaster.yaml")
        Artifact.seal(stage, kind="onnx-genai", precision="int8", base_source="M", base_revision="")
    return folder


def test_a_runs_recipe_is_found_from_its_parts(tmp_path: Path) -> None:
    save_config(RECIPE, tmp_path / "run/oleaster.yaml")
    found = tmp_path / "run/oleaster.yaml"
    assert (
        recipe_of(tmp_path / "run") == recipe_of(tmp_path / "run/model") == recipe_of(tmp_path / "run/adapter") == found
    )
    assert recipe_of("HuggingFaceTB/SmolLM2-135M") is None


def test_a_model_beside_a_recipe_is_no_part_of_a_run(tmp_path: Path) -> None:
    save_config(RECIPE, tmp_path / "oleaster.yaml")
    assert run_of(tmp_path / "smollm2") is None


def test_an_artifact_carries_its_recipe_and_is_no_run(artifact: Path) -> None:
    assert run_of(artifact) is None
    recipe = recipe_of(artifact)
    assert recipe == artifact / "oleaster.yaml"
    assert load_config(recipe).task_name == "shipped"
