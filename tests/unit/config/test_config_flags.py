"""Flags are drawn from the tree; names are unique."""

from __future__ import annotations

from transformers.trainer_utils import SchedulerType

from oleaster.config.flags import ALIASES, config_flags, sections, select
from oleaster.config.schema import Config


def test_every_leaf_is_a_flag_once() -> None:
    leaves = {(name, key) for name, classes in sections().items() for cls in classes for key in cls.model_fields}
    top = {("", key) for key in Config.model_fields if key not in sections()}
    assert {(flag.section, flag.key) for flag in config_flags().values()} == leaves | top
    assert len(config_flags()) == len(leaves | top)


def test_every_flag_has_a_help_text() -> None:
    assert [flag.name for flag in config_flags().values() if not flag.help] == []


def test_the_method_is_chosen_by_its_section_type() -> None:
    flag = config_flags()["method"]
    assert (flag.place, flag.default, flag.choices[0]) == ("method.type", "lora", "lora")


def test_kinds_come_from_the_types() -> None:
    kinds = {name: flag.kind for name, flag in config_flags().items()}
    assert kinds["bf16"] == kinds["use_chat_template"] == "switch"
    assert kinds["max_steps"] == "integer"
    assert kinds["lora_alpha"] == "number"
    assert kinds["data_files"] == kinds["target_modules"] == kinds["report_to"] == "list"
    assert kinds["logging_dir"] == "path"
    assert kinds["text_template"] == "text"


def test_an_alias_means_a_flag_and_hides_none() -> None:
    assert set(ALIASES.values()) <= set(config_flags())
    assert set(ALIASES).isdisjoint(config_flags())


def test_select_takes_sections_then_names() -> None:
    names = [flag.name for flag in select(["evaluation"], ["seed"])]
    assert names == [*Config().evaluation.model_dump(), "seed"]


def test_schedules_are_those_of_transformers() -> None:
    assert set(config_flags()["lr_scheduler_type"].choices) <= {schedule.value for schedule in SchedulerType}
