"""The training passes of Olive (LoRA, QLoRA, ...) and `training_args` -> the sections method, training and watch."""

from __future__ import annotations

from oleaster.config.flags import config_flags
from oleaster.config.olive.block import Block, Found, Given, Same, Words
from oleaster.config.olive.search import Searched
from oleaster.core.machine import has_nvidia_gpu

METHODS: dict[str, dict[str, object]] = {
    "lora": {"method": "lora"},
    "qlora": {"method": "qlora"},
    "dora": {"method": "lora", "use_dora": True},
    "loftq": {"method": "qlora", "init_lora_weights": "loftq"},
}
"""Olive's training passes -> our settings."""

_RUN_FOLDER = "leave it out: checkpoints lie in the folder of the run, and a killed run goes on by itself"
_METHOD: Words = {
    "r": Same("lora_r"),
    "alpha": Same("lora_alpha"),
    "bias": Given(("none",), "biases are not trained beside LoRA; modules_to_save trains whole modules"),
    "device_map": Given(("auto", "current_device"), "leave it out: the device is found"),
    "allow_tf32": Given(("true", "false"), "leave it out"),
    "ephemeral_gpu_offload": Given(("false",), "leave it out"),
    "use_ort_trainer": Given(("false",), "leave it out: the training engine is our own"),
    "save_quant_config": Given(("true", "false"), "leave it out"),
    "quant_type": Given(("nf4",), "the 4-bit base is NF4"),
    "double_quant": Given(("true", "false"), "leave it out"),
}
_TRAINING: Words = {
    "lr_scheduler": Same("lr_scheduler_type"),
    "overwrite_output_dir": Given(("false",), "leave it out: finished work is put aside, never overwritten"),
    "resume_from_checkpoint": Given(("true", "false"), _RUN_FOLDER),
    "remove_unused_columns": Given(("true", "false"), "leave it out: only the columns of the template are read"),
    "group_by_length": Given(("true",), "leave it out: rows of like length are always computed together"),
    "save_strategy": Given(("steps",), "leave it out, and say save_steps"),
    "eval_strategy": Given(("steps",), "leave it out; eval_steps says how often, no validation rows mean never"),
    "evaluation_strategy": Given(("steps",), "leave it out; eval_steps says how often, no validation rows mean never"),
    "logging_strategy": Given(("steps",), "leave it out, and say logging_steps"),
    "do_train": Given(("true",), "leave it out"),
    "do_eval": Given(("true",), "leave it out"),
    "ddp_find_unused_parameters": Given(("true", "false"), "leave it out"),
    "deepspeed": Given(("false",), "leave it out: torchrun or accelerate launch start several processes"),
}
_TRAINING_REMEDIES = {"output_dir": _RUN_FOLDER, "extra_args": "write its keys beside the others"}
_METHOD_REMEDIES = {"eval_dataset_size": "validation_fraction in section data says which share is held out"}


def read_method(kind: str, block: Block, where: Found, searched: Searched) -> None:
    """What the pass says of itself: method, rank, regularisation; and its training arguments."""
    for flag, value in METHODS[kind].items():
        block.enter(flag, where, value)
    searched.take(block, _METHOD)
    block.words(_METHOD)
    for name in ("torch_dtype", "compute_dtype"):
        _read_dtype(block, name)
    for name in ("training_args", "training_config"):
        inner = block.block(name).flat("extra_args")
        searched.take(inner, _TRAINING)
        read_training(inner)
    block.leaves(("method", "training", "watch"))
    block.close(
        (*_METHOD, *_ours("method"), "train_data_config", "eval_data_config", "training_args"), _METHOD_REMEDIES
    )


def read_training(block: Block) -> None:
    """`training_args`: names of transformers.TrainingArguments, most of which are ours too."""
    if half := block.take("fp16"):
        _read_half(block, half)
    block.leaves(("training", "watch"), ("seed",))
    if seed := block.take("data_seed"):
        block.enter("seed", seed)
    block.words(_TRAINING)
    block.close((*_TRAINING, *_ours("training"), *_ours("watch")), _TRAINING_REMEDIES)


def _read_half(block: Block, found: Found) -> None:
    """float16 needs a GPU; on other machines the user wanted what is fast there."""
    if found.text.lower() == "false":
        return
    if has_nvidia_gpu():
        block.enter("fp16", found, "true")
    else:
        block.note(f"{found.where}: nothing here computes in float16; the faster of bfloat16 and float32 is taken")


def _read_dtype(block: Block, name: str) -> None:
    found = block.take(name)
    if found is not None and found.text in ("float16", "fp16"):
        _read_half(block, found)
    else:
        block.enter("dtype", found)


def _ours(section: str) -> list[str]:
    return [flag.name for flag in config_flags().values() if flag.section == section]
