"""Recipe and overrides -> Config: what is understood, what is refused and in which words, and the way back."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oleaster.config.load import load_config, recipe_text, replace, save_config
from oleaster.config.schema import Config
from oleaster.core.errors import ConfigError


@pytest.fixture
def recipe(tmp_path: Path):
    """Writes a recipe and returns its path."""

    def write(text: str, encoding: str = "utf-8") -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def refusal(path: Path | None, overrides: dict[str, object] | None = None) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides or {})
    return str(error.value)


def test_a_recipe_fills_its_sections_and_leaves_the_rest_at_the_defaults(recipe) -> None:
    config = load_config(recipe("seed: 7\ntraining:\n  learning_rate: 1e-4\n  max_steps: 100\nwatch:\n"))
    assert config == replace(Config(), seed=7, learning_rate=1e-4, max_steps=100)


@pytest.mark.parametrize("number", ["1e-4", "0.0001", "1.0e-4", "1E-4", "'1e-4'"])
def test_every_way_to_write_a_number_is_a_number(recipe, number: str) -> None:
    assert load_config(recipe(f"training: {{learning_rate: {number}}}")).training.learning_rate == 1e-4


def test_yaml_words_stay_words_where_text_is_wanted(recipe) -> None:
    config = load_config(recipe("data:\n  label_field: no\n  text_field: 1.50\n  prompt_field: 'null'\n"))
    assert (config.data.label_field, config.data.text_field, config.data.prompt_field) == ("no", "1.50", "null")


def test_null_is_absent(recipe) -> None:
    assert load_config(recipe("output_path: ~\nmodel:\ndata: {label_field: null, data_files:}\n")) == Config()


def test_an_empty_recipe_is_the_defaults(recipe) -> None:
    assert load_config(recipe("# nothing yet\n")) == Config()


def test_a_recipe_may_be_json_and_start_with_a_byte_order_mark(recipe) -> None:
    assert load_config(recipe('{"method": {"lora_r": 4}}', "utf-8-sig")).method.lora_r == 4


@pytest.mark.parametrize("value", ["q_proj,v_proj", "q_proj, v_proj", ["q_proj", "v_proj"]])
def test_lists_in_both_forms(value: object) -> None:
    assert load_config(None, {"target_modules": value}).method.target_modules == ["q_proj", "v_proj"]


@pytest.mark.parametrize("value", ["all-linear", "q_proj", r".*layers\.[0-9]{1,2}\.mlp.*", r".*\.(q|v)_proj"])
def test_one_name_or_a_regular_expression_is_no_list(value: str) -> None:
    assert load_config(None, {"target_modules": value}).method.target_modules == value


def test_backslash_n_is_a_newline_wherever_it_is_written(recipe) -> None:
    path = recipe("data:\n  text_template: 'User: {a}\\nAssistant: {b}'\n  system_prompt: \"x\\ny\"\n")
    data = load_config(path).data
    assert (data.text_template, data.system_prompt) == ("User: {a}\nAssistant: {b}", "x\ny")
    assert load_config(None, {"text_template": r"{a}\n{b}"}).data.text_template == "{a}\n{b}"


def test_overrides_win_by_name_alias_or_dashes(recipe) -> None:
    path = recipe("training: {learning_rate: 1}\nmethod: {lora_r: 4}\ndata: {max_length: 5}\n")
    config = load_config(path, {"lr": "2", "lora_rank": 8, "max-seq-length": "9", "output_path": Path("runs/a")})
    assert config == replace(Config(), learning_rate=2.0, lora_r=8, max_length=9, output_path="runs/a")


def test_none_sets_the_default_back(recipe) -> None:
    assert load_config(recipe("seed: 1\ndata: {label_field: x}"), {"seed": None, "label_field": None}) == Config()


WRONG = [
    ("trainig: {x: 1}", "recipe.yaml:1: there is no section or setting 'trainig'\n  -> did you mean 'training'?"),
    ("seed: 1\nlearning_rate: 1e-4", "recipe.yaml:2: 'learning_rate' stands in section training"),
    ("data:\n  lora_r: 4", "recipe.yaml:2: 'lora_r' stands in section method"),
    ("training:\n  seed: 4", "recipe.yaml:2: 'seed' stands at the top level"),
    ("training:\n  max_seq_length: 4", "recipe.yaml:2: 'max_seq_length' is called 'max_length' here and stands in sec"),
    ("method:\n  r: 4", "recipe.yaml:2: 'r' is called 'lora_r' here"),
    ("method:\n  lora_rr: 4", "recipe.yaml:2: section method has no setting 'lora_rr'\n  -> did you mean 'lora_r'"),
    ("training:\n  max_steps: ten", "recipe.yaml:2: training.max_steps: 'ten' is no whole number"),
    ("training:\n  max_steps: 1.5", "recipe.yaml:2: training.max_steps: '1.5' is no whole number"),
    ("training:\n  learning_rate: -1", "recipe.yaml:2: training.learning_rate: '-1' must be greater than 0"),
    ("training:\n  learning_rate: fast", "recipe.yaml:2: training.learning_rate: 'fast' is no number"),
    ("training:\n  learning_rate: .inf", "recipe.yaml:2: training.learning_rate: '.inf' is no number"),
    ("training:\n  learning_rate:", "recipe.yaml:2: training.learning_rate: a value is missing"),
    ("training:\n  bf16: perhaps", "recipe.yaml:2: training.bf16: 'perhaps' is neither true nor false"),
    ("training:\n  optim: adamv", "recipe.yaml:2: training.optim: 'adamv' is none of adamw,"),
    ("training:\n  lr_scheduler_type: cosin", "-> did you mean 'cosine'?"),
    ("method:\n  type: loro", "recipe.yaml:2: method.type: 'loro' is none of lora"),
    ("method:\n  target_modules: [a, [b]]", "recipe.yaml:2: method.target_modules: '['a', ['b']]'"),
    ("training: 3", "recipe.yaml:1: training is a section"),
    ("seed: 1\nseed: 2", "recipe.yaml:2: 'seed' is given twice, first in line 1"),
    ("- 1\n- 2", "recipe.yaml:1: a recipe is a mapping of sections"),
    ("seed: [1\nx: 2", "recipe.yaml:2: not valid YAML:"),
    ("seed: 1\n\tx: 2", "recipe.yaml:2: not valid YAML:"),
    ("seed: \x01", "not valid YAML:"),
    (
        "log_level: 7",
        "recipe.yaml:1: log_level: '7' must be less than or equal to 4\n  -> what log_level means: 0 debug",
    ),
]


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_a_wrong_recipe_is_answered_with_line_and_remedy(recipe, text: str, said: str) -> None:
    assert said in refusal(recipe(text))


def test_all_problems_come_at_once(recipe) -> None:
    path = recipe("zzz: 1\ntraining:\n  max_steps: ten\n  fp16: true\n  bf16: true\n")
    said = refusal(path, {"lora_rr": 3, "seed": -1})
    assert said.startswith("5 problems")
    for part in ("'zzz'", "--lora_rr", "--seed: '-1'", "'ten'", "fp16 and bf16"):
        assert part in said


def test_a_rule_about_a_refused_value_is_silent(recipe) -> None:
    said = refusal(recipe("data:\n  data_format: template\n  text_template: [1]\ntraining: {max_steps: x}"))
    assert "max_steps" in said
    assert "0 steps" not in said


def test_a_recipe_that_is_not_there_is_answered_with_a_near_name(recipe, tmp_path: Path) -> None:
    recipe("")
    assert "did you mean 'recipe.yaml'?" in refusal(tmp_path / "recipes.yaml")
    assert "readable" in refusal(tmp_path)


def test_wrong_encoding_is_named(recipe) -> None:
    assert "byte 6 is no UTF-8" in refusal(recipe("seed: ż", "iso-8859-2"))


def test_replace_refuses_unknown_names() -> None:
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        replace(Config(), learning_rat=1)


LEAVES = st.fixed_dictionaries(
    {},
    optional={
        "task_name": st.text(),
        "output_path": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).map(Path),
        "seed": st.integers(0, 2**63),
        "text_field": st.text(),
        "text_template": st.text().map(lambda text: "{" + text),
        "system_prompt": st.text(),
        "data_files": st.lists(st.text()),
        "target_modules": st.lists(st.text()) | st.text(),
        "learning_rate": st.floats(0, exclude_min=True, allow_infinity=False),
        "warmup_ratio": st.floats(0, 1, exclude_max=True),
        "use_chat_template": st.booleans(),
        "lora_alpha": st.none() | st.floats(1e-9, 1e9),
    },
)


@given(LEAVES)
def test_what_is_written_reads_back_equal(leaves: dict[str, object]) -> None:
    config = load_config(None, leaves, rules=())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "oleaster.yaml"
        save_config(config, path)
        assert load_config(path, rules=()) == config


def test_a_written_recipe_shows_what_was_chosen() -> None:
    lines = recipe_text(replace(Config(), lora_r=4, text_template="{a}\n{b}")).splitlines()
    assert "  lora_r: 4" in lines
    assert '  text_template: "{a}\\n{b}"' in lines
    assert any(line.startswith("  learning_rate: 0.0003 ") and line.endswith("# default") for line in lines)
