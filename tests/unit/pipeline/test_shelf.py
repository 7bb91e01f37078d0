"""Runs that share a base and its rows are the runs they would be alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from oleaster.config.load import replace
from oleaster.config.schema import Config
from oleaster.core.run import Run
from oleaster.methods import get_method
from oleaster.models.loaded import BaseNeeds
from oleaster.models.tiny import make_tiny
from oleaster.pipeline import Shelf, finetune
from oleaster.training.reports import EvalReport

SETTINGS = [
    {"learning_rate": 1e-2, "lora_r": 4},
    {"learning_rate": 3e-3, "lora_r": 8, "lora_dropout": 0.2, "gradient_checkpointing": True},
    {"learning_rate": 1e-2, "lora_r": 2, "target_modules": ".*(q_proj|c_attn)", "neftune_noise_alpha": 5.0},
]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def config(request, tmp_path_factory) -> Config:
    """Fused code and transformers' own."""
    folder = tmp_path_factory.mktemp(request.param)
    rows = [{"prompt": "what is " + "very " * (i % 4) + "red", "completion": f"colour {i % 7}"} for i in range(24)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    base = make_tiny(request.param, folder / "base")
    given = {"model_name_or_path": str(base), "data_name": str(folder / "rows.jsonl"), "dtype": "float32"}
    return replace(Config(), **given, max_steps=4, per_device_train_batch_size=4, num_threads=1)


def weights(run: Run) -> bytes:
    return (run.adapter / "adapter_model.safetensors").read_bytes()


def fingerprint(model: nn.Module) -> str:
    """Of everything in a model: its modules, and each tensor to the bit."""
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        digest.update(f"{name} {type(module)} {id(module)} {module.training} {sorted(vars(module))}".encode())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(f"{name} {tensor.requires_grad} {tensor.data_ptr()}".encode())
        digest.update(tensor.detach().float().numpy().tobytes())
    return digest.hexdigest()


def test_each_of_several_runs_on_one_base_is_the_run_it_would_be_alone(config: Config, tmp_path: Path) -> None:
    shelf = Shelf()
    for number, settings in enumerate([*SETTINGS, SETTINGS[0]]):
        one = replace(config, **settings)
        shared = finetune(replace(one, output_path=tmp_path / f"shared{number}"), shelf=shelf)
        alone = finetune(replace(one, output_path=tmp_path / f"alone{number}"))
        assert weights(shared) == weights(alone)
        assert shared.summary["eval_loss"] == alone.summary["eval_loss"]


def test_methods_that_transformers_code_computes_share_a_base(config: Config, tmp_path: Path) -> None:
    shelf, models = Shelf(), set()
    for number, method in enumerate(["ia3", "vera", "prompt_tuning", "ia3"]):
        one = replace(config, method=method)
        shared = finetune(replace(one, output_path=tmp_path / f"shared{number}"), shelf=shelf)
        assert weights(shared) == weights(finetune(replace(one, output_path=tmp_path / f"alone{number}")))
        needs = get_method(one.method).needs
        with shelf.base(one, shelf.ready(one), torch.device("cpu"), needs) as (loaded, _):
            models.add(loaded.model)
            assert loaded.why_generic == needs.generic
    assert len(models) == 1


def test_the_base_is_given_back_as_it_was_even_by_a_run_that_broke_off(config: Config, tmp_path: Path) -> None:
    shelf = Shelf()
    ready, device = shelf.ready(config), torch.device("cpu")
    with shelf.base(config, ready, device, BaseNeeds()) as (loaded, _):
        model, before = loaded.model, fingerprint(loaded.model)

    def stop(event: object) -> None:
        if isinstance(event, EvalReport):
            raise TimeoutError

    for number, settings in enumerate(SETTINGS):
        with pytest.raises(TimeoutError):
            finetune(replace(config, **settings, output_path=tmp_path / f"{number}"), [stop], shelf)
        assert fingerprint(model) == before
    with shelf.base(config, ready, device, BaseNeeds()) as (again, _):
        assert again.model is model


def test_what_is_shared_is_what_the_settings_say_is_the_same(config: Config) -> None:
    shelf = Shelf()
    first = shelf.ready(config)
    assert shelf.ready(replace(config, learning_rate=1.0, output_path="elsewhere")).data is first.data
    assert shelf.ready(replace(config, max_length=512)).data is not first.data
    assert shelf.ready(replace(config, seed=1)).prepared is not first.prepared
    assert shelf.ready(replace(config, lora_r=3)).config.method.lora_r == 3


def test_trained_weights_of_the_base_are_not_shared(config: Config) -> None:
    shelf = Shelf()
    ready, device = shelf.ready(config), torch.device("cpu")
    with shelf.base(config, ready, device, BaseNeeds(trained=True)) as (first, _):
        first.model.get_parameter(next(iter(dict(first.model.named_parameters())))).data.zero_()
    with shelf.base(config, ready, device, BaseNeeds(trained=True)) as (second, _):
        assert all(p.abs().sum() > 0 for p in second.model.parameters())
