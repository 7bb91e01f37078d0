"""Every method through the whole line on a tiny model: trained, saved, resumed, asked, scored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from oleaster import pipeline
from oleaster.config.load import load_config, replace
from oleaster.config.schema import Config
from oleaster.core.errors import ModelError
from oleaster.methods.peft_method import NO_EXPORT
from oleaster.models.tiny import make_tiny
from oleaster.training.reports import StepReport

METHODS = {
    "lora": {"lora_r": 4},
    "lora_whole_norms": {"method": "lora", "lora_r": 2, "modules_to_save": ["norm"]},
    "dora": {"method": "lora", "use_dora": True, "lora_r": 4},
    "pissa": {"method": "lora", "init_lora_weights": "pissa", "lora_r": 4},
    "qlora_loftq": {"method": "qlora", "init_lora_weights": "loftq", "lora_r": 4},
    "full": {},
    "adapter": {"reduction_factor": 4, "learning_rate": 1e-2},
    "ia3": {},
    "loha": {"lora_r": 2},
    "lokr": {"lora_r": 2},
    "vera": {"lora_r": 8},
    "prompt_tuning": {"num_virtual_tokens": 4},
    "prefix_tuning": {"num_virtual_tokens": 4, "learning_rate": 0.3},
    "ln_tuning": {},
}
"""Name -> settings of a run; the name is the method where none is given."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("llama", tmp_path_factory.mktemp("models") / "tiny", hidden_size=32, intermediate_size=48)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    tones = ("calm", "cross")
    lines = [{"prompt": f"phrase {i} is {tones[i % 2]}", "completion": tones[i % 2]} for i in range(24)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def recipe(name: str, tiny: Path, rows: Path, folder: Path) -> Config:
    settings = {"method": name, **METHODS[name]}
    return load_config(
        None,
        {
            "model_name_or_path": str(tiny),
            "data_files": [str(rows)],
            "output_path": folder,
            "dtype": "float32",
            "max_steps": 4,
            "per_device_train_batch_size": 6,
            "save_steps": 1,
            "save_total_limit": 9,
            "eval_steps": 2,
            "max_new_tokens": 4,
            "num_threads": 1,
            **settings,
        },
    )


class Stop:
    """A sink that breaks the training off at a step, as Ctrl-C would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, event: object) -> None:
        if isinstance(event, StepReport) and event.step == self.step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module", params=METHODS)
def trained(request: pytest.FixtureRequest, tiny: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The recipe of a finished run."""
    config = recipe(request.param, tiny, rows, tmp_path_factory.mktemp("runs") / request.param)
    pipeline.finetune(replace(config, logging_steps=1))
    return config


def weights(run: Path) -> dict[str, torch.Tensor]:
    """What a finished run has saved."""
    adapter = run / "adapter" / "adapter_model.safetensors"
    return load_file(adapter if adapter.exists() else run / "model" / "model.safetensors")


def test_a_run_broken_off_and_resumed_is_the_uninterrupted_one(trained: Config, tmp_path: Path) -> None:
    again = replace(trained, output_path=tmp_path / "again", logging_steps=1)
    with pytest.raises(KeyboardInterrupt):
        pipeline.finetune(again, [Stop(3)])
    pipeline.finetune(replace(again, resume=True))
    one, other = weights(Path(str(trained.output_path))), weights(tmp_path / "again")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_saved_run_scores_as_it_did_in_training(trained: Config) -> None:
    run = Path(str(trained.output_path))
    base, tuned = pipeline.evaluate(run, trained)
    summary = json.loads((run / "DONE").read_text())
    assert (base.model, tuned.model) == ("base", "tuned")
    if trained.method.type != "qlora":  # its adapter stands on the full base now, in training on one of 4 bits
        assert tuned.metrics["loss"].value == pytest.approx(summary["eval_loss"], rel=1e-5)
    assert tuned.metrics["loss"].value < base.metrics["loss"].value
    assert pipeline.load(run, trained).answer("phrase 3 is cross").text is not None


def test_the_saved_run_is_exported_or_refused_before_any_work(trained: Config, tmp_path: Path) -> None:
    run, output = Path(str(trained.output_path)), tmp_path / "artifact"
    config = replace(trained, precision="fp32", verify_rows=2)
    if reason := NO_EXPORT.get(trained.method.type):
        with pytest.raises(ModelError, match=f"cannot be exported: {reason}"):
            pipeline.auto_opt(run, config, output)
        assert not output.exists()
        return
    seen: list[object] = []
    artifact = pipeline.auto_opt(run, config, output, on_progress=seen.append)
    asked = "phrase 3 is cross"
    assert pipeline.load(artifact.folder, config).answer(asked).text == pipeline.load(run, config).answer(asked).text


def test_who_cannot_be_exported_is_told_so_before_the_training(tiny: Path, rows: Path, tmp_path: Path) -> None:
    config = recipe("prompt_tuning", tiny, rows, tmp_path / "run")
    notes = [text for what, text in pipeline.plan(config).rows() if what == "note"]
    assert any("auto-opt will refuse it" in note for note in notes)
    assert not any("auto-opt" in text for _, text in pipeline.plan(replace(config, method="ia3")).rows())
