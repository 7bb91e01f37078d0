"""What stands around Olive's passes: machines (`systems`), evaluators, the engine's own keys."""

from __future__ import annotations

import yaml

from oleaster.config.olive.block import Block, Found, Given, Same, Words

ENGINE = (
    "output_dir",
    "log_severity_level",
    "cache_dir",
    "cache_config",
    "clean_cache",
    "clean_evaluation_cache",
    "enable_shared_cache",
    "evaluate_input_model",
    "host",
    "target",
    "evaluator",
    "log_to_file",
    "no_artifacts",
    "ort_log_severity_level",
    "ort_py_log_severity_level",
    "packaging_config",
    "plot_pareto_frontier",
    "search_strategy",
)
"""Keys that Olive takes at the top level and under `engine:` alike."""

_LAST = 1000
"""Where measures without a priority come."""
_ANY_LEVEL = tuple(map(str, range(5)))
_KEPT = "each step's work is kept in its folder, and taken again when nothing has changed: leave it out"
_WORDS: Words = {
    "output_dir": Same("output_path"),
    "log_severity_level": Same("log_level"),
    "clean_cache": Given(("false",), "delete the folder of a step to have it done again"),
    "clean_evaluation_cache": Given(("false",), "delete the folder of a step to have it done again"),
    "enable_shared_cache": Given(("false",), _KEPT),
    "log_to_file": Given(("false",), "leave it out: a training writes log.jsonl in any case"),
    "no_artifacts": Given(("true", "false"), "leave it out"),
    "ort_log_severity_level": Given(_ANY_LEVEL, "log_severity_level is for all"),
    "ort_py_log_severity_level": Given(_ANY_LEVEL, "log_severity_level is for all"),
    "plot_pareto_frontier": Given(("false",), "leave it out: the report of a search has it"),
}
_REMEDIES = {
    "packaging_config": "the folder of the export is complete as it is: copy it",
    "auto_optimizer_config": "passes: {onnx: {type: ModelBuilder}}, or oleaster auto-opt",
    "workflow_host": "leave it out: the work is done on this machine",
    "azureml_client": "leave it out; oleaster submit --azureml makes the job, and names its workspace",
}
_MEASURED = {
    "accuracy": {
        "accuracy_score": "accuracy",
        "f1_score": "macro_f1",
        "perplexity": "perplexity",
        "exact_match": "exact_match",
    },
    "latency": {"avg": "latency_ms"},
    "throughput": {"avg": "latency_ms"},
    "size_on_disk": {"bytes": "size_mb"},
}
"""Olive's metric type -> sub types that every evaluation (of an export: its manifest) says anyway -> what a search
calls them."""


def read_engine(top: Block) -> Block:
    """The engine's keys, wherever they stand; returns the block that holds them for what is read later."""
    engine = top.flat("engine")
    if found := engine.take("cache_dir", "cache_config"):
        engine.note(f"{found.where}: {_KEPT}")
    engine.words(_WORDS)
    return engine


def read_machines(top: Block) -> None:
    """`systems`, `host`, `target`: this machine, and what the export is for."""
    systems = top.take("systems")
    known = Block(top.recipe, top.path, "systems", systems.node) if systems else None
    machines = {name: known.block(name) for name in known.left()} if known else {}
    for word in ("host", "target"):
        found = top.take(word)
        if found is None:
            continue
        if isinstance(found.node, yaml.MappingNode):
            machines[word] = Block(top.recipe, top.path, word, found.node)
        elif found.text not in machines:
            top.problem(found.where, f"there is no system '{found.text}'", f"systems: {', '.join(machines) or 'none'}")
    for block in machines.values():
        _read_machine(block)


def _read_machine(block: Block) -> None:
    kind = block.take("type")
    if kind is not None and kind.text.lower() not in ("localsystem", "local_system"):
        remedy = "the work is done where the command is given: type: LocalSystem, and oleaster submit for Azure ML"
        block.problem(kind.where, f"a system of type {kind.text} cannot be used", remedy)
    block.flat("config")
    accelerators = block.take("accelerators")
    if accelerators is not None and isinstance(accelerators.node, yaml.SequenceNode):
        for node in accelerators.node.value[:1]:
            _read_accelerator(Block(block.recipe, block.path, f"{block.place}.accelerators", node))
        if len(accelerators.node.value) > 1:
            block.problem(accelerators.where, "several accelerators", "an export is for one: keep that one")
    if token := block.take("hf_token"):
        block.note(f"{token.where}: the hub client finds its token itself (hf auth login)")
    block.close(("accelerators",), {"memory": "memory in section export says how much the artifact may take"})


