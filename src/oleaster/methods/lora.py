"""LoRA: y = W x + scale * B A x with W frozen (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

Same numbers and same files as PEFT, so that either reads what the other wrote; `tests/unit/methods` holds them against
each other. Beside the low-rank updates, whole modules can be trained (`modules_to_save`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from oleaster.config.methods import LowRank
from oleaster.core.errors import ConfigError, ModelError, collect
from oleaster.methods.adapter_files import CONFIG, AdapterFiles, read_adapter, write_adapter
from oleaster.methods.lora_layer import LoraLinear, is_transposed, plain_update, weight_of
from oleaster.methods.lora_start import bad_start, begin
from oleaster.methods.targets import (
    ALL_LINEAR,
    EMBEDDINGS,
    HEADS,
    choose,
    find_saved,
    find_targets,
    head_path,
    shared_names,
    short_names,
)
from oleaster.models.loaded import BaseNeeds
from oleaster.models.nf4 import Nf4Linear

MERGEABLE = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Lora:
    """The method. Patterns (name or regular expression at the end of a path -> value) differ from module to module."""

    r: int
    alpha: float
    dropout: float = 0.0
    use_rslora: bool = False
    init: str = "true"
    """How A and B begin, as PEFT's `init_lora_weights`; see `lora_start`."""
    target_modules: Sequence[str] | str = ALL_LINEAR
    modules_to_save: Sequence[str] = ()
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_config(cls, config: LowRank) -> Lora:
        """The method that a recipe describes."""
        return cls(
            r=config.lora_r,
            alpha=2 * config.lora_r if config.lora_alpha is None else config.lora_alpha,
            dropout=config.lora_dropout,
            use_rslora=config.use_rslora,
            init=config.init_lora_weights,
            target_modules=config.target_modules,
            modules_to_save=tuple(config.modules_to_save or ()),
        )

    @classmethod
    def from_folder(cls, folder: Path) -> Lora:
        """The method that wrote an adapter folder, ours or PEFT's, with dropout off.

        The modules are those that have tensors in the file: that covers every way in which PEFT can choose them.

        Raises: ModelError when the folder is no adapter, or holds more than W + scale * B A and whole modules.
        """
        return _method_of(read_adapter(folder))

    saves_model = False
    no_export = None

    @property
    def needs(self) -> BaseNeeds:
        return BaseNeeds(trained=bool(self.modules_to_save))

    def rank_of(self, path: str) -> int:
        """Rank of the update at `path`."""
        return _by_pattern(self.rank_pattern, path, self.r)

    def scaling_of(self, path: str) -> float:
        """Factor of the update at `path`: alpha / r, or alpha / sqrt(r) with use_rslora."""
        rank = self.rank_of(path)
        return _by_pattern(self.alpha_pattern, path, self.alpha) / (math.sqrt(rank) if self.use_rslora else rank)

    def trained_numbers(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Numbers in A and B of every target and in the modules that are trained whole.

        Raises: ConfigError when a name matches no matrix.
        """
        matrices = {name.removesuffix(".weight"): shape for name, shape in shapes.items() if len(shape) == 2}
        linears = [path for path in matrices if path.rpartition(".")[2] not in EMBEDDINGS]
        head = next((path for path in linears if path in HEADS), None)
        whole = [name for name in shapes if any(f".{part}." in f".{name}" for part in self.modules_to_save)]
        targets = [path for path in choose(linears, self.target_modules, head) if f"{path}.weight" not in whole]
        low_rank = sum(self.rank_of(path) * sum(matrices[path]) for path in targets)
        return low_rank + sum(math.prod(shapes[name]) for name in whole)

    def attach(self, model: nn.Module, seed: int) -> None:
        """Freeze `model` and put a `LoraLinear` in the place of each target; what is random is drawn from `seed`.

        Raises: ConfigError when a name matches nothing, when a target is tied to the embedding or lies inside a module
            that is trained whole, or when such a module is not float32. The model is then unchanged.
        """
        if attached(model):
            raise ValueError("the model has adapters already")
        saved = find_saved(model, self.modules_to_save)
        targets = find_targets(model, self.target_modules)
        if self.target_modules == ALL_LINEAR:
            targets = [path for path in targets if not _inside(path, saved)]
        layers = {path: model.get_submodule(path) for path in targets}
        starts = [e for path, layer in layers.items() for e in bad_start(path, layer, self.init, self.rank_of(path))]
        collect([*_bad_targets(model, targets, saved), *_bad_saved(model, saved), *starts])
        model.requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        for path, base in layers.items():
            layer = LoraLinear(base, self.rank_of(path), self.scaling_of(path), self.dropout, generator)
            begin(layer, self.init, generator)
            model.set_submodule(path, layer.train(base.training))
        for path in saved:
            model.get_submodule(path).requires_grad_(True)

    def merge(self, model: nn.Module) -> None:
        """Add each update to its weight (in float32, rounded once) and take the adapters off.

        Raises: ModelError when a base weight is quantised or in another type than float32 or bfloat16; the model is
            then unchanged.
        """
        layers = attached(model)
        collect([_no_merge(path, layer.base) for path, layer in layers.items() if not _can_merge(layer.base)])
        for path, layer in layers.items():
            weight, delta = weight_of(layer.base), layer.delta()
            weight.data = (weight.data.float() + (delta.T if isinstance(layer.base, Conv1D) else delta)).to(
                weight.dtype
            )
            model.set_submodule(path, layer.base)
        model.requires_grad_(False)

    def save(self, model: nn.Module, folder: Path, base: str, revision: str) -> None:
        """Write the adapter in PEFT's layout, atomically. Raises: StorageError."""
        layers, tensors = attached(model), {}
        for path, layer in layers.items():
            tensors[f"{path}.lora_A.weight"], tensors[f"{path}.lora_B.weight"] = plain_update(layer)
        # PEFT copies a module that is trained whole, which unties it: every name of a tied weight gets the tensor
        for name in _trained_whole(model):
            for each in (name, *shared_names(model, name)):
                tensors[each] = model.get_parameter(name)
        modules = {name.rpartition(".")[0] for name in tensors if ".lora_" not in name}
        wider = 2 if any(layer.start for layer in layers.values()) else 1
        alpha = self.alpha * (math.sqrt(wider) if self.use_rslora else wider)  # the scale stays what it was
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "auto_mapping": None,
            "base_model_name_or_path": base,
            "revision": revision,
            "inference_mode": True,
            "r": self.r * wider,
            "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
            "lora_dropout": self.dropout,
            "use_rslora": self.use_rslora,
            "use_dora": False,
            "rank_pattern": dict(self.rank_pattern),
            "alpha_pattern": dict(self.alpha_pattern),
            "target_modules": short_names(model, list(layers)),
            "modules_to_save": sorted(modules) or None,
            "bias": "none",
            "fan_in_fan_out": any(is_transposed(layer.base) for layer in layers.values()),
            "init_lora_weights": True,
        }
        write_adapter(folder, config, tensors)

    def load(self, model: nn.Module, folder: Path) -> None:
        """Copy an adapter's tensors into an attached model.

        Raises: ModelError naming every tensor that is missing, of another shape, or that has no place in the model.
        """
        files, own = read_adapter(folder), {}
        layers = attached(model)
        for path, layer in layers.items():
            own[f"{path}.lora_A.weight"], own[f"{path}.lora_B.weight"] = plain_update(layer)
        for name in _trained_whole(model):
            own |= {each: model.get_parameter(name) for each in (name, *shared_names(model, name))}
        collect(_differences(files, own))
        with torch.no_grad():
            for path, layer in layers.items():
                rank = len(layer.lora_A)
                layer.lora_A.copy_(files.tensors[f"{path}.lora_A.weight"][:rank])
                layer.lora_B.copy_(files.tensors[f"{path}.lora_B.weight"][:, :rank])
            for name in _trained_whole(model):
                model.get_parameter(name).copy_(files.tensors[name])


