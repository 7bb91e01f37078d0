"""From a space to the recipes of trials."""

from __future__ import annotations

from pathlib import Path

import pytest

from oleaster.config.load import replace
from oleaster.config.schema import Config
from oleaster.config.space import dimensions
from oleaster.core.errors import ConfigError
from oleaster.search.objectives import read_objectives
from oleaster.search.points import check_points, grid, own_point, recipe_of_point


def spaced(space: object, **settings: object) -> Config:
    return replace(Config(), search_space=space, **settings)


def test_the_recipe_of_a_trial_has_its_settings_and_no_search() -> None:
    config = spaced({"batch_size": [8, 16]}, num_trials=9, objectives="accuracy", output_path="runs/s", lora_r=4)
    point = {"per_device_train_batch_size": "8", "target_modules": "q_proj,v_proj", "lora_alpha": "null"}
    recipe = recipe_of_point(config, point, Path("runs/s/trials/0003"))
    assert recipe.training.per_device_train_batch_size == 8
    assert recipe.method.target_modules == ["q_proj", "v_proj"]
    assert (recipe.method.lora_r, recipe.method.lora_alpha) == (4, None)
    assert recipe.output_path == Path("runs/s/trials/0003")
    assert (recipe.search_space, recipe.search_strategy) == ({}, Config().search_strategy)


def test_a_conditions_numbers_are_numbers() -> None:
    waits = {"type": "int", "low": 1, "high": 2, "when": {"lora_r": 8.0, "lora_dropout": 0}}
    config = spaced({"lora_r": [8, 16], "warmup_steps": waits})
    assert list(grid(dimensions(config), config)) == [
        {"lora_r": "8", "warmup_steps": 1},
        {"lora_r": "8", "warmup_steps": 2},
        {"lora_r": "16"},
    ]


def test_a_grid_reaches_the_upper_end() -> None:
    config = spaced({"lora_dropout": {"type": "float", "low": 0.0, "high": 0.3, "step": 0.1}})
    assert [point["lora_dropout"] for point in grid(dimensions(config), config)] == [0.0, 0.1, 0.2, 0.3]


def number(low: float, high: float, **more: object) -> dict[str, object]:
    return {"type": "float", "low": low, "high": high, **more}


@pytest.mark.parametrize(
    ("space", "own"),
    [
        ({"learning_rate": number(1e-5, 1e-3)}, {"learning_rate": 3e-4}),
        ({"lr": number(1e-3, 1e-2)}, None),
        ({"lora_r": [8, 16.0], "use_rslora": [True, False]}, {"lora_r": "16.0", "use_rslora": "false"}),
        ({"lora_alpha": [None, 8]}, {"lora_alpha": "null"}),
        ({"lora_alpha": number(1, 8)}, None),
        ({"lora_r": {"type": "int", "low": 2, "high": 32, "step": 4}}, None),
        ({"lora_r": {"type": "int", "low": 4, "high": 32, "step": 4}}, {"lora_r": 16}),
    ],
)
def test_the_recipes_own_point_where_it_lies_in_the_space(space: object, own: object) -> None:
    config = spaced(space)
    assert own_point(dimensions(config), config) == own


def test_every_end_and_value_is_tried_on_the_recipe() -> None:
    space = {"lora_r": number(1, 2.5), "optim": ["adamw", "adam"], "lora_dropout": number(0, 1)}
    config = spaced(space)
    with pytest.raises(ConfigError) as error:
        check_points(config, dimensions(config))
    assert str(error.value).startswith("3 problems")
    for said in ("lora_r: 2.5: '2.5' is no whole number", "did you mean 'adamw'", "lora_dropout: 1.0: '1.0' must be"):
        assert said in str(error.value)


def test_a_value_that_another_setting_makes_right_is_not_wrong() -> None:
    config = spaced({"warmup_steps": [2, 9], "max_steps": [8, 20]}, max_steps=8)
    check_points(config, dimensions(config))
    config = spaced({"warmup_steps": [2, 9], "lora_r": [8, 16]}, max_steps=8)
    with pytest.raises(ConfigError, match="longer than the training"):
        check_points(config, dimensions(config))


def test_what_else_is_wrong_is_asked_of_each(tmp_path: Path) -> None:
    config = spaced({"target_modules": ["all-linear", "q"]})

    def fits(recipe: Config) -> None:
        if recipe.method.target_modules == "q":
            raise ConfigError("the model has no linear layer 'q'", remedy="q_proj")

    with pytest.raises(ConfigError, match=r"search_space\.target_modules: q: the model has no linear layer 'q'"):
        check_points(config, dimensions(config), fits)


def test_each_measure_knows_which_way_is_good() -> None:
    config = replace(Config(), objectives="macro_f1,perplexity,latency_ms,train_seconds,mine:max")
    found = read_objectives(config, ["mine"])
    assert [(o.name, o.maximize, o.kind) for o in found] == [
        ("macro_f1", True, "answers"),
        ("perplexity", False, "answers"),
        ("latency_ms", False, "shipping"),
        ("train_seconds", False, "training"),
        ("mine", True, "answers"),
    ]


def test_objectives_that_nobody_knows_are_named_together() -> None:
    with pytest.raises(ConfigError) as error:
        read_objectives(replace(Config(), objectives="acuracy,mine,eval_loss:up"), ["mine"])
    assert "did you mean 'accuracy'" in str(error.value)
    assert "whether more or less of 'mine' is better\n  -> mine:max or mine:min" in str(error.value)
    assert "'up' is no direction" in str(error.value)


def test_every_measure_of_an_evaluation_has_a_direction() -> None:
    from oleaster.evaluation.metrics import metrics

    ours = [name for name in metrics if metrics.get(name).__module__.startswith("oleaster.")]
    unknown = [name for name in ours if not read_or_none(name, ours)]
    assert unknown == ["f1_per_label"]  # no single number


def read_or_none(name: str, known: list[str]) -> object:
    try:
        return read_objectives(replace(Config(), objectives=[name]), known)
    except ConfigError:
        return None
