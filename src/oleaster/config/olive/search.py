"""`search_strategy` of Olive, and lists of values in its passes -> `search_strategy` and `search_space`."""

from __future__ import annotations

from dataclasses import dataclass, field

import yaml

from oleaster.config.flags import config_flags
from oleaster.config.olive.block import Block, Found, Given, Same, Words

SAMPLERS = {"random": "random", "sequential": "grid", "tpe": "tpe"}
"""Olive's sampler -> ours."""
SEARCH_WORDS = (
    "execution_order",
    "sampler",
    "sampler_config",
    "max_samples",
    "max_iter",
    "max_time",
    "stop_when_goals_met",
)
"""What only Olive's `search_strategy` says; the tutorial's form is ours."""

_WORDS: Words = {
    "max_iter": Same("num_trials"),
    "num_trials": Same("num_trials"),
    "execution_order": Given(("joint", "pass-by-pass"), "joint; one pass is searched here, so both are the same"),
    "output_model_num": Given(("1",), "the best trial is kept; the report names the others"),
    "stop_when_goals_met": Given(("false",), "budget_minutes or num_trials ends a search"),
    "include_pass_params": Given(("true",), "leave it out"),
    "multivariate": Given(("true", "false"), "leave it out"),
    "group": Given(("true", "false"), "leave it out"),
    "with_replacement": Given(("true", "false"), "leave it out: no trial is done twice"),
}
_REMEDY = "search_strategy: {type: tpe, num_trials: 20}"


@dataclass
class Searched:
    """Settings that a pass gives several values."""

    space: dict[str, object] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)

    def take(self, block: Block, words: Words) -> None:
        """Take each key whose setting is one value and that has a list of them."""
        for key in block.left():
            meaning = words.get(key)
            flag = config_flags().get(meaning.flag if isinstance(meaning, Same) else key)
            if flag is None or flag.kind == "list":
                continue
            if block.is_list(key) and (found := block.take(key)):
                self.space[flag.name] = {"type": "choice", "values": found.value}
                self.where[flag.name] = found.where


def read_search(word: str, found: Found, top: Block, searched: Searched) -> None:
    """Olive's strategy, or `false`, which asks for no search."""
    if not isinstance(found.node, yaml.MappingNode):
        if found.text.lower() not in ("false", "true"):
            top.problem(found.where, f"{word} is no mapping", _REMEDY)
        elif found.text.lower() == "true" and not searched.space:
            top.problem(found.where, "nothing says what is searched", "search_space: {lora_r: [8, 16, 32]}")
        return
    block = Block(top.recipe, top.path, word, found.node).flat("sampler_config")
    if sampler := block.take("sampler", "type"):
        known = SAMPLERS.get(sampler.text.lower())
        if known is None:
            block.problem(sampler.where, f"there is no sampler '{sampler.text}'", f"one of {', '.join(SAMPLERS)}")
        else:
            block.enter("search_strategy", sampler, known)
    if seed := block.take("seed"):
        block.enter("seed", seed)
    if limit := block.take("max_time"):
        minutes = float(limit.text) / 60 if limit.text.isdigit() else limit.text
        block.enter("budget_minutes", limit, str(minutes))
    if count := block.take("max_samples"):
        _read_count(block, count, exhaustive=block.recipe.values.get("search_strategy") == "grid")
    block.words(_WORDS)
    block.close((*_WORDS, "max_samples", "sampler", "seed", "max_time"), dict.fromkeys(block.left(), _REMEDY))


def _read_count(block: Block, count: Found, exhaustive: bool) -> None:
    """How many trials; 0 asks for every combination, which is what a grid tries by itself."""
    if count.text != "0":
        block.enter("num_trials", count)
    elif not exhaustive:
        block.problem(count.where, "0 means every combination, which only a grid tries", "sampler: sequential")


def enter_space(searched: Searched, top: Block) -> None:
    """What was searched in passes is the recipe's search space."""
    if searched.space:
        space = {**_dict(top.recipe.values.get("search_space")), **searched.space}
        top.recipe.values["search_space"] = space
        top.recipe.where |= {f"search_space.{name}": where for name, where in searched.where.items()}


def _dict(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}