def attached(model: nn.Module) -> dict[str, LoraLinear]:
    """Every adapter of the model by path, in the model's order."""
    return {path: module for path, module in model.named_modules() if isinstance(module, LoraLinear)}


def is_plain_lora(config: Mapping[str, Any]) -> bool:
    """Does this adapter_config.json speak of a LoRA that is no DoRA?"""
    return config.get("peft_type") == "LORA" and not config.get("use_dora")


NOT_CARRIED = {
    "use_dora": "DoRA scales each output by a magnitude that depends on the base weight",
    "use_qalora": "QALoRA pools the layer's input",
    "use_bdlora": "BD-LoRA's blocks are not implemented",
    "alora_invocation_tokens": "activated LoRA switches itself on in the middle of a text",
    "arrow_config": "Arrow routes between several adapters",
    "kasa_config": "KaSA changes the base weight",
    "layer_replication": "layer replication changes the number of layers",
    "monteclora_config": "MonteCLoRA samples its update",
    "velora_config": "VeLoRA changes the layer's input",
}
"""Settings of PEFT that make an adapter more than W + scale * B A, without a tensor that would show it."""

CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Values of init_lora_weights with which the base weight is another one than the hub's."""

LOW_RANK_NAME = re.compile(r"(?P<path>.+)\.lora_(?P<side>[AB])\.weight")


