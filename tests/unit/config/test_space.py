"""A search space is understood or refused with place and remedy before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from oleaster.config.load import load_config, recipe_text, replace, save_config
from oleaster.config.schema import Config
from oleaster.config.search import Dimension
from oleaster.config.space import dimensions
from oleaster.core.errors import ConfigError
from tutorial import SEARCH


def test_the_blocks_as_the_tutorial_prints_them(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(SEARCH, encoding="utf-8")
    config = load_config(tmp_path / "recipe.yaml")
    assert (config.search_strategy.type, config.search_strategy.num_trials) == ("random", 20)
    assert dimensions(config) == [
        Dimension("learning_rate", "float", low=1e-6, high=1e-3, log=True),
        Dimension("lora_r", "int", low=8, high=64),
        Dimension("per_device_train_batch_size", "choice", values=("8", "16", "32")),
    ]


SPACES = [
    {"lora_r": [8, 16], "use_rslora": [True, False], "lora_alpha": [None, 16.0]},
    {"target_modules": [["q_proj", "v_proj"], "all-linear"]},
    {"warmup_ratio": {"type": "float", "low": 0.0, "high": 0.2, "when": {"lr_scheduler_type": ["cosine", "linear"]}}},
]


@pytest.mark.parametrize("space", SPACES)
def test_a_space_reads_back_as_it_was_written(space: object, tmp_path: Path) -> None:
    config = replace(Config(), search_space=space, num_trials=7, objectives="accuracy,size_mb")
    save_config(config, tmp_path / "recipe.yaml")
    assert load_config(tmp_path / "recipe.yaml") == config
    assert recipe_text(load_config(tmp_path / "recipe.yaml")) == recipe_text(config)


def test_a_space_can_be_typed() -> None:
    config = load_config(
        None, {"search_space": "{lora_r: [8, 16], learning_rate: {type: float, low: 1e-5, high: 1e-3}}"}
    )
    assert [(d.name, d.values, d.low) for d in dimensions(config)] == [
        ("lora_r", ("8", "16"), 0.0),
        ("learning_rate", (), 1e-5),
    ]


def test_settings_come_after_those_they_wait_for() -> None:
    waits = {"type": "float", "low": 0, "high": 0.2, "when": {"lr_scheduler_type": "cosine"}}
    config = replace(Config(), search_space={"warmup_ratio": waits, "lr_scheduler_type": ["cosine", "linear"]})
    assert [(d.name, d.when) for d in dimensions(config)] == [
        ("lr_scheduler_type", ()),
        ("warmup_ratio", (("lr_scheduler_type", ("cosine",)),)),
    ]


def number(**changes: object) -> dict[str, object]:
    return {"type": "float", "low": "1e-5", "high": "1e-3", **changes}


WRONG = [
    ({"learning_rat": number()}, "learning_rat: there is no such setting\n  -> did you mean 'learning_rate'"),
    ({"lr": number(), "learning_rate": number()}, "'lr' and 'learning_rate' are the same setting"),
    ({"lora_r": number(type="integer")}, "search_space.lora_r.type: 'integer' is none of float, int, choice"),
    ({"lora_r": {"low": 1, "high": 2}}, "search_space.lora_r: the type is missing"),
    ({"lora_r": number(type="int", low=8.5, high=9)}, "search_space.lora_r.low: '8.5' is no whole number"),
    ({"learning_rate": number(low="1e-2")}, "search_space.learning_rate.low: 0.01 is not below high (0.001)"),
    ({"lora_dropout": number(low=0, log=True)}, "search_space.lora_dropout.low: 0 has no logarithm"),
    ({"learning_rate": number(stap=1)}, "learning_rate.stap: there is no such key\n  -> did you mean 'step'"),
    ({"learning_rate": number(values=[1])}, "search_space.learning_rate.values: a float has no values"),
    ({"lora_r": {"type": "choice"}}, "search_space.lora_r.values: a choice needs the values it is from"),
    ({"lora_r": 8}, "search_space.lora_r: '8' is no range of values"),
    ({"seed": [1, 2]}, "search_space.seed: the seed decides which rows are held out"),
    ({"validation_fraction": [0.1, 0.2]}, "they must be the same for all"),
    ({"output_path": ["a", "b"]}, "search_space.output_path: does not change what is trained"),
    ({"num_trials": [1, 2]}, "search_space.num_trials: is a setting of the search itself"),
    ({"lora_r": number(type="int", low=1, high=2, when={"lora_alpha": 1}), "lora_alpha": number(when={"lora_r": 1})},
     "waits for itself"),
]  # fmt: skip


@pytest.mark.parametrize(("space", "said"), WRONG)
def test_a_wrong_space_is_refused_with_its_place(space: object, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        replace(Config(), search_space=space)
    assert said in str(error.value)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    text = SEARCH.replace("low: 8", "low: 80").replace("learning_rate", "learning_rat").replace("choice", "chioce")
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "recipe.yaml")
    assert str(error.value).startswith("3 problems")
    for line in (7, 15, 19):
        assert f"recipe.yaml:{line}: search_space." in str(error.value)


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ({"search_strategy": "grid"}, "a grid has no place for every float"),
        ({"search_strategy": "cma"}, "CMA-ES moves through numbers"),
        ({"pruning": "median", "objectives": "eval_loss,size_mb"}, "a trial is pruned by one objective"),
        ({"objectives": "eval_loss,eval_loss"}, "each objective is named once"),
        ({"search_strategy": "tpa"}, "did you mean 'tpe'"),
    ],
)
def test_space_and_strategy_fit_together(strategy: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(Config(), search_space={"learning_rate": number(), "lora_r": [8, 16]}, **strategy)
