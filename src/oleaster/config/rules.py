"""What must hold between settings, and between settings and this machine's disk; no model is needed to see it.

A rule is a plain function `Config -> Problem...`. `ALWAYS` are contradictions inside the recipe; `TO_FINETUNE` looks
at files and packages too. `load_config` collects what they find with all other problems.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from oleaster.config.fields import Section
from oleaster.config.methods import ZERO_STARTS, LoraConfig
from oleaster.config.schema import Config
from oleaster.core.errors import ConfigError, MissingExtraError, UserError, collect, near_names
from oleaster.core.machine import has_nvidia_gpu

_NEEDED = {
    "model_name_or_path": ("the base model (--model_name_or_path)", "-m HuggingFaceTB/SmolLM2-135M-Instruct"),
    "data_name": ("the rows (--data_name or --data_files)", "-d rows.jsonl"),
    "output_path": ("the output folder (--output_path)", "-o runs/first"),
}
"""What a run cannot do without, in words and as an example."""
HEADS = {
    "classification": ("text", "sequence"),
    "extraction": ("text", "token"),
    "embedding": ("embedding",),
    "generation": ("text",),
    "summarization": ("text",),
    "translation": ("text",),
}
"""Kind of task -> what can answer, the default first."""
WITH_A_HEAD = ("lora", "qlora", "full")
"""Methods that a head of labels is trained and saved beside."""
_DATA_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")


class Problem(NamedTuple):
    """A broken rule."""

    name: str
    """Flag name of the setting to change; empty when it is about several."""
    message: str
    remedy: str | None = None
    kind: type[UserError] = ConfigError


Rule = Callable[[Config], Iterator[Problem]]


def broken_rules(config: Config, rules: Sequence[Rule], where: Mapping[str, str]) -> Iterator[tuple[str, UserError]]:
    """(flag name, error) for each broken rule. `where`: flag name -> file and line or flag, as far as known."""
    for rule in rules:
        for name, message, remedy, kind in rule(config):
            yield name, kind(message, where=where.get(name, name or None), remedy=remedy)


def check(config: Config, rules: Sequence[Rule]) -> None:
    """Raise all broken rules at once, for a `Config` that was built in Python."""
    collect([problem for _, problem in broken_rules(config, rules, {})])


def check_together(configs: Sequence[Config]) -> None:
    """Raise all that keeps these recipes from being trained side by side over one base, each named by its task."""
    problems: list[UserError] = []
    first, seen = configs[0], set()
    for config in configs:
        name = config.task_name or str(config.output_path)
        wrong: list[tuple[str, str, str]] = []
        if config.output_path in seen:
            wrong.append(("output_path", f"{config.output_path} is named twice", "a folder of its own for each"))
        seen.add(config.output_path)
        if (config.model, config.training.bf16) != (first.model, first.training.bf16):
            wrong.append(("model_name_or_path", "the adapters share one base", "the same model and dtype in all"))
        if not _leaves_the_base(config.method):
            remedy = "lora, no modules_to_save, use_dora or init_lora_weights"
            wrong.append(("method", "weights of the base would change under the others", remedy))
        if config.training.gradient_checkpointing:
            remedy = "a smaller per_device_train_batch_size and more gradient_accumulation_steps"
            wrong.append(("gradient_checkpointing", "cannot be used for several adapters at once", remedy))
        problems += [ConfigError(what, where=f"{name}: {key}", remedy=remedy) for key, what, remedy in wrong]
    collect(problems)


def _leaves_the_base(method: Section) -> bool:
    """Is it LoRA on the fast engine that changes nothing of the base?"""
    if not isinstance(method, LoraConfig) or method.modules_to_save or method.use_dora:
        return False
    return method.init_lora_weights in ZERO_STARTS


def precision_fits(config: Config) -> Iterator[Problem]:
    """float16 needs a GPU; the precision is named once."""
    training = config.training
    if training.fp16 and training.bf16:
        yield Problem("fp16", "fp16 and bf16 are both asked for", "keep one; on a CPU it is bf16, or neither")
    elif training.fp16 and not has_nvidia_gpu():
        remedy = "leave it out (dtype auto measures what is fastest here), or --bf16 true"
        yield Problem("fp16", "float16 training needs an NVIDIA GPU, and this machine has none", remedy)
    if training.bf16 and config.model.dtype == "float32":
        yield Problem("bf16", "bf16 and dtype float32 contradict each other", "keep one of the two")


def method_fits(config: Config) -> Iterator[Problem]:
    """What is learned reaches every layer, begins as the method can, and is saved."""
    method, head = config.method, head_of(config)
    if head in ("sequence", "token") and (method.type not in WITH_A_HEAD or getattr(method, "use_dora", False)):
        message = f"the files of this method hold no {head} head"
        yield Problem("method", message, f"--method {' or '.join(WITH_A_HEAD)}, or --head text")
    if isinstance(method, LoraConfig) and method.init_lora_weights == "loftq":
        message = "LoftQ begins as what rounding loses, and lora rounds nothing"
        yield Problem("init_lora_weights", message, "--method qlora, or --init_lora_weights pissa")
    if isinstance(method, LoraConfig) and method.use_dora and method.init_lora_weights not in ZERO_STARTS:
        message = f"DoRA cannot be saved as a plain adapter when it begins as {method.init_lora_weights}"
        yield Problem("init_lora_weights", message, "--init_lora_weights true, or leave use_dora out")
    if config.method.type == "prefix_tuning" and config.training.gradient_checkpointing:
        message = "a layer that is computed again does not see the prefix"
        remedy = "leave it out, or --method prompt_tuning"
        yield Problem("gradient_checkpointing", message, remedy)


def only_a_frozen_base_is_divided(config: Config) -> Iterator[Problem]:
    """What is trained stays whole in each process."""
    if config.training.fsdp != "none" and config.method.type == "full":
        yield Problem("fsdp", "only a frozen base is divided, and full trains all of it", "--method lora")
    if config.training.fsdp != "none" and head_of(config) != "text":
        yield Problem("fsdp", "a model with a head is not divided", "leave it out, or --head text")


def steps_make_sense(config: Config) -> Iterator[Problem]:
    """There is at least one step, and the warm-up ends before training does."""
    steps, warmup = config.training.max_steps, config.training.warmup_steps
    if steps == 0:
        yield Problem("max_steps", "0 steps train nothing", "leave it out to go by num_train_epochs, or --dry_run")
    if steps and steps > 0 and warmup is not None and warmup > steps:
        yield Problem("warmup_steps", f"the warm-up ({warmup} steps) is longer than the training ({steps} steps)")


def templates_agree(config: Config) -> Iterator[Problem]:
    """One shape of row is described, and a template has columns."""
    data = config.data
    if data.text_template is not None and data.text_field is not None:
        yield Problem("text_field", "text_template and text_field both say what the text is", "keep one of the two")
    if data.text_template is not None and "{" not in data.text_template:
        yield Problem(
            "text_template", "no {column} stands in the template", 'e.g. "Question: {input}\\nAnswer: {output}"'
        )
    if data.data_format == "template" and data.text_template is None:
        yield Problem("data_format", "data_format template needs text_template", "give --text_template")


def head_fits_task(config: Config) -> Iterator[Problem]:
    """The head can answer this kind of task, and settings of heads and constraints have something to work on."""
    task, head = config.task, head_of(config)
    if head not in HEADS[task.type]:
        fitting = [name for name, heads in HEADS.items() if head in heads]
        remedy = f"--task {' or '.join(fitting)}, or --head {' or '.join(HEADS[task.type])}"
        yield Problem("head", f"{task.type} is not answered by a {head} head", remedy)
    if task.class_weights and head not in ("sequence", "token"):
        yield Problem("class_weights", "only the loss of a head weighs labels", "--head sequence, or leave it out")
    if config.evaluation.answer_with in ("labels", "json") and head != "text":
        yield Problem("answer_with", f"a {head} head gives nothing else than its labels", "leave it out")
    if task.json_schema and (task.type, head) != ("extraction", "text"):
        yield Problem("json_schema", "only an extraction by generation answers in JSON", "--task extraction")


def head_of(config: Config) -> str:
    """`task.head`, decided."""
    return HEADS[config.task.type][0] if config.task.head == "auto" else config.task.head


def loss_is_described(config: Config) -> Iterator[Problem]:
    """Settings that belong to one loss come with it."""
    training = config.training
    if (training.loss == "distillation") != bool(training.teacher_model):
        if training.teacher_model:
            yield Problem("teacher_model", "only the loss distillation has a teacher", "--loss distillation")
        else:
            yield Problem("loss", "distillation needs a teacher", "--teacher_model MODEL")
    if training.label_smoothing_factor and training.loss not in (None, "cross_entropy"):
        remedy = "leave one of the two out"
        yield Problem("label_smoothing_factor", f"the loss {training.loss} does not smooth labels", remedy)
    if training.loss_options and not training.loss:
        yield Problem("loss_options", "no loss is named that they are for", "--loss NAME")


def data_is_named(config: Config) -> Iterator[Problem]:
    """The loaders `json`, `csv` and `parquet` name a format, not rows."""
    data = config.data
    if data.data_name in ("json", "csv", "parquet") and not data.data_files:
        remedy = f"--data_files rows.{data.data_name}, or --data_name rows.{data.data_name}"
        yield Problem("data_name", f"'{data.data_name}' is a format; the files are missing", remedy)


def paths_exist(config: Config) -> Iterator[Problem]:
    """Local files and folders that are named are there."""
    data, model = config.data, config.model.model_name_or_path
    for name, files in (("data_files", data.data_files), ("eval_data_files", data.eval_data_files)):
        for file in files or []:
            if "://" not in file and not any(mark in file for mark in "*?[") and not Path(file).exists():
                yield Problem(name, f"there is no file '{file}'", near_file(Path(file)))
    if data.data_name and _looks_local(data.data_name, _DATA_SUFFIXES) and not Path(data.data_name).exists():
        yield Problem("data_name", f"there is no file or folder '{data.data_name}'", near_file(Path(data.data_name)))
    if model and _looks_local(model, (".gguf",)) and not Path(model).expanduser().exists():
        yield Problem("model_name_or_path", f"there is no file or folder '{model}'", near_file(Path(model)))
    schema, loss = config.task.json_schema, (config.training.loss or "").rpartition(":")[0]
    if schema and not schema.is_file():
        yield Problem("json_schema", f"there is no file '{schema}'", near_file(schema))
    if loss and not Path(loss).is_file():
        yield Problem("loss", f"there is no file '{loss}'", near_file(Path(loss)))
    for plugin in config.plugins:
        if not plugin.is_file():
            yield Problem("plugins", f"there is no file '{plugin}'", near_file(plugin))


def output_is_writable(config: Config) -> Iterator[Problem]:
    """The run's folder exists or can be made."""
    output = config.output_path
    if output is None:
        return
    nearest = next((folder for folder in (output, *output.parents) if folder.exists()), Path())
    if output.is_file():
        yield Problem("output_path", f"'{output}' is a file", "name a folder; it is made when it is not there")
    elif not nearest.is_dir() or not os.access(nearest, os.W_OK):
        yield Problem("output_path", f"no folder can be made in '{nearest}'", "choose a place you may write to")


