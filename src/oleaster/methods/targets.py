"""Which modules of a model a recipe means: by name, by regular expression, or all-linear."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from torch import nn
from transformers.pytorch_utils import Conv1D

from oleaster.core.errors import ConfigError, collect
from oleaster.models.nf4 import Nf4Linear

ALL_LINEAR = "all-linear"
HEADS = frozenset({"lm_head", "embed_out", "output", "score", "classifier"})
"""Names of output heads; used for models that cannot say which of their modules is the head."""
EMBEDDINGS = frozenset({"embed_tokens", "wte", "wpe", "embed_in"})
"""Last names of matrices that are no linear layer, where only a file's tensors are known."""
CONV1D = frozenset({"c_attn", "c_fc", "c_proj"})
"""Last names of GPT-2's matrices, which are stored as [in, out]."""


def linear_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Every linear layer by path, the head included. Conv1D is GPT-2's linear with weight [in, out]."""
    kinds = (nn.Linear, Conv1D, Nf4Linear)
    return {path: module for path, module in model.named_modules() if isinstance(module, kinds)}


def find_targets(model: nn.Module, wanted: Sequence[str] | str) -> list[str]:
    """Paths of the linear layers that get an adapter, in the model's order; see `choose`."""
    return choose(list(linear_modules(model)), wanted, head_path(model))


def choose(linears: Sequence[str], wanted: Sequence[str] | str, head: str | None) -> list[str]:
    """Those of the paths `linears` that are wanted, in their order.

    Args:
        wanted: `all-linear` (all but the head, as in PEFT), names that a path ends with, or one regular expression
            that must match a whole path.

    Raises: ConfigError when a name or the expression matches no linear layer.
    """
    if wanted == ALL_LINEAR:
        return [path for path in linears if path != head]
    if isinstance(wanted, str):
        chosen = [path for path in linears if _whole_match(wanted, path) or ends_with(path, wanted)]
        if not chosen:
            raise _no_match("target_modules", wanted, linears)
        return chosen
    missing = [name for name in wanted if not any(ends_with(path, name) for path in linears)]
    collect([_no_match("target_modules", name, linears) for name in missing])
    return [path for path in linears if any(ends_with(path, name) for name in wanted)]


def find_saved(model: nn.Module, wanted: Sequence[str]) -> list[str]:
    """Paths of the modules that are trained whole, outermost only. Raises: ConfigError when a name matches none."""
    owners = [path for path, module in model.named_modules() if path and any(True for _ in module.parameters())]
    missing = [name for name in wanted if not any(ends_with(path, name) for path in owners)]
    collect([_no_match("modules_to_save", name, owners) for name in missing])
    chosen = [path for path in owners if any(ends_with(path, name) for name in wanted)]
    return [path for path in chosen if not any(path.startswith(f"{other}.") for other in chosen)]


def find_norms(model: nn.Module) -> list[str]:
    """Paths of the modules that only scale (and shift) what they are given: their parameters are vectors."""

    def only_scales(module: nn.Module) -> bool:
        own = dict(module.named_parameters())
        return "weight" in own and own.keys() <= {"weight", "bias"} and all(p.ndim == 1 for p in own.values())

    return [path for path, module in model.named_modules() if path and only_scales(module)]


def build_skeleton(shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """Layers without numbers at the places of stored matrices and vectors; for counting what a method would add."""
    root = nn.Module()
    for path, shape in ((n.removesuffix(".weight"), shape) for n, shape in shapes.items() if n.endswith(".weight")):
        *parents, last = path.split(".")
        at = root
        for parent in parents:
            if parent not in at._modules:
                at.add_module(parent, nn.Module())
            at = at.get_submodule(parent)
        if len(shape) == 1:
            shifts = f"{path}.bias" in shapes
            layer: nn.Module = (
                nn.LayerNorm(list(shape), device="meta") if shifts else nn.RMSNorm(list(shape), device="meta")
            )
        elif last in EMBEDDINGS:
            layer = nn.Embedding(shape[0], shape[1], device="meta")
        else:
            inputs, outputs = shape if last in CONV1D else shape[::-1]
            layer = nn.Linear(inputs, outputs, bias=False, device="meta")
        at.add_module(last, layer)
    return root


def head_path(model: nn.Module) -> str | None:
    """Path of the layer that makes the logits, where the model has one."""
    ask = getattr(model, "get_output_embeddings", None)
    head = ask() if callable(ask) else None
    for path, module in model.named_modules():
        if module is head or (head is None and path in HEADS):
            return path
    return None


def shared_names(model: nn.Module, name: str) -> list[str]:
    """The other names of parameter `name`, such as the head's for a tied embedding."""
    parameter = model.get_parameter(name)
    everywhere = model.named_parameters(remove_duplicate=False)
    return [other for other, found in everywhere if found is parameter and other != name]


def short_names(model: nn.Module, paths: Sequence[str]) -> list[str]:
    """The last parts of `paths` when they mean exactly these modules, else `paths` in full."""
    names = sorted({path.rpartition(".")[2] for path in paths})
    meant = {path for path, _ in model.named_modules() if any(ends_with(path, name) for name in names)}
    return names if meant == set(paths) else sorted(paths)


def ends_with(path: str, name: str) -> bool:
    """Is `name` the whole `path` or its last parts? (PEFT's rule for lists of names.)"""
    return path == name or path.endswith(f".{name}")


def _whole_match(pattern: str, path: str) -> bool:
    try:
        return re.fullmatch(pattern, path) is not None
    except re.error as error:
        raise ConfigError(f"'{pattern}' is no regular expression: {error}", where="target_modules") from error


def _no_match(where: str, name: str, paths: Sequence[str]) -> ConfigError:
    kind = "linear layer" if where == "target_modules" else "module"
    short = {path.rpartition(".")[2] for path in paths}
    known = sorted({part for part in short if not part.isdigit()})
    nearness = {part: difflib.SequenceMatcher(None, name, part).ratio() for part in known}
    ordered = sorted(known, key=lambda part: (-nearness[part], part))
    return ConfigError(f"the model has no {kind} '{name}'", where=where, remedy="use one of: " + ", ".join(ordered))
