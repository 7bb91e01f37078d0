"""What must hold between settings, and on this disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from oleaster.config.load import load_config
from oleaster.config.rules import ALWAYS, TO_FINETUNE, check, names_what_it_needs
from oleaster.config.schema import Config, TrainingConfig
from oleaster.core.errors import ConfigError


def refusal(rules=ALWAYS, **leaves: object) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(None, leaves, rules=rules)
    return str(error.value)


CONTRADICTIONS = [
    ({"fp16": True, "bf16": True}, "--fp16: fp16 and bf16 are both asked for"),
    ({"bf16": True, "dtype": "float32"}, "--bf16: bf16 and dtype float32 contradict"),
    ({"max_steps": 0}, "--max_steps: 0 steps train nothing"),
    ({"max_steps": 5, "warmup_steps": 6}, "--warmup_steps: the warm-up (6 steps) is longer"),
    ({"text_template": "{a}", "text_field": "a"}, "--text_field: text_template and text_field both"),
    ({"text_template": "question"}, "--text_template: no {column} stands in the template"),
    ({"data_format": "template"}, "--data_format: data_format template needs text_template"),
    ({"data_name": "json"}, "--data_name: 'json' is a format; the files are missing\n  -> --data_files rows.json"),
]


@pytest.mark.parametrize(("leaves", "said"), CONTRADICTIONS)
def test_contradictions_are_refused_with_a_remedy(leaves: dict[str, object], said: str) -> None:
    assert said in refusal(**leaves)


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a GPU")
def test_float16_is_refused_on_a_cpu() -> None:
    assert "float16 training needs an NVIDIA GPU" in refusal(fp16=True)


@pytest.mark.parametrize("leaves", [{"max_steps": -1}, {"max_steps": 5, "warmup_steps": 5}, {"bf16": True}])
def test_what_makes_sense_is_let_through(leaves: dict[str, object]) -> None:
    load_config(None, leaves)


def test_missing_files_are_named_with_near_ones(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    said = refusal(
        TO_FINETUNE,
        data_files=[f"{tmp_path}/row.jsonl", f"{tmp_path}/rows.jsonl"],
        eval_data_files="/no/such/folder/x.csv",
        model_name_or_path=f"{tmp_path}/model.gguf",
        plugins=f"{tmp_path}/mine.py",
    )
    assert said.startswith("4 problems")
    assert "row.jsonl'\n  -> did you mean 'rows.jsonl'?" in said
    assert "there is no folder '/no/such/folder' either" in said
    assert "--model_name_or_path: there is no file or folder" in said
    assert "--plugins: there is no file" in said


def test_hub_names_patterns_and_existing_paths_are_let_through(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    leaves = {"model_name_or_path": "HuggingFaceTB/SmolLM2-135M", "data_name": "owner/rows", "output_path": tmp_path}
    load_config(None, {**leaves, "data_files": f"{tmp_path}/*.jsonl,hf://x/y.jsonl"}, rules=TO_FINETUNE)
    load_config(None, {"data_name": str(tmp_path / "rows.jsonl")}, rules=TO_FINETUNE)


def test_an_output_path_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert "is a file" in refusal(TO_FINETUNE, output_path=file)
    assert "no folder can be made in" in refusal(TO_FINETUNE, output_path=file / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_path_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "no folder can be made in" in refusal(TO_FINETUNE, output_path=tmp_path / "run")


def test_what_is_missing_is_named_with_the_command_that_runs() -> None:
    needs = names_what_it_needs("oleaster finetune --method lora")
    said = refusal((needs,), output_path="a")
    assert said.startswith("not given: the base model (--model_name_or_path), the rows (--data_name or --data_files)\n")
    assert "-> oleaster finetune --method lora -m HuggingFaceTB/SmolLM2-135M-Instruct -d rows.jsonl\n" in said


def test_a_config_built_in_python_is_checked_too() -> None:
    with pytest.raises(ConfigError, match="max_steps: 0 steps"):
        check(Config(training=TrainingConfig(max_steps=0)), ALWAYS)


@pytest.mark.parametrize("settings", [{"method": "adapter"}, {"method": "ia3"}, {"use_dora": True}])
def test_a_head_of_labels_needs_a_method_that_saves_it(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"hold no sequence head(?s:.*)--method lora or qlora or full"):
        load_config(None, {"task": "classification", "head": "sequence", **settings})
    load_config(None, {"task": "classification", **settings})
    load_config(None, {"task": "embedding", **settings})