def packages_are_there(config: Config) -> Iterator[Problem]:
    """What is asked for is installed."""
    for package in ("tensorboard", "mlflow"):
        if package in config.watch.report_to and importlib.util.find_spec(package) is None:
            remedy = f'pip install "oleaster[{package}]"'
            yield Problem("report_to", f"the package {package} is not installed", remedy, MissingExtraError)


def names_what_it_needs(command: str, writes: bool = True) -> Rule:
    """The rule that base model, rows and output folder are named.

    Args:
        command: what the user typed, for the answer.
        writes: False for a command that makes nothing: it needs no folder.
    """

    def rule(config: Config) -> Iterator[Problem]:
        missing = [name for name in missing_settings(config) if writes or name != "output_path"]
        if missing:
            names, examples = zip(*(_NEEDED[name] for name in missing), strict=True)
            remedy = f"{' '.join([command, *examples])}\n     or --config with a recipe that names it"
            yield Problem("", f"not given: {', '.join(names)}", remedy)

    return rule


def missing_settings(config: Config) -> list[str]:
    """Which of base model, rows and output folder nobody has named."""
    given = {
        "model_name_or_path": config.model.model_name_or_path,
        "data_name": config.data.data_name or config.data.data_files,
        "output_path": config.output_path,
    }
    return [name for name, value in given.items() if not value]


def space_is_sound(config: Config) -> Iterator[Problem]:
    """What is searched is a setting, with values that the strategy can choose from."""
    if config.search_space:
        from oleaster.config.space import findings

        yield from (Problem(*found) for found in findings(config))


ALWAYS: tuple[Rule, ...] = (
    precision_fits,
    method_fits,
    only_a_frozen_base_is_divided,
    steps_make_sense,
    templates_agree,
    data_is_named,
    head_fits_task,
    loss_is_described,
    space_is_sound,
)
TO_FINETUNE: tuple[Rule, ...] = (*ALWAYS, paths_exist, output_is_writable, packages_are_there)


def _looks_local(name: str, suffixes: tuple[str, ...]) -> bool:
    """Is this a path rather than a hub id (`owner/name`)?"""
    return name.startswith((".", "/", "~")) or name.endswith(suffixes) or name.count("/") > 1


def near_file(path: Path) -> str:
    """What to write for a path that is not there: near names in its folder, or which folder was looked into."""
    folder = path.parent
    if not folder.is_dir():
        return f"there is no folder '{folder}' either"
    advice = near_names(path.name, [entry.name for entry in folder.iterdir()])
    return advice if advice.startswith("did you mean") else f"looked in {folder.resolve()}"