def _method_of(files: AdapterFiles) -> Lora:
    config, where = files.config, str(files.folder / CONFIG)
    if config.get("peft_type") != "LORA":
        found = config.get("peft_type")
        raise ModelError(f"an adapter of type {found}, not LORA", where=where, remedy="name a LoRA adapter")
    problems = [f"{key}: {reason}" for key, reason in NOT_CARRIED.items() if config.get(key)]
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(CHANGES_BASE):
        problems.append(f"init_lora_weights: with '{start}' the adapter belongs to a changed base weight")
    low_rank = {name: match for name in files.tensors if (match := LOW_RANK_NAME.fullmatch(name))}
    paths = sorted({match["path"] for match in low_rank.values()})
    for path in paths:
        if {f"{path}.lora_A.weight", f"{path}.lora_B.weight"} - low_rank.keys():
            problems.append(f"{path}: only one of lora_A and lora_B is in the file")
    whole = sorted(files.tensors.keys() - low_rank.keys())
    saved = tuple(sorted({name.rpartition(".")[0] for name in whole}))
    wanted = config.get("modules_to_save") or ()
    problems += [
        f"{name}: neither a low-rank update nor part of modules_to_save"
        for name in whole
        if "lora_" in name or not any(f".{part}." in f".{name}" for part in wanted)
    ]
    merging = "merge it with the tool that made it and fine-tune from the merged model"
    collect([ModelError(problem, where=where, remedy=merging) for problem in problems])
    ranks = {path: int(files.tensors[f"{path}.lora_A.weight"].shape[0]) for path in paths}
    return Lora(
        r=config["r"],
        alpha=config["lora_alpha"],
        use_rslora=bool(config.get("use_rslora")),
        target_modules=tuple(paths),
        modules_to_save=saved,
        rank_pattern={re.escape(path): rank for path, rank in ranks.items() if rank != config["r"]},
        alpha_pattern=config.get("alpha_pattern") or {},
    )


def _by_pattern(pattern: Mapping[str, Any], path: str, default: Any) -> Any:
    """PEFT's rule: the first entry that matches the end of `path` at a dot."""
    return next((value for key, value in pattern.items() if re.fullmatch(rf"(.*\.)?({key})", path)), default)


def _bad_targets(model: nn.Module, targets: Sequence[str], saved: Sequence[str]) -> list[ConfigError]:
    if not targets and not saved:
        return [ConfigError("nothing is trained: no linear layer is left", where="target_modules")]
    head, problems = head_path(model), []
    if head in targets and shared_names(model, f"{head}.weight"):
        problems.append(
            ConfigError(
                f"'{head}' shares its weight with the embedding; an adapter on it could not be merged",
                where="target_modules",
                remedy=f"leave '{head}' out, or train the weight whole with modules_to_save",
            )
        )
    problems += [
        ConfigError(f"'{path}' is trained whole already", where="target_modules", remedy="leave it out of one list")
        for path in targets
        if _inside(path, saved)
    ]
    return problems


def _bad_saved(model: nn.Module, saved: Sequence[str]) -> list[ConfigError]:
    kinds = {path: {p.dtype for p in model.get_submodule(path).parameters()} - {torch.float32} for path in saved}
    return [
        ConfigError(
            f"'{path}' holds {', '.join(map(str, found))}; what is trained whole must be float32",
            where="modules_to_save",
            remedy="load the base with --dtype float32",
        )
        for path, found in kinds.items()
        if found
    ]


def _inside(path: str, modules: Sequence[str]) -> bool:
    return any(path == module or path.startswith(f"{module}.") for module in modules)


def _can_merge(layer: nn.Module) -> bool:
    return type(layer) in (nn.Linear, Conv1D) and weight_of(layer).dtype in MERGEABLE


def _no_merge(path: str, layer: nn.Module) -> ModelError:
    kind = "4 bits" if isinstance(layer, Nf4Linear) else f"{type(layer).__name__} of {weight_of(layer).dtype}"
    return ModelError(
        f"{path} is held as {kind}; merging into it would lose the update",
        remedy="load the base in float32 or bfloat16 and merge there",
    )


def _trained_whole(model: nn.Module) -> list[str]:
    """Names of the trained parameters that are no adapter's."""
    low_rank = (".lora_A", ".lora_B")
    return [name for name, p in model.named_parameters() if p.requires_grad and not name.endswith(low_rank)]


def _differences(files: AdapterFiles, own: Mapping[str, torch.Tensor]) -> list[ModelError]:
    """What keeps the tensors of `files` from being those of the model."""
    problems, seen = [], {}
    for name, parameter in own.items():
        tensor, first = files.tensors.get(name), seen.setdefault(id(parameter), name)
        if tensor is None and first != name:
            problems.append(f"'{name}' is missing: this model ties it to '{first}', which the adapter changes alone")
        elif tensor is None:
            problems.append(f"'{name}' is missing")
        elif tensor.shape != parameter.shape:
            problems.append(f"'{name}' has shape {list(tensor.shape)}, the model {list(parameter.shape)}")
        elif first != name and first in files.tensors and not torch.equal(tensor, files.tensors[first]):
            problems.append(f"'{name}' differs from '{first}', but this model ties them")
    problems += [f"'{name}' has no place in this model" for name in sorted(files.tensors.keys() - own.keys())]
    return [ModelError(problem, where=str(files.folder)) for problem in problems]
