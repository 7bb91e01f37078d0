"""How a command line is read, and how it is answered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oleaster.cli import evaluate, finetune, generate
from oleaster.cli.words import Command, help_text, parse
from oleaster.config.flags import Flag, config_flags
from oleaster.config.load import load_config, replace
from oleaster.config.schema import Config
from oleaster.core.errors import ConfigError

FINETUNE = finetune.command()
LATER = ("export", "search_strategy", "passes", "search_space")
TRAINING_FLAGS = {
    name: flag for name, flag in config_flags().items() if flag.section not in LATER and name not in LATER
}


def settings(*words: str) -> dict[str, object]:
    return dict(parse(FINETUNE, words).settings)


def refusal(*words: str, command: Command = FINETUNE) -> str:
    with pytest.raises(ConfigError) as error:
        parse(command, words)
    return str(error.value)


@pytest.mark.parametrize(
    "words",
    [
        ["--learning_rate", "1e-4"],
        ["--learning_rate=1e-4"],
        ["--learning-rate", "1e-4"],
        ["--learning-rate=1e-4"],
        ["--lr", "1e-4"],
    ],
)
def test_every_way_to_give_a_value(words: list[str]) -> None:
    assert settings(*words) == {"learning_rate": "1e-4"}


@pytest.mark.parametrize("words", [["--bf16"], ["--bf16", "true"], ["--bf16=true"], ["--bf16", "True"], ["--bf16=1"]])
def test_every_way_to_switch_on(words: list[str]) -> None:
    assert load_config(None, settings(*words)).training.bf16 is True


@pytest.mark.parametrize("words", [["--bf16", "false"], ["--bf16=False"], ["--bf16", "no"]])
def test_every_way_to_switch_off(words: list[str]) -> None:
    assert load_config(None, settings(*words)).training.bf16 is False


def test_a_switch_does_not_take_the_next_flag_or_word() -> None:
    assert settings("--bf16", "--max_steps", "3") == {"bf16": "true", "max_steps": "3"}
    given = parse(generate.command(), ["--trust_remote_code", "runs/a", "Why?"])
    assert (given.own["model_path"], given.own["prompt"]) == ("runs/a", "Why?")


@pytest.mark.parametrize("words", [["a,b"], ["a", "b"], ["a,", "b"], ["a", "--target_modules", "b"]])
def test_every_way_to_give_a_list(words: list[str]) -> None:
    found = settings("--target_modules", *words, "--max_steps", "3")
    assert load_config(None, found) == replace(Config(), target_modules=["a", "b"], max_steps=3)


def test_negative_numbers_and_values_with_equals_and_dashes() -> None:
    words = ["--max_steps", "-1", "--text_template=a=b - {c}", "--system_prompt", "- be brief"]
    assert settings(*words) == {"max_steps": "-1", "text_template": "a=b - {c}", "system_prompt": "- be brief"}


def test_short_flags() -> None:
    found = settings("-m", "M", "-d", "D", "-o", "O")
    assert found == {"model_name_or_path": "M", "data_name": "D", "output_path": "O"}


def test_null_sets_the_default_back() -> None:
    assert settings("--seed", "null") == {"seed": None}


def test_a_commands_own_flags_are_typed_and_have_defaults() -> None:
    given = parse(evaluate.command(), ["runs/a", "--base", "false", "--eval_max_samples=5"])
    assert (given.own["model_path"], given.own["base"], given.own["output"]) == ("runs/a", False, None)
    assert given.settings == {"eval_max_samples": "5"}
    assert given.command == "oleaster evaluate runs/a --base false --eval_max_samples=5"


def test_a_model_by_word_by_flag_and_by_the_name_of_other_commands() -> None:
    for words in (["runs/a"], ["-m", "runs/a"], ["--model_name_or_path", "runs/a"], ["--model-path=runs/a"]):
        assert parse(evaluate.command(), words).own["model_path"] == "runs/a"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max_stepss", "3"], "--max_stepss: there is no such flag\n  -> did you mean --max_steps"),
        (["--max-stepss=3"], "--max_stepss: there is no such flag"),
        (["--max_step", "3"], "--max_step: there is no such flag\n  -> did you mean --max_steps"),
        (["--qqqqqq"], "--qqqqqq: there is no such flag\n  -> oleaster finetune --help lists all"),
        (["-x", "3"], "-x: there is no such flag"),
        (["recipe.yaml"], "'recipe.yaml': this word belongs to no flag"),
        (["--max_steps"], "--max_steps: this flag takes one argument"),
        (["--data_files"], "--data_files: this flag takes at least one argument"),
        (["--max_steps", "3", "--max_steps", "4"], "--max_steps: given twice: 3 and 4"),
        (["--lr", "3", "--learning_rate", "4"], "--learning_rate: given twice: 3 and 4"),
        (["--dry_run", "--bf16", "perhaps"], "'perhaps': this word belongs to no flag"),
        (["--dry_run=perhaps"], "--dry_run: 'perhaps' is no switch"),
    ],
)
def test_wrong_words_are_answered_in_one_line_and_a_remedy(words: list[str], said: str) -> None:
    answer = refusal(*words)
    assert said in answer
    assert len(answer.splitlines()) <= 2


def test_all_unknown_flags_are_named_together() -> None:
    answer = refusal("--max_stepss", "3", "--lora_rr", "4")
    assert "--max_stepss" in answer
    assert "did you mean --lora_r" in answer


def test_a_number_of_a_commands_own_is_checked() -> None:
    assert "--temperature: 'hot' is no number" in refusal("--temperature", "hot", command=generate.command())


WORDS = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1).filter(
    lambda word: not word.startswith("-") and word != "null"
)


@given(st.dictionaries(st.sampled_from(sorted(n for n, f in TRAINING_FLAGS.items() if f.kind == "text")), WORDS))
def test_text_comes_through_as_typed(values: dict[str, str]) -> None:
    assert settings(*(word for name, value in values.items() for word in (f"--{name}", value))) == values
    assert settings(*(f"--{name}={value}" for name, value in values.items())) == values


def test_help_shows_groups_defaults_and_choices_and_fits_in_width() -> None:
    text = help_text(FINETUNE)
    assert "optimisation:" in text
    assert "-m, --model_name_or_path TEXT" in text
    assert "Peak learning rate. [0.0003; full: 5e-05" in text
    assert "Rank of the update. (lora, qlora, loha, lokr, vera) [16; loha, lokr: 8;" in text
    assert "One of: adamw," in text
    assert [line for line in text.splitlines() if len(line) > 112] == []
    assert [name for name in TRAINING_FLAGS if f"--{name}" not in text] == []


def test_a_default_of_true_is_shown() -> None:
    command = Command("x", "X.", ("x",), lambda given: 0, own=(Flag("base", "Do.", "switch", True),))
    assert "--base                          Do. [true]" in help_text(command)
