"""Where the files are that a run's recipe names, seen from elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from oleaster.config.load import leaf_values, load_config, replace, save_config
from oleaster.config.places import seen_from
from oleaster.config.schema import Config
from oleaster.core.artifact import Artifact

ROWS = {"data_files": ["rows/a.jsonl", "rows/more-*.jsonl"], "eval_data_files": ["rows/held.jsonl"]}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with rows and, in runs/first, the recipe of a run that was begun there."""
    folder = tmp_path / "project"
    for name in ("a", "more-1", "held"):
        (folder / "rows").mkdir(parents=True, exist_ok=True)
        (folder / "rows" / f"{name}.jsonl").touch()
    (folder / "runs" / "first").mkdir(parents=True)
    config = load_config(None, {**ROWS, "output_path": "runs/first", "model_name_or_path": "owner/model"})
    save_config(config, folder / "runs" / "first" / "oleaster.yaml")
    return folder


def read(project: Path) -> Config:
    return load_config(project / "runs" / "first" / "oleaster.yaml")


def test_from_another_folder_the_rows_are_where_the_run_was_begun(project: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    data = read(project).data
    assert data.data_files == [str(project / "rows" / name) for name in ("a.jsonl", "more-*.jsonl")]
    assert data.eval_data_files == [str(project / "rows" / "held.jsonl")]


def test_a_project_may_be_moved_as_a_whole(project: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    moved = Path(shutil.move(project, tmp_path / "elsewhere"))
    assert read(moved).data.eval_data_files == [str(moved / "rows" / "held.jsonl")]


def test_what_is_found_from_here_and_what_is_of_the_hub_stays_as_it_was_typed(project: Path, monkeypatch) -> None:
    monkeypatch.chdir(project)
    assert read(project).data.data_files == ROWS["data_files"]
    assert read(project).model.model_name_or_path == "owner/model"


def test_a_run_taken_out_of_its_project_says_nothing_about_where_its_rows_are(
    project: Path, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    alone = Path(shutil.move(project / "runs" / "first", tmp_path / "alone"))
    assert load_config(alone / "oleaster.yaml").data.data_files == ROWS["data_files"]


@pytest.mark.parametrize("output", ["{folder}", "../first"])
def test_a_folder_named_from_the_root_or_from_above_says_nothing(output: str, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "work" / "first"
    (tmp_path / "work" / "rows").mkdir(parents=True)
    folder.mkdir()
    text = f"output_path: {output.format(folder=folder)}\ndata: {{data_name: rows}}\n"
    (folder / "oleaster.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert load_config(folder / "oleaster.yaml").data.data_name == "rows"


def test_an_artifacts_recipe_counts_from_the_artifact(project: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(project)
    there, values = project / "out" / "onnx", leaf_values(read(project))
    with Artifact.staged(there) as stage:
        save_config(replace(read(project), **seen_from(there, values)), stage / "oleaster.yaml")
        Artifact.seal(stage, kind="onnx-genai", precision="int8", base_source="M", base_revision="")
    assert "../../rows/held.jsonl" in (there / "oleaster.yaml").read_text()
    monkeypatch.chdir(tmp_path)
    moved = Path(shutil.move(project, tmp_path / "elsewhere"))
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "held.jsonl").touch()  # of the same name, where the command is typed
    config = load_config(moved / "out" / "onnx" / "oleaster.yaml")
    assert config.data.data_files == [str(moved / "rows" / name) for name in ("a.jsonl", "more-*.jsonl")]
    assert config.data.eval_data_files == [str(moved / "rows" / "held.jsonl")]
    assert config.output_path == moved / "runs" / "first"
    assert config.model.model_name_or_path == "owner/model"


def test_a_runs_rows_are_those_of_its_own_project(project: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "held.jsonl").touch()
    assert read(project).data.eval_data_files == [str(project / "rows" / "held.jsonl")]
