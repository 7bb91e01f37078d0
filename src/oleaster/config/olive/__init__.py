"""Olive's configs in their own words -> our settings: the tutorial's spelling and that of Olive 0.13.

    speaks(key, node, others)         is a top-level entry in Olive's words?
    translate(path, entries, recipe)  those entries -> leaves of `Config`, with the lines they come from

Every key is taken by someone: it becomes a setting, or it asks for what is so here anyway, or it is an error with its
line and what to write instead. Nothing is dropped. Recipes may mix both languages: an entry is one or the other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import yaml

from oleaster.config.olive.block import Block
from oleaster.config.olive.engine import ENGINE, read_engine, read_evaluators, read_machines, remedies
from oleaster.config.olive.model import read_model
from oleaster.config.olive.passes import NAMES, TYPES, Steps
from oleaster.config.olive.rows import learn_from, read_data_configs
from oleaster.config.olive.search import SEARCH_WORDS, read_search
from oleaster.config.olive.training import read_training
from oleaster.config.reading import Recipe, plain

WORDS = (
    "input_model",
    "data_configs",
    "training_args",
    "training_config",
    "systems",
    "evaluators",
    "engine",
    "workflow_id",
    "workflow_host",
    "azureml_client",
    "auto_optimizer_config",
    *ENGINE,
)
"""Top-level keys that only Olive has."""


def speaks(key: str, node: yaml.Node, others: Collection[str] = ()) -> bool:
    """Is this entry of a config in Olive's words? Some keys are words of both languages.

    Args:
        others: all keys of the config; beside Olive's model or rows stand Olive's passes.
    """
    if key == "search_strategy":
        inner = plain(node)
        return not isinstance(inner, dict) or not inner.keys().isdisjoint(SEARCH_WORDS)
    if key == "search_space":
        return not isinstance(node, yaml.MappingNode)
    if key == "model":
        inner = plain(node)
        return isinstance(inner, dict) and not inner.keys().isdisjoint({"type", "config", "model_path"})
    if key == "passes":
        whole = not {"input_model", "data_configs"}.isdisjoint(others)
        return isinstance(node, yaml.MappingNode) and (whole or any(_is_pass(value) for _, value in node.value))
    return key in WORDS


def _is_pass(node: yaml.Node) -> bool:
    entry = plain(node)
    if isinstance(entry, list):
        entry = entry[0] if entry else None
    return isinstance(entry, dict) and (str(entry.get("type", "")).lower() in TYPES or "config" in entry)


def translate(path: Path, entries: Sequence[tuple[yaml.Node, yaml.Node]], recipe: Recipe) -> None:
    """Enter into `recipe` what the entries mean; what they mean nothing for becomes a problem of it."""
    start, end = entries[0][0].start_mark, entries[-1][1].end_mark
    top = Block(recipe, path, "", yaml.MappingNode("", list(entries), start, end))
    for name in ("input_model", "model"):
        if name in top:
            read_model(top.block(name))
    engine = read_engine(top)
    for name in ("training_args", "training_config"):
        if name in top:
            read_training(top.block(name).flat("extra_args"))
    rows = read_data_configs(top.take("data_configs"), top)
    steps = Steps(top, rows)
    if passes := top.take("passes"):
        steps.read(passes)
    unused = [one for one in rows.values() if not one.used]
    if len(rows) == len(unused) == 1:
        learn_from(unused.pop())
    for one in unused:
        top.problem(one.block.where, f"nothing uses the data config '{one.name}'", "train_data_config: in a LoRA pass")
    read_machines(top)
    evaluated = read_evaluators(top, steps.evaluators)
    base = engine.take("evaluate_input_model")
    if evaluated is not None and steps.steps:
        settings = {"base": base.text.lower()} if base else {}
        recipe.values["passes"] = [*steps.written(), {"evaluate": settings} if settings else "evaluate"]
    for word in ("search_strategy", "search_space"):
        found = top.take(word)
        if found is not None:
            read_search(word, found, top, steps.searched)
    if evaluated and "search_space" in recipe.values:
        recipe.values.setdefault("objectives", evaluated)
    if name := top.take("workflow_id"):
        top.enter("task_name", name)
    top.close((*WORDS, *NAMES), remedies())
