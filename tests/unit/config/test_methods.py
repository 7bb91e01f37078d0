"""The section `method`: each method has its settings and no others, and what a chosen one implies elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from oleaster.config.flags import config_flags
from oleaster.config.load import lay_over, leaf_values, load_config, recipe_text, replace, wrong_leaves
from oleaster.config.methods import FullConfig, LoraConfig, method_types
from oleaster.config.schema import Config
from oleaster.core.errors import ConfigError


@pytest.mark.parametrize("name", method_types())
def test_every_method_is_chosen_by_its_type_and_reads_back_equal(name: str, tmp_path: Path) -> None:
    config = load_config(None, {"method": name})
    assert type(config.method) is method_types()[name]
    (tmp_path / "recipe.yaml").write_text(recipe_text(config))
    assert load_config(tmp_path / "recipe.yaml") == config
    at_default = [line for line in recipe_text(config).splitlines() if line.endswith("# default")]
    chosen = [line.strip() for line in recipe_text(config).splitlines() if line.startswith("  ")]
    assert len(chosen) - len([line for line in at_default if line.startswith("  ")]) == 0


def test_a_setting_of_another_method_is_refused_with_the_right_one(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("method:\n  type: full\n  lora_r: 4\n")
    with pytest.raises(ConfigError) as error:
        load_config(recipe, {"use_rslora": True})
    said = str(error.value)
    assert "recipe.yaml:3: method.lora_r: a setting of the method lora or qlora or loha or" in said
    assert "the method here is full" in said
    assert "--use_rslora: a setting of the method lora" in said
    assert "--method lora" in said


def test_a_typed_method_takes_the_place_of_the_recipes_and_of_its_settings(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("method:\n  lora_r: 4\n  use_rslora: true\n  target_modules: q_proj\n")
    assert load_config(recipe, {"method": "full"}).method == FullConfig()
    with pytest.raises(ConfigError, match="--lora_r: a setting of"):
        load_config(recipe, {"method": "full", "lora_r": 8})


def test_replace_changes_the_method() -> None:
    config = replace(Config(method=LoraConfig(lora_r=4, modules_to_save=["norm"])), method="full")
    assert config.method == FullConfig()
    assert "lora_r" not in leaf_values(config)


@pytest.mark.parametrize("name", method_types())
def test_another_method_brings_its_own_defaults_and_takes_what_was_chosen(name: str, tmp_path: Path) -> None:
    assert replace(load_config(None, {"method": "lora"}), method=name) == load_config(None, {"method": name})
    chosen = {"learning_rate": 2e-3, "max_steps": 7}
    assert replace(load_config(None, chosen), method=name) == load_config(None, {**chosen, "method": name})
    resolved = tmp_path / "oleaster.yaml"
    resolved.write_text(recipe_text(load_config(None, {"method": "lora"})))
    assert load_config(resolved, {"method": name}) == load_config(None, {"method": name})


def test_a_later_recipe_may_choose_another_method(tmp_path: Path) -> None:
    for name, text in (("first", "method: {lora_r: 4}\nseed: 1\n"), ("second", "method: {type: full}\n")):
        (tmp_path / name).write_text(text)
    config = load_config([tmp_path / "first", tmp_path / "second"])
    assert (config.method, config.seed) == (FullConfig(), 1)
    assert lay_over(config, {"method": "lora", "lora_r": "3"}).method == LoraConfig(lora_r=3)
    assert wrong_leaves({"lora_r": "3"}) == {}
    assert set(wrong_leaves({"method": "full", "lora_r": "3"})) == {"lora_r"}


def test_an_unknown_method_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'loar' is none of lora, qlora, full(?s:.*)did you mean 'lora'"):
        load_config(None, {"method": "loar", "lora_r": 3})


def test_the_learning_rate_is_by_the_method_unless_it_is_said() -> None:
    rates = {name: load_config(None, {"method": name}).training.learning_rate for name in method_types()}
    shown = config_flags()["learning_rate"]
    assert rates == {name: shown.defaults.get(name, shown.default) for name in method_types()}
    assert rates["full"] < rates["lora"] == Config().training.learning_rate
    assert load_config(None, {"method": "full", "learning_rate": "1e-3"}).training.learning_rate == 1e-3
