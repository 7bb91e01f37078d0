"""Base folder + adapter folder -> merged folder, on the stored tensors: no model is built."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from oleaster.core.errors import ModelError, collect
from oleaster.exporting.adapter_folder import Delta, LoraAdapter, is_lora, read_lora
from oleaster.methods import attach_saved
from oleaster.models.folder import INDEX, present_weights
from oleaster.models.load import load_plain

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def merge(base_folder: Path, adapter_folder: Path, output: Path) -> None:
    """Write base + adapter as a plain full-precision folder (float32 safetensors, config, tokenizer).

    W + scale * B A is computed in float32 and stored in float32: a bfloat16 store would round away deltas smaller
    than 1/256 of the weight. Shards are read and written one by one; adapters of other types than LoRA are merged by
    their method, on a loaded model. The tokenizer beside the adapter, where there is one, replaces the base's.

    Raises: ModelError when the base is quantised, or the adapter cannot be merged or has tensors that the base has not.
    """
    config = json.loads((base_folder / "config.json").read_text(encoding="utf-8"))
    if "quantization_config" in config:
        raise ModelError(
            "the base is quantised; merging into it would lose the adapter",
            where=str(base_folder / "config.json"),
            remedy="name the full-precision base the adapter was trained for",
        )
    if is_lora(adapter_folder):
        _merge_stored(base_folder, adapter_folder, output, config)
    else:
        _merge_loaded(base_folder, adapter_folder, output)
    with_tokenizer = adapter_folder if (adapter_folder / "tokenizer.json").is_file() else base_folder
    copy_small_files(base_folder, with_tokenizer, output)


def _merge_loaded(base_folder: Path, adapter_folder: Path, output: Path) -> None:
    model = load_plain(base_folder)
    attach_saved(model, adapter_folder).merge(model)
    model.save_pretrained(output)


def _merge_stored(base_folder: Path, adapter_folder: Path, output: Path, config: dict[str, Any]) -> None:
    adapter = read_lora(adapter_folder)
    shards = _shards(base_folder)
    shapes = {name: shape for held in shards.values() for name, shape in held.items()}
    deltas, replaced, unties = _match(adapter, shapes, bool(config.get("tie_word_embeddings")))
    output.mkdir(parents=True, exist_ok=True)
    for shard in shards:
        with safe_open(base_folder / shard, framework="pt") as stored:
            tensors = {
                name: _merged(name, stored.get_tensor(name), deltas, replaced, adapter) for name in shards[shard]
            }
        if unties and shard == list(shards)[-1]:
            tensors["lm_head.weight"] = adapter.replaced["lm_head.weight"].float().contiguous()
        save_file(tensors, output / shard, metadata={"format": "pt"})
    if (base_folder / INDEX).is_file():
        index = json.loads((base_folder / INDEX).read_text(encoding="utf-8"))
        if unties:
            index["weight_map"]["lm_head.weight"] = list(shards)[-1]
        (output / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
    config.update({"dtype": "float32"} | ({"tie_word_embeddings": False} if unties else {}))
    config.pop("torch_dtype", None)
    (output / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _shards(folder: Path) -> dict[str, dict[str, list[int]]]:
    """File name -> shapes of the tensors in it, by name."""
    shards = {}
    for path in present_weights(folder):
        with safe_open(path, framework="pt") as stored:
            shards[path.name] = {key: stored.get_slice(key).get_shape() for key in stored.keys()}  # noqa: SIM118
    return shards


def _match(
    adapter: LoraAdapter, shapes: dict[str, list[int]], tied: bool
) -> tuple[dict[str, Delta], dict[str, torch.Tensor], bool]:
    """Deltas and whole tensors by stored name; and whether a trained lm_head has to be untied from the embedding."""

    def stored(name: str) -> str | None:
        # A hub checkpoint may lack the prefix of the task model (`transformer.`, `model.`).
        return next((n for n in (name, name.partition(".")[2]) if n in shapes), None)

    problems: list[ModelError] = []
    where = str(adapter.folder)
    deltas: dict[str, Delta] = {}
    for path, delta in adapter.deltas.items():
        name = stored(f"{path}.weight")
        update = [delta.B.shape[0], delta.A.shape[1]][:: -1 if adapter.fan_in_fan_out else 1]
        if name is None or (tied and "embed" in name):
            reason = "is tied to the embedding" if path.endswith("lm_head") or name else "is not in the base model"
            problems.append(ModelError(f"{path} {reason}", where=where, remedy="train the adapter on inner layers"))
        elif shapes[name] != update:
            found = f"the adapter's update of {name} is {update}, the base weight {shapes[name]}"
            problems.append(ModelError(found, where=where, remedy="name the base the adapter was trained for"))
        else:
            deltas[name] = delta
    replaced: dict[str, torch.Tensor] = {}
    unties = False
    for name, tensor in adapter.replaced.items():
        found = stored(name)
        if found:
            replaced[found] = tensor
        elif name == "lm_head.weight" and tied:
            # Trained as one with the embedding, or as a copy of its own.
            embedding = next((t for n, t in adapter.replaced.items() if n.endswith("embed_tokens.weight")), None)
            unties = embedding is None or not torch.equal(embedding, tensor)
        else:
            problems.append(ModelError(f"{name} is not in the base model", where=where))
    collect(problems)
    return deltas, replaced, unties


def _merged(
    name: str, weight: torch.Tensor, deltas: dict[str, Delta], replaced: dict[str, torch.Tensor], adapter: LoraAdapter
) -> torch.Tensor:
    if name in replaced:
        weight = replaced[name]
    if name in deltas:
        delta = deltas[name].full()
        delta = delta.T if adapter.fan_in_fan_out else delta
        weight = weight.float() + delta
    return (weight.float() if weight.is_floating_point() else weight).contiguous()


def copy_small_files(model_folder: Path, tokenizer_folder: Path, output: Path) -> None:
    """Tokenizer, template and generation config into another folder."""
    for name in TOKENIZER_FILES:
        if (tokenizer_folder / name).is_file():
            shutil.copyfile(tokenizer_folder / name, output / name)
    if (model_folder / "generation_config.json").is_file():
        shutil.copyfile(model_folder / "generation_config.json", output / "generation_config.json")
