"""The short forms of `passes:` and what they mean."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oleaster.config.load import load_config, recipe_text
from oleaster.config.recipe import read_recipe
from oleaster.config.schema import Config
from oleaster.config.steps import Step
from oleaster.core.errors import ConfigError

PRUNE = Step(name="prune", type="prune", settings={"sparsity": "0.3"})
TONE = Step(name="tone", type="finetune", settings={"task_name": "tone"})
ONNX = Step(name="onnx", type="onnx")


@pytest.mark.parametrize(
    "text",
    [
        "passes: [{prune: {sparsity: 0.3}}, {tone: {type: finetune, task_name: tone}}, onnx]",
        "passes:\n  prune: {sparsity: 0.3}\n  tone: {type: finetune, task_name: tone}\n  onnx:\n",
    ],
)
def test_a_list_and_a_mapping_are_the_same_steps(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    assert load_config(tmp_path / "r.yaml").passes == [PRUNE, TONE, ONNX]


def test_names_alone_can_be_a_flag() -> None:
    assert [step.name for step in load_config(None, {"passes": "finetune, merge,onnx"}).passes] == [
        "finetune",
        "merge",
        "onnx",
    ]


def test_every_setting_of_a_step_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("passes:\n  - finetune\n  - prune:\n      sparsity: 0.3\n")
    where = read_recipe(path).where
    assert where["passes.finetune"] == f"{path}:2: passes.finetune"
    assert where["passes.prune.sparsity"] == f"{path}:4: passes.prune.sparsity"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("a,a", "two steps are called 'a'; give one a name of its own: a2: {type: a}"),
        ([1], "1 is no step; write its name, or name: {setting: value}"),
        ([{"a": {}, "b": {}}], "is no step"),
        ({"a b": None}, "'a b' is no name for a step"),
        ({"a": 3}, "the settings of 'a' are no mapping; write a: {setting: value}"),
    ],
)
def test_what_is_no_step_is_refused_in_words(value: object, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, {"passes": value})
    assert said in str(error.value)


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=12)
NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,6}", fullmatch=True)
STEPS = st.lists(
    st.builds(
        Step,
        name=NAMES,
        type=NAMES,
        settings=st.dictionaries(NAMES.filter(lambda n: n != "type"), TEXTS | st.lists(TEXTS, max_size=2), max_size=2),
    ),
    unique_by=lambda step: step.name,
    max_size=3,
)


@given(steps=STEPS)
def test_steps_read_back_as_they_were_written(tmp_path_factory: pytest.TempPathFactory, steps: list[Step]) -> None:
    path = tmp_path_factory.mktemp("recipes") / "r.yaml"
    config = Config(passes=steps)
    path.write_text(recipe_text(config), encoding="utf-8")
    assert load_config(path) == config
