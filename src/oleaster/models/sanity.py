"""Whether a model folder is whole and agrees with itself: checked before its weights are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oleaster.core.errors import ModelError, collect
from oleaster.models.architecture import FAMILIES
from oleaster.models.folder import INDEX, ModelFolder, read_json, weight_files
from oleaster.models.tokenizer import TEMPLATE_ERRORS

EMBEDDINGS = ("model.embed_tokens.weight", "transformer.wte.weight", "wte.weight", "gpt_neox.embed_in.weight")
HEADS = ("lm_head.weight", "embed_out.weight")
MAX_HEADER_BYTES = 100_000_000
"""safetensors' own limit for a header."""


def check(base: ModelFolder, tokenizer: Any, trust_remote_code: bool = False) -> None:
    """Raise one ModelError with everything that is wrong, or return.

    Args:
        tokenizer: the folder's, as `models.tokenizer.load_tokenizer` gives it.
    """
    config = base.config()
    shapes, problems = read_shapes(base.folder)
    text = config.get("text_config") or config
    problems += _check_code(config, trust_remote_code)
    problems += _check_rope(text)
    problems += _check_vocabulary(text, tokenizer, shapes)
    problems += _check_specials(tokenizer)
    problems += _check_template(tokenizer)
    if shapes:
        problems += _check_head(text, shapes)
    where, remedy = str(base.folder), "fetch the model again, or correct the file"
    collect([ModelError(problem, where=where, remedy=remedy) for problem in problems])


def read_shapes(folder: Path) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """Shape of every tensor by name from the headers of the safetensors files, and what is wrong with the files.

    Reads a few kB per file; a file that is shorter than its header says is named (a download that was cut off).
    """
    shapes: dict[str, tuple[int, ...]] = {}
    problems: list[str] = []
    files = weight_files(folder)
    if not files:
        problems.append("no safetensors file")
    for path in files:
        if not path.exists():
            problems.append(f"{path.name} is missing, although {INDEX} names it")
            continue
        try:
            header, size = _read_header(path)
        except ValueError as error:
            problems.append(f"{path.name} is no safetensors file: {error}")
            continue
        shapes |= {name: tuple(entry["shape"]) for name, entry in header.items()}
        if size > path.stat().st_size:
            problems.append(f"{path.name} is cut off: {path.stat().st_size} of {size} bytes")
    if (folder / INDEX).exists() and not problems:
        absent = read_json(folder / INDEX).get("weight_map", {}).keys() - shapes.keys()
        problems += [f"'{name}' is in no file, although {INDEX} names it" for name in sorted(absent)]
    return shapes, problems


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """(tensor name -> dtype, shape, offsets; bytes the file must have). Raises: ValueError."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= MAX_HEADER_BYTES:
            raise ValueError("its header has no sensible length")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)


def _check_code(config: Mapping[str, Any], trusted: bool) -> list[str]:
    if not config.get("model_type"):
        return ["config.json has no model_type"]
    family = config["model_type"]
    if family in FAMILIES and not config.get("auto_map"):
        return []
    from transformers import CONFIG_MAPPING  # a third of a second, for families that are not our own

    if config.get("auto_map") and not trusted and family not in CONFIG_MAPPING:
        return [f"'{family}' needs the model's own code; --trust_remote_code true runs it, if you trust its author"]
    if not config.get("auto_map") and family not in CONFIG_MAPPING:
        return [f"this transformers does not know the model_type '{family}'"]
    return []


def _check_rope(config: Mapping[str, Any]) -> list[str]:
    """Version 5 writes `rope_parameters`, version 4 `rope_theta` and `rope_scaling`; both need a positive base."""
    section = config.get("rope_parameters") or config.get("rope_scaling")
    if section is None:
        theta = config.get("rope_theta", 1.0)
        return [] if _positive(theta) else [f"rope_theta is {theta!r}, not a positive number"]
    if not isinstance(section, Mapping):
        return [f"the rope section is {section!r}, not a table"]
    per_layer = section and all(isinstance(value, Mapping) for value in section.values())
    problems = []
    for name, part in section.items() if per_layer else [("rope_parameters", section)]:
        kind = part.get("rope_type", part.get("type", "default"))
        theta = part.get("rope_theta", config.get("rope_theta", 1.0))
        if kind not in ("default", "linear", "llama3", "su", "mrope"):
            from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

            if kind not in ROPE_INIT_FUNCTIONS:
                known = ", ".join(sorted({"default", *ROPE_INIT_FUNCTIONS}))
                problems.append(f"{name}: unknown rope type '{kind}' (known: {known})")
        if not _positive(theta):
            problems.append(f"{name}: rope_theta is {theta!r}, not a positive number")
        if kind in ("linear", "dynamic", "yarn", "llama3") and not _positive(part.get("factor")):
            problems.append(f"{name}: rope type '{kind}' needs a positive factor, found {part.get('factor')!r}")
    return problems


def _check_vocabulary(config: Mapping[str, Any], tokenizer: Any, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    size = config.get("vocab_size")
    if not isinstance(size, int):
        return ["config.json has no vocab_size"]
    problems = []
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= size:
        problems.append(f"the tokenizer has ids up to {highest}, the model only {size} embeddings")
    for name in (*EMBEDDINGS, *HEADS):
        if name in shapes and shapes[name][0] != size:
            problems.append(f"'{name}' has {shapes[name][0]} rows, config.json says vocab_size {size}")
    return problems


def _check_specials(tokenizer: Any) -> list[str]:
    """An end token must exist and be one id. Padding may equal it: nothing is padded with a learned position."""
    problems = []
    if tokenizer.eos_token_id is None:
        problems.append("the tokenizer has no eos token, so no answer could end")
    for kind in ("pad", "eos", "bos"):
        token, index = getattr(tokenizer, f"{kind}_token"), getattr(tokenizer, f"{kind}_token_id")
        unknown = tokenizer.unk_token_id
        if token is not None and (index is None or (index == unknown and token != tokenizer.unk_token)):
            problems.append(f"the {kind} token '{token}' is not in the vocabulary")
    return problems


def _check_template(tokenizer: Any) -> list[str]:
    if not tokenizer.chat_template:
        return []
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    try:
        asked = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
        answered = tokenizer.apply_chat_template(messages, tokenize=False)
    except TEMPLATE_ERRORS as error:
        return [f"the chat template does not render: {error}"]
    problems = [f"the chat template leaves out the {word}" for word in ("question", "answer") if word not in answered]
    if "question" not in asked:
        problems.append("the chat template leaves out the question when it asks for an answer")
    return problems


def _check_head(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """An untied head must be in the files; where it is missing, transformers would draw it at random."""
    if (config.get("architectures") or [""])[0].endswith("Classification"):
        return []  # labels stand in its place
    tied = config.get("tie_word_embeddings")
    if tied is None and "model_type" in config:
        from transformers import AutoConfig

        try:
            tied = getattr(AutoConfig.for_model(config["model_type"]), "tie_word_embeddings", True)
        except ValueError:
            tied = True  # unknown family: _check_code has said so
    if tied or any(name in shapes for name in HEADS):
        return []
    if any(name in shapes for name in EMBEDDINGS):
        return ["tie_word_embeddings is false, but there is no lm_head.weight in the files"]
    return []


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
