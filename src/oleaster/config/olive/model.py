"""`input_model` of Olive, and `model` as the tutorial spells it -> the section `model`."""

from __future__ import annotations

from oleaster.config.olive.block import Block, Given, Same, Words

KINDS = ("hfmodel", "pytorchmodel")
TASKS: dict[str, dict[str, str]] = {
    "text-generation": {},
    "text-generation-with-past": {},
    "summarization": {"task": "summarization"},
    "translation": {"task": "translation"},
    "text-classification": {"task": "classification", "head": "sequence"},
    "token-classification": {"task": "extraction", "head": "token"},
    "feature-extraction": {"task": "embedding"},
    "sentence-similarity": {"task": "embedding"},
}
"""Task in the words of the hub -> our settings."""

_AS_WE_DO = "leave it out: the model is loaded and exported in the way that was tested"
_WORDS: Words = {
    "model_path": Same("model_name_or_path"),
    "model_name": Same("model_name_or_path"),
    "generative": Given(("true", "false"), _AS_WE_DO),
    "model_file_format": Given(("pytorch.entiremodel",), _AS_WE_DO),
}
_LOADING: Words = {
    "torch_dtype": Same("dtype"),
    "dtype": Same("dtype"),
    "trust_remote_code": Same("trust_remote_code"),
    "revision": Same("revision"),
    "device_map": Given(("auto", "cpu"), "leave it out: the device is found"),
    "attn_implementation": Given(("eager", "sdpa"), "leave it out: attention is computed in the way that was tested"),
    "low_cpu_mem_usage": Given(("true", "false"), _AS_WE_DO),
    "use_cache": Given(("false",), _AS_WE_DO),
}
_QUANTISED = "a pass of type QLoRA trains on a 4-bit base"
_REMEDIES = {
    "adapter_path": "name the folder of the run as the model; its adapter is found",
    "quantization_method": _QUANTISED,
    "quantization_config": _QUANTISED,
    "model_loader": _AS_WE_DO,
    "model_script": _AS_WE_DO,
    "script_dir": _AS_WE_DO,
    "io_config": _AS_WE_DO,
    "dummy_inputs_func": _AS_WE_DO,
    "model_attributes": _AS_WE_DO,
    "test_model_config": _AS_WE_DO,
}


def read_model(block: Block) -> None:
    """Which base model, and how it is loaded."""
    kind = block.take("type")
    if kind is not None and kind.text.lower() not in KINDS:
        remedy = "name the model it was exported from" if "onnx" in kind.text.lower() else "HfModel"
        block.problem(kind.where, f"a model of type {kind.text} cannot be adapted", remedy)
    block.flat("config")
    old = block.block("hf_config")  # Olive before 0.7
    for part in (block, old):
        read_task(part)
        part.words(_WORDS)
        for name in ("load_kwargs", "from_pretrained_args"):
            loading = part.block(name).flat("extra_args")
            loading.words(_LOADING)
            loading.close(_LOADING, _REMEDIES)
    old.close(_WORDS, _REMEDIES)
    block.close((*_WORDS, "task", "load_kwargs"), _REMEDIES)


def read_task(block: Block) -> None:
    """What the model is to do, which decides what answers."""
    found = block.take("task")
    if found is None:
        return
    settings = TASKS.get(found.text.lower())
    if settings is None:
        block.problem(found.where, f"'{found.text}' cannot be had here", f"one of {', '.join(TASKS)}")
    for name, value in (settings or {}).items():
        block.enter(name, found, value)
