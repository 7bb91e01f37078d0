"""Olive's configs in our settings: the tutorial's spelling, Olive's own, and that no key is ever dropped."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oleaster.config.load import leaf_values, load_config, recipe_text, replace
from oleaster.config.reading import Recipe
from oleaster.config.recipe import read_recipe
from oleaster.config.schema import Config
from tutorial import OLIVE_CONFIG, PERFORMANCE, REGULARIZATION

REAL: dict[str, Any] = {
    "workflow_id": "phrases",
    "input_model": {
        "type": "HfModel",
        "model_path": "meta-llama/Llama-3.2-1B-Instruct",
        "load_kwargs": {"trust_remote_code": True, "torch_dtype": "float32"},
    },
    "systems": {
        "local_system": {
            "type": "LocalSystem",
            "accelerators": [{"device": "CPU", "execution_providers": ["CPUExecutionProvider"]}],
        }
    },
    "data_configs": [
        {
            "name": "train_data",
            "type": "HuggingfaceContainer",
            "load_dataset_config": {"data_name": "json", "data_files": "rows.jsonl", "split": "train[:4096]"},
            "pre_process_data_config": {"text_template": "{q} {a}", "strategy": "line-by-line", "max_seq_len": 64},
            "dataloader_config": {},
            "post_process_data_config": {},
        },
        {
            "name": "eval_data",
            "type": "HuggingfaceContainer",
            "load_dataset_config": {"data_name": "json", "data_files": "rows.jsonl", "split": "train[4096:4224]"},
            "pre_process_data_config": {"text_template": "{q} {a}", "strategy": "line-by-line", "max_seq_len": 64},
        },
    ],
    "evaluators": {
        "common": {"metrics": [{"name": "p", "type": "accuracy", "sub_types": [{"name": "perplexity", "priority": 1}]}]}
    },
    "passes": {
        "f": {
            "type": "lora",
            "r": 8,
            "alpha": 16,
            "target_modules": ["q_proj", "v_proj"],
            "train_data_config": "train_data",
            "eval_data_config": "eval_data",
            "training_args": {"per_device_train_batch_size": 4, "learning_rate": 1e-3, "max_steps": 4, "seed": 7},
        },
        "m": {"type": "MergeAdapterWeights"},
        "b": [{"type": "ModelBuilder", "config": {"precision": "fp32"}}],
        "q": {"type": "OnnxDynamicQuantization", "config": {"precision": "int8"}},
    },
    "engine": {"search_strategy": None, "host": "local_system", "target": "local_system", "evaluator": "common"},
    "evaluate_input_model": False,
    "output_dir": "runs/real",
    "log_severity_level": 1,
}


@pytest.fixture
def read(tmp_path: Path):
    """Writes a config and reads it as a recipe."""

    def reading(config: str | dict[str, Any], name: str = "olive-config.yaml") -> Recipe:
        text = config if isinstance(config, str) else json.dumps(config)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return read_recipe(tmp_path / name)

    return reading


@pytest.fixture
def load(tmp_path: Path, read):
    def loading(config: str | dict[str, Any]) -> Config:
        read(config)
        return load_config(tmp_path / "olive-config.yaml")

    return loading


def said(recipe: Recipe) -> list[str]:
    return [str(problem) for problem in recipe.problems]


def test_the_tutorials_config_is_a_recipe(load, read) -> None:
    assert load(OLIVE_CONFIG) == replace(
        Config(),
        model_name_or_path="microsoft/DialoGPT-medium",
        data_files=["path/to/your/dataset.json"],
        train_split="train",
        text_template="User: {input}\nAssistant: {output}",
        method="lora",
        lora_r=16,
        lora_alpha=32,
        target_modules=["c_attn", "c_proj"],
        modules_to_save=["ln_f", "lm_head"],
        passes=[{"lora": {"type": "finetune"}}],
    )
    where = read(OLIVE_CONFIG).where
    assert where["lora_r"].endswith("olive-config.yaml:21: passes.lora.config.r")
    assert where["data_files"].endswith("olive-config.yaml:12: data_configs[0].load_dataset_config.data_files")


def test_the_tutorials_fragments_are_settings(load, read) -> None:
    assert load(REGULARIZATION) == replace(
        Config(), lora_r=16, lora_alpha=16, lora_dropout=0.1, weight_decay=0.01, passes=[{"lora": {"type": "finetune"}}]
    )
    fast = load(PERFORMANCE).training
    assert (fast.dataloader_num_workers, fast.optim, fast.lr_scheduler_type) == (4, "adamw_torch", "cosine")
    assert fast.fp16 or "nothing here computes in float16" in read(PERFORMANCE).notes[0]


def test_olives_own_config_is_a_recipe(load) -> None:
    assert load(REAL) == replace(
        Config(),
        task_name="phrases",
        model_name_or_path="meta-llama/Llama-3.2-1B-Instruct",
        trust_remote_code=True,
        dtype="float32",
        data_name="json",
        data_files=["rows.jsonl"],
        train_split="train[:4096]",
        eval_split="train[4096:4224]",
        text_template="{q} {a}",
        max_length=64,
        lora_r=8,
        lora_alpha=16,
        target_modules=["q_proj", "v_proj"],
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        max_steps=4,
        seed=7,
        device="cpu",
        output_path="runs/real",
        log_level=1,
        passes=[
            {"f": {"type": "finetune"}},
            {"m": {"type": "merge"}},
            {"b": {"type": "onnx", "precision": "fp32"}},
            {"q": {"type": "quantize", "precision": "int8"}},
            {"evaluate": {"base": "false"}},
        ],
    )


def test_the_native_form_reads_back_equal(load, tmp_path: Path) -> None:
    config = load(REAL)
    (tmp_path / "native.yaml").write_text(recipe_text(config), encoding="utf-8")
    assert load_config(tmp_path / "native.yaml") == config


def mappings(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if isinstance(node, dict):
        yield path
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from mappings(value, (*path, key))


NAMED = [(), *(path for path in mappings(REAL) if path and path not in (("systems",), ("evaluators",), ("passes",)))]


@pytest.mark.parametrize("path", NAMED, ids=lambda path: ".".join(map(str, path)) or "top")
def test_a_key_that_nobody_knows_is_an_error_wherever_it_stands(read, path: tuple[str | int, ...]) -> None:
    config = copy.deepcopy(REAL)
    inner: Any = config
    for key in path:
        inner = inner[key]
    inner["qqqq"] = 1
    assert len([text for text in said(read(config)) if "qqqq" in text]) == 1


def changed(path: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(REAL)
    inner: Any = config
    *way, last = path.split("/")
    for key in way:
        inner = inner[int(key) if isinstance(inner, list) else key]
    inner[last] = value
    return config


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (
            "input_model/type",
            "OnnxModel",
            ("a model of type OnnxModel cannot be adapted", "name the model it was exported from"),
        ),
        ("input_model/load_kwargs/quantization_method", "bitsandbytes", ("has no counterpart", "QLoRA")),
        ("input_model/task", "image-classification", ("cannot be had here", "text-generation")),
        ("data_configs/0/pre_process_data_config/strategy", "join", ("'join' cannot be had here", "without padding")),
        ("data_configs/0/pre_process_data_config/max_seq_len", 32, ("'64' contradicts '32'", "keep one")),
        ("data_configs/0/user_script", "mine.py", ("'user_script' has no counterpart", "write the rows to a file")),
        ("data_configs/1/name", "train_data", ("two data configs are called 'train_data'",)),
        (
            "passes/f/train_data_config",
            "train_dat",
            ("there is no data config 'train_dat'", "did you mean 'train_data'?"),
        ),
        ("passes/f/rr", 8, ("'rr' has no counterpart", "did you mean 'r'")),
        ("passes/f/training_args/learning_rat", 1, ("did you mean 'learning_rate'?",)),
        ("passes/f/training_args/output_dir", "x", ("a killed run goes on by itself",)),
        ("passes/f/lora_r", 9, ("'9' contradicts '8'", "passes.f.r)")),
        ("passes/f/host", "cloud", ("'host' has no counterpart",)),
        ("passes/g", {"type": "QLoRA"}, ("a second training",)),
        ("passes/g", {"type": "OnnxQuantizatio"}, ("did you mean 'OnnxQuantization'",)),
        ("passes/g", {"type": "SliceGPT"}, ("there is no pass of type 'SliceGPT'", "plugins:")),
        ("passes/g", {"type": "Gptq", "bits": 4}, ("quantised weights are made by an export", "ModelBuilder")),
        ("passes/g", {"type": "ModelBuilder", "precision": "fp16"}, ("'fp16' is no precision that is exported",)),
        ("systems/local_system/type", "AzureML", ("a system of type AzureML cannot be used", "LocalSystem")),
        ("evaluators/common/metrics/0/type", "custom", ("there is no metric of type 'custom'", "plugins:")),
        ("engine/evaluator", "commn", ("there is no evaluator 'commn'", "evaluators: common")),
        ("engine/clean_cache", True, ("'true' cannot be had here", "delete the folder of a step")),
        ("cach_dir", "x", ("there is no section or setting 'cach_dir'", "did you mean 'cache_dir'")),
    ],
    ids=lambda value: value if isinstance(value, str) and "/" in value else "",
)
def test_what_cannot_be_translated_is_an_error_with_line_and_remedy(
    read, path: str, value: Any, words: tuple[str, ...]
) -> None:
    problems = said(read(changed(path, value)))
    assert problems
    assert all(":1: " in problem and " -> " in problem for problem in problems)
    assert [word for word in words if not any(word in problem for problem in problems)] == []


def test_the_task_of_the_model_decides_what_answers(load, read) -> None:
    config = changed("input_model/task", "text-classification")
    assert (load(config).task.type, load(config).task.head) == ("classification", "sequence")
    config["data_configs"][0]["pre_process_data_config"]["task"] = "token-classification"
    assert any("'extraction' contradicts 'classification'" in problem for problem in said(read(config)))


def test_a_quantiser_in_front_of_the_export_is_one_with_it(load) -> None:
    passes = {"q": {"type": "Gptq", "bits": 4}, "b": {"type": "ModelBuilder"}}
    config = load({"input_model": {"type": "HfModel", "model_path": "M"}, "passes": passes})
    assert config.passes == replace(Config(), passes=[{"b": {"type": "onnx", "precision": "int4"}}]).passes


def test_adapters_that_are_kept_apart_are_one_export(load) -> None:
    passes = {
        "f": {"type": "LoRA"},
        "b": {"type": "ModelBuilder", "precision": "int8"},
        "x": {"type": "ExtractAdapters"},
    }
    config = load({"passes": passes})
    steps = [{"f": {"type": "finetune"}}, {"x": {"type": "generate-adapter", "precision": "int8"}}]
    assert config.passes == replace(Config(), passes=steps).passes


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("DoRA", {"method": "lora", "use_dora": True}),
        ("LoftQ", {"method": "qlora", "init_lora_weights": "loftq"}),
        ("QLoRA", {"method": "qlora", "init_lora_weights": "true"}),
    ],
)
def test_each_way_to_train_an_adapter_is_ours(load, kind: str, settings: dict[str, object]) -> None:
    config = load({"passes": {"a": {"type": kind, "r": 4}}})
    assert leaf_values(config).items() >= {**settings, "lora_r": 4}.items()


def test_both_languages_may_stand_in_one_file(load) -> None:
    config = load(REGULARIZATION + "model: {model_name_or_path: M}\ntraining: {learning_rate: 1e-5}\n")
    assert (config.model.model_name_or_path, config.training.learning_rate, config.method.lora_r) == ("M", 1e-5, 16)


def test_lists_of_values_in_a_pass_are_searched(load, read) -> None:
    config = changed("passes/f/r", [4, 8])
    config["passes"]["f"]["training_args"]["learning_rate"] = [1e-4, 1e-3]
    config["engine"]["search_strategy"] = {
        "execution_order": "joint",
        "sampler": "tpe",
        "sampler_config": {"max_samples": 6, "seed": 1},
        "max_time": 600,
    }
    config["passes"]["f"]["training_args"].pop("seed")
    found = load(config)
    assert found.search_space == {
        "lora_r": {"type": "choice", "values": ["4", "8"]},
        "learning_rate": {"type": "choice", "values": ["0.0001", "0.001"]},
    }
    strategy = found.search_strategy
    assert strategy.objectives == ["perplexity"]
    assert (strategy.type, strategy.num_trials, strategy.budget_minutes, found.seed) == ("tpe", 6, 10.0, 1)
    assert found.method.target_modules == ["q_proj", "v_proj"]
    config["engine"]["search_strategy"] |= {"sampler": "anneal", "output_model_num": 3}
    problems = said(read(config))
    assert any("there is no sampler 'anneal'" in problem for problem in problems)
    assert any("the best trial is kept" in problem for problem in problems)


def test_what_olive_evaluates_is_what_its_search_is_for(load) -> None:
    config = changed("passes/f/r", [4, 8])
    config["engine"]["search_strategy"] = {"execution_order": "pass-by-pass", "sampler": "sequential", "max_samples": 0}
    config["evaluators"]["common"]["metrics"] = [
        {"name": "size", "type": "size_on_disk", "sub_types": [{"name": "bytes"}]},
        {"name": "speed", "type": "latency", "sub_types": [{"name": "avg", "priority": 2}]},
        {"name": "right", "type": "accuracy", "sub_types": [{"name": "accuracy_score", "priority": 1}]},
    ]
    strategy = load(config).search_strategy
    assert strategy.objectives == ["accuracy", "latency_ms", "size_mb"]
    assert (strategy.type, strategy.num_trials) == ("grid", None)


def test_every_combination_is_for_a_grid(read) -> None:
    config = changed("passes/f/r", [4, 8])
    config["engine"]["search_strategy"] = {"execution_order": "joint", "sampler": "tpe", "max_samples": 0}
    assert any("only a grid tries" in problem for problem in said(read(config)))


def test_the_tutorials_search_is_ours(load) -> None:
    space = {"learning_rate": {"type": "float", "low": "1e-6", "high": "1e-3", "log": True}}
    config = load({"search_strategy": {"type": "random", "num_trials": 20}, "search_space": space})
    assert (config.search_strategy.type, config.search_strategy.num_trials) == ("random", 20)
    assert set(config.search_space) == {"learning_rate"}
