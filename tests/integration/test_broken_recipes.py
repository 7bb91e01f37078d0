"""Twenty broken recipes, and the one line that `oleaster check` answers each with (its remedy stands in the next)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from oleaster.cli.main import main

RECIPE = """\
model: {model_name_or_path: tiny}
data:
  data_files: rows.jsonl
  prompt_field: phrase
  completion_field: tone
method: {lora_r: 4}
training: {max_steps: 4}
export: {precision: fp32}
passes: [finetune, evaluate, onnx]
output_path: out
"""
PLUGIN = """\
from pathlib import Path
from typing import Annotated

from pydantic import Field

from oleaster.pipeline.passes import Work, passes


@passes.register("halve")
def halve(work: Work, *, share: Annotated[float, Field(gt=0, lt=1)] = 0.5) -> Path:
    return work.output
"""
OLIVE = """\
input_model: {type: HfModel, model_path: tiny}
data_configs:
- name: rows
  type: HuggingfaceContainer
  load_dataset_config: {data_files: rows.jsonl}
  pre_process_data_config: {text_template: "{phrase} {tone}"}
passes:
  f: {type: LoRA, r: 4, train_data_config: rows}
"""


@pytest.fixture(scope="session")
def halve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pass in a file of its own; one file for all tests, as a process knows a pass once."""
    path = tmp_path_factory.mktemp("passes") / "halve.py"
    path.write_text(PLUGIN)
    return path


@pytest.fixture
def project(tiny: Path, rows: Path, halve: Path, tmp_path: Path) -> Iterator[Path]:
    """The current folder, with a model, rows, rows that are broken, and a pass."""
    (tmp_path / "tiny").symlink_to(tiny)
    (tmp_path / "rows.jsonl").symlink_to(rows)
    lines = rows.read_text().splitlines()
    broken = [lines[0], '{"phrase": "a"', lines[2], json.dumps({"phrase": "b"})]
    (tmp_path / "broken.jsonl").write_text("\n".join(broken) + "\n")
    (tmp_path / "halve.py").symlink_to(halve)
    (tmp_path / "wrong.py").write_text("\nimport no_such_module\n")
    before = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)


CASES = [
    ("modle:", "model:", "r.yaml:1: there is no section or setting 'modle'"),
    ("max_steps: 4", "max_steps: four", "r.yaml:7: training.max_steps: 'four' is no whole number"),
    ("lora_r: 4", "lora_r: 4, lora_dropout: 1.5", "r.yaml:6: method.lora_dropout: '1.5' must be less than 1"),
    ("lora_r: 4", "lora_r: 4, learning_rate: 1e-3", "r.yaml:6: 'learning_rate' stands in section training"),
    ("lora_r: 4", "lora_r: 4, lora_r: 8", "r.yaml:6: 'lora_r' is given twice, first in line 6"),
    ("lora_r: 4", "lora_r: [4", "r.yaml:6: not valid YAML: expected ',' or ']', but got '}'"),
    ("lora_r: 4", "target_modules: [q_prj]", "r.yaml:6: method.target_modules: the model has no linear layer 'q_prj'"),
    ("evaluate", "evalaute", "r.yaml:9: passes.evalaute: there is no pass 'evalaute'"),
    ("evaluate", "finetune", "r.yaml:9: passes: two steps are called 'finetune'; give one a name of its own"),
    (
        "evaluate",
        "{evaluate: {bases: no}}",
        "r.yaml:9: passes.evaluate.bases: the pass 'evaluate' has no setting 'bases'",
    ),
    ("output_path", "plugins: halve.py\noutput_path", None),
    (
        "evaluate, onnx]",
        "{halve: {share: 2}}]\nplugins: halve.py",
        "r.yaml:9: passes.halve.share: '2' must be less than 1",
    ),
    (
        "output_path",
        "plugins: wrong.py\noutput_path",
        "wrong.py:2: the plug-in cannot be imported: ModuleNotFoundError",
    ),
    ("output_path", "plugins: halfe.py\noutput_path", "r.yaml:10: plugins: there is no file 'halfe.py'"),
    ("rows.jsonl", "rowz.jsonl", "r.yaml:3: data.data_files: there is no file 'rowz.jsonl'"),
    ("rows.jsonl", "broken.jsonl", "broken.jsonl:2: not valid JSON: Expecting ',' delimiter"),
    ("tone", "mood", "rows.jsonl: no row has the columns {mood}; the rows have {phrase, tone}"),
    (
        "phrase",
        "phrase\n  text_template: '{a} {b}'",
        "what a row looks like is said twice: --text_template and --prompt_field --completion_field",
    ),
    ("tone", "tone\n  train_split: train[:50]\n  eval_split: train[40:60]", "share 10 rows (40 to 49)"),
    ("tiny", "package:no-such-model", "not installed: no-such-model (the base model lies in it)"),
    ("fp32", "fp31", "r.yaml:8: export.precision: 'fp31' is none of"),
    ("fp32", "fp32, provider: CUDAExecutionProvider", "--device: CUDAExecutionProvider runs on a gpu, not on a cpu"),
]


@pytest.mark.parametrize(("good", "bad", "said"), CASES, ids=[bad.replace("\n", " ") for _, bad, _ in CASES])
def test_each_is_answered_in_a_line(
    project: Path, capsys: pytest.CaptureFixture[str], good: str, bad: str, said: str | None
) -> None:
    recipe = RECIPE.replace(good, bad) if good in RECIPE else RECIPE.replace(bad, good)
    check(project, recipe, capsys, said)


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ("r: 4", "rr: 4", "r.yaml:8: passes.f.rr: 'rr' has no counterpart here"),
        (
            "train_data_config: rows",
            "train_data_config: row",
            "r.yaml:8: passes.f.train_data_config: there is no data config",
        ),
        ("LoRA", "SparseGPT", "r.yaml:8: passes.f.type: there is no pass of type 'SparseGPT' here"),
        ("HfModel", "OnnxModel", "r.yaml:1: input_model.type: a model of type OnnxModel cannot be adapted"),
        ("{type: LoRA", "{type: LoRA, host: cloud", "r.yaml:8: passes.f.host: 'host' has no counterpart here"),
    ],
    ids=lambda text: text if text.startswith("{") else "",
)
def test_olives_configs_are_answered_too(
    project: Path, capsys: pytest.CaptureFixture[str], good: str, bad: str, said: str
) -> None:
    check(project, OLIVE.replace(good, bad), capsys, said)


def check(project: Path, recipe: str, capsys: pytest.CaptureFixture[str], said: str | None) -> None:
    (project / "r.yaml").write_text(recipe)
    code = main(["check", "r.yaml"])
    found = capsys.readouterr()
    if said is None:
        assert (code, found.err) == (0, "")
        assert found.out.endswith("r.yaml: can be done in out\n")
        return
    assert code == 2
    assert [line for line in found.err.splitlines() if said in line], found.err
    assert "->" in found.err or "broken.jsonl" in found.err
    assert not (project / "out").exists()
