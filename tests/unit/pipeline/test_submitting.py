"""A job of Azure ML, made and checked without any network: what is in it, what goes along, what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from oleaster.config.load import load_config, replace
from oleaster.config.schema import Config
from oleaster.core.errors import ConfigError
from oleaster.models.tiny import make_tiny
from oleaster.pipeline import foresee
from oleaster.pipeline.submitting import Place, load_job, make_job, send_job

pytest.importorskip("azure.ai.ml", reason="needs the extra 'azureml'")


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    """A recipe that names files beside it, above it and by their whole path; the current folder is its folder."""
    desk, before = tmp_path / "desk", Path.cwd()
    (desk / "data").mkdir(parents=True)
    row = json.dumps({"prompt": "what is it", "completion": "red"}) + "\n"
    for path in (desk / "data" / "a.jsonl", desk / "data" / "b.jsonl", tmp_path / "held.jsonl"):
        path.write_text(row * 4)
    make_tiny("llama", desk / "tiny")
    (tmp_path / "mine.py").write_text("COSTS = {}\n")
    os.chdir(desk)
    files = {
        "data_files": ["data/*.jsonl"],
        "eval_data_files": ["../held.jsonl"],
        "plugins": [str(tmp_path / "mine.py")],
    }
    steps = ["finetune", "merge", {"evaluate": {"data_files": "../held.jsonl"}}]
    yield replace(Config(), model_name_or_path="tiny", output_path="runs/first", passes=steps, **files)
    os.chdir(before)


def job_in(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "job.yml").read_text())


def test_what_goes_along_is_all_that_the_job_needs(config: Config, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    make_job(config, Place(), folder)
    sent = load_config(folder / "code" / "recipe.yaml")
    named = [*(sent.data.data_files or []), *(sent.data.eval_data_files or []), *map(str, sent.plugins)]
    assert [Path(name).name for name in named] == ["a.jsonl", "b.jsonl", "held.jsonl", "mine.py"]
    assert not [name for name in named if Path(name).is_absolute() or ".." in Path(name).parts]
    assert sent.passes[-1].settings["data_files"] in (["files/2/held.jsonl"], "files/2/held.jsonl")
    os.chdir(folder / "code")
    base = job_in(folder)["inputs"]["model_name_or_path"]["path"]
    steps = foresee(replace(sent, model_name_or_path=base, output_path="outputs/first"))
    assert [name for name, _ in steps] == ["finetune", "merge", "evaluate"]


def test_the_job_says_how_it_is_run(config: Config, tmp_path: Path) -> None:
    make_job(replace(config, passes=["finetune", "onnx"]), Place("big", experiment_name="tones"), tmp_path / "job")
    job = job_in(tmp_path / "job")
    install, run = job["command"].split(" && ")
    assert install.startswith("pip install 'oleaster[auto-opt]==")
    assert run == (
        "oleaster run recipe.yaml --output_path outputs/first --model_name_or_path ${{inputs.model_name_or_path}}"
    )
    assert (job["compute"], job["experiment_name"]) == ("azureml:big", "tones")


def test_a_wheel_of_ones_own_goes_along(config: Config, tmp_path: Path) -> None:
    (tmp_path / "oleaster-9-py3-none-any.whl").write_text("")
    make_job(config, Place(), tmp_path / "job", str(tmp_path / "oleaster-9-py3-none-any.whl"))
    install = job_in(tmp_path / "job")["command"].split(" && ")[0]
    wheel = install.removeprefix("pip install './").removesuffix("'")
    assert (tmp_path / "job" / "code" / wheel).is_file()
    with pytest.raises(ConfigError, match="there is no such wheel"):
        make_job(config, Place(), tmp_path / "job", "gone.whl")


def test_azures_schema_is_held_against_it(config: Config, tmp_path: Path) -> None:
    path = make_job(config, Place(instance_type="Standard_D8s_v5"), tmp_path / "job")
    path.write_text(path.read_text().replace("experiment_name", "experimentname"))
    with pytest.raises(ConfigError, match=r"(?s)Azure ML refuses the job.*Unknown field"):
        load_job(path)


def test_nothing_is_sent_without_a_workspace(config: Config, tmp_path: Path) -> None:
    path = make_job(config, Place(), tmp_path / "job")
    for place, said in ((Place(), "not given: the workspace"), (Place(subscription_id="x"), "some are missing")):
        with pytest.raises(ConfigError, match=said):
            send_job(path, place)


def test_a_folder_with_other_things_is_left_alone(config: Config, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the folder holds other things"):
        make_job(config, Place(), tmp_path / "desk")
