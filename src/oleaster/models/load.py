"""Weights from a folder in the hub's layout into the fastest model that computes them exactly."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from oleaster.core.errors import ModelError
from oleaster.data.papers import Head
from oleaster.models.architecture import Architecture, describe
from oleaster.models.decoder import Decoder
from oleaster.models.folder import present_weights, read_json
from oleaster.models.generic import Generic
from oleaster.models.heads import hub_class, put_head
from oleaster.models.loaded import BaseNeeds
from oleaster.models.nf4 import Nf4Linear


def load_weights(
    folder: Path,
    dtype: torch.dtype,
    trust_remote_code: bool = False,
    head: Head | None = None,
    seed: int = 0,
    needs: BaseNeeds = BaseNeeds(),
) -> tuple[nn.Module, str | None]:
    """The model of `folder` in evaluation mode, and why it is not our own `Decoder` (None when it is).

    Args:
        head: what is to answer in the place of the vocabulary; where the folder has no such head its weights are
            drawn from `seed`.

    Raises:
        ModelError: the files do not hold the weights that config.json speaks of.
    """
    config = read_json(folder / "config.json")
    architecture = describe(config)
    if isinstance(architecture, Architecture) and not config.get("auto_map") and not needs.generic:
        return load_decoder(folder, architecture, dtype, head, seed, needs.nf4), None
    reason = architecture if isinstance(architecture, str) else needs.generic or "it brings its own code"
    if head is not None and head.kind != "embedding":
        return _load_headed(folder, dtype, config, head, seed), reason
    model = _from_pretrained(folder, dtype, trust_remote_code)
    return Generic(model).eval(), reason


def _load_headed(folder: Path, dtype: torch.dtype, config: dict[str, Any], head: Head, seed: int) -> Generic:
    """transformers' own model with a head, for the families that are not our own."""
    import transformers

    own = getattr(transformers, hub_class(config, head))
    with contextlib.redirect_stderr(io.StringIO()):
        model = own.from_pretrained(folder, dtype=dtype, num_labels=len(head.labels))
    generic = Generic(model, headed=True)
    if not any(name.startswith(("score.", "classifier.")) for name in read_tensors(folder)):
        put_head(generic, head, seed)
    return generic.eval()


def load_plain(folder: Path) -> Any:
    """transformers' own model in float32 and evaluation mode: what exports are made from and held against."""
    return _from_pretrained(folder, torch.float32, False).eval()


def _from_pretrained(folder: Path, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    from transformers import AutoModelForCausalLM

    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar of a second
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=trust_remote_code)


def load_decoder(
    folder: Path,
    architecture: Architecture,
    dtype: torch.dtype,
    head: Head | None = None,
    seed: int = 0,
    nf4: bool = False,
) -> Decoder:
    """A `Decoder` whose weights are mapped from the files where their type is right already, else converted.

    A head of labels stays float32, as it is always trained.

    Args:
        nf4: hold the linear layers, the head apart, in 4 bits. One after the other is read: memory never holds the
            model in full precision.
    """
    model = Decoder(architecture)
    weights = {name: tensor for name, tensor in read_tensors(folder).items() if "rotary_emb" not in name}
    if architecture.tied_head:
        one, other = "model.embed_tokens.weight", "lm_head.weight"
        weights |= {other: weights[one]} if one in weights else {one: weights[other]} if other in weights else {}
    fresh: dict[str, Tensor] = {}
    if head is not None and head.kind != "embedding":
        weights.pop("lm_head.weight", None)
        fresh = {f"score.{name}": tensor.detach() for name, tensor in put_head(model, head, seed).state_dict().items()}
        weights = {**fresh, **weights}
    expected = model.state_dict()
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{name} is not known to {architecture.family}" for name in weights if name not in expected]
    problems += [
        f"{name} has shape {list(weights[name].shape)}, config.json asks for {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if problems:
        raise ModelError(
            f"the weights do not fit config.json: {'; '.join(problems[:5])}"
            + (f" and {len(problems) - 5} more" if len(problems) > 5 else ""),
            where=str(folder),
            remedy="fetch the model again; config.json and the safetensors files belong together",
        )
    packed = _pack_linear_layers(model, folder, weights) if nf4 else {}
    weights = {name: tensor if name in fresh else tensor.to(dtype) for name, tensor in weights.items()}
    model.load_state_dict({**weights, **packed}, assign=True)
    if architecture.tied_head and not fresh:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model.requires_grad_(False).eval()


def _pack_linear_layers(model: Decoder, folder: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put an `Nf4Linear` in the place of each linear layer; takes its weight out of `weights`, gives its codes."""
    packed: dict[str, Tensor] = {}
    files = {name: file for file in present_weights(folder) for name in _names_in(file)}
    linears = {f"model.{path}": each for path, each in model.model.named_modules() if isinstance(each, nn.Linear)}
    for path, linear in linears.items():
        name = f"{path}.weight"
        del weights[name]
        with safe_open(files[name], framework="pt") as reader:  # its own mapping, gone with the tensor
            layer = Nf4Linear(reader.get_tensor(name), linear.bias)
        model.set_submodule(path, layer)
        packed |= {f"{path}.{name}": tensor for name, tensor in layer.named_buffers()}
    return packed


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder's safetensors files, mapped, not copied. Raises: ModelError when there are none."""
    tensors: dict[str, Tensor] = {}
    for file in present_weights(folder):
        with safe_open(file, framework="pt") as reader:
            tensors.update({name: reader.get_tensor(name) for name in reader.keys()})  # noqa: SIM118 (not a dict)
    return tensors


def _names_in(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as reader:
        return list(reader.keys())