def _read_accelerator(block: Block) -> None:
    block.enter("device", device := block.take("device"), device.text.lower() if device else None)
    providers = block.take("execution_providers")
    if providers is not None:
        names = providers.value if isinstance(providers.value, list) else [providers.text]
        block.enter("provider", providers, names[0])
        if len(names) > 1:
            block.problem(providers.where, "several execution providers", "an export is for one: keep that one")
    block.close(("device", "execution_providers"))


def read_evaluators(top: Block, named: list[Found]) -> list[str] | None:
    """What is to be measured, the most important first; None: nothing is evaluated.

    It is said by `evaluators`, the engine's `evaluator` and those of passes.
    """
    found = top.take("evaluators")
    known = Block(top.recipe, top.path, "evaluators", found.node) if found else None
    blocks = {name: known.block(name) for name in known.left()} if known else {}
    if (chosen := top.take("evaluator")) is not None:
        named = [*named, chosen]
    for one in named:
        if isinstance(one.node, yaml.MappingNode):
            blocks[one.where] = Block(top.recipe, top.path, "evaluator", one.node)
        elif one.text not in blocks:
            top.problem(one.where, f"there is no evaluator '{one.text}'", f"evaluators: {', '.join(blocks) or 'none'}")
    measured = [each for block in blocks.values() for each in _read_evaluator(block)]
    return list(dict.fromkeys(name for _, name in sorted(measured))) if named else None


def _read_evaluator(block: Block) -> list[tuple[int, str]]:
    """(Olive's priority, measure) for each metric."""
    measured: list[tuple[int, str]] = []
    block.take("name")
    metrics = block.take("metrics")
    if metrics is not None and isinstance(metrics.node, yaml.SequenceNode):
        for node in metrics.node.value:
            measured += _read_metric(Block(block.recipe, block.path, f"{block.place}.metrics", node))
    own = "a metric of your own is a function in a file that plugins: names (docs/evaluation.md)"
    block.close(("metrics",), {"user_script": own, "type": own, "script_dir": own})
    return measured


def _read_metric(block: Block) -> list[tuple[int, str]]:
    measured: list[tuple[int, str]] = []
    block.take("name")
    kind = block.take("type")
    known = _MEASURED.get(kind.text.lower()) if kind else None
    if kind is not None and known is None:
        own = "a metric of your own is a function in a file that plugins: names (docs/evaluation.md)"
        block.problem(kind.where, f"there is no metric of type '{kind.text}' here", own)
    subs = block.take("sub_types")
    if subs is not None and isinstance(subs.node, yaml.SequenceNode):
        for node in subs.node.value:
            sub = Block(block.recipe, block.path, f"{block.place}.sub_types", node)
            name = sub.take("name")
            if name is not None and known is not None and name.text.lower() not in known:
                sub.problem(name.where, f"'{name.text}' is not measured", f"of this type: {', '.join(known)}")
            priority = sub.take("priority")
            if name is not None and known is not None and name.text.lower() in known:
                measured.append((_place(sub, priority), known[name.text.lower()]))
            sub.close(("name", "priority"), {"goal": "max_drop in section export says what may be lost"})
    if rows := block.take("data_config"):
        block.note(
            f"{rows.where}: the rows that training held out are asked; evaluate: {{data_files: ...}} asks others"
        )
    block.close(("name", "type", "sub_types"), {"user_config": "leave it out"})
    return measured


def _place(block: Block, priority: Found | None) -> int:
    """How early a measure comes: Olive's priority, of which 1 is the highest and -1 is none."""
    if priority is None or priority.text == "-1":
        return _LAST
    if not priority.text.isdigit():
        block.problem(priority.where, f"'{priority.text}' is no priority", "1 (the most important), 2, ...")
        return _LAST
    return int(priority.text)


def remedies() -> dict[str, str]:
    """For keys of the top level that cannot be translated."""
    return dict(_REMEDIES)
