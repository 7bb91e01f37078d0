"""The methods that PEFT carries out, by name: one file for all of them, no mathematics of ours.

PEFT changes the model in place; its own object over the model stands beside it (`peft_model`) for saving and merging.
Its modules compute, so the model runs on transformers' code; but the adapters of `bottleneck.py`, a method that we give
PEFT, also run on the fast engine. The files are PEFT's.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from oleaster.config.methods import LoraConfig, PeftSection
from oleaster.core.errors import ConfigError, ModelError, collect
from oleaster.methods.adapter_files import CONFIG, PREFIX, read_adapter, write_adapter
from oleaster.methods.targets import (
    EMBEDDINGS,
    build_skeleton,
    choose,
    ends_with,
    find_norms,
    find_saved,
    find_targets,
    head_path,
    linear_modules,
    shared_names,
    short_names,
)
from oleaster.methods.virtual_tokens import prepend_virtual_tokens
from oleaster.models.loaded import BaseNeeds

TYPES = {
    "adapter": "BOTTLENECK",
    "dora": "LORA",
    "ia3": "IA3",
    "loha": "LOHA",
    "lokr": "LOKR",
    "vera": "VERA",
    "prompt_tuning": "PROMPT_TUNING",
    "prefix_tuning": "PREFIX_TUNING",
    "ln_tuning": "LN_TUNING",
}
"""Our name -> PEFT's. `dora` is the method lora with use_dora."""
KEYS_VALUES = (("k_proj", "v_proj"), ("qkv_proj",), ("query_key_value",), ("c_attn",))
MIXED = (("o_proj",), ("out_proj",), ("attention.dense",), ("attn.c_proj",), ("self_attn.dense",))
INNER = (("down_proj",), ("fc2",), ("dense_4h_to_h",), ("mlp.c_proj",), ("fc_out",))
"""Names of keys and values, and of the last map of the attention and of the MLP, family by family."""
PLACEMENTS = {"both": (MIXED, INNER), "attention": (MIXED,), "mlp": (INNER,)}
"""Where adapters stand."""
PROMPTS = ("prompt_tuning", "prefix_tuning")
"""What these learn stands in front of the rows, not in the weights."""
NO_EXPORT = {
    **dict.fromkeys(PROMPTS, "what it learns stands in front of every row and cannot be merged into the weights"),
    "adapter": "its networks stand behind an activation and cannot be merged into the weights",
}


@dataclass(frozen=True)
class PeftMethod:
    """One of `TYPES` with the arguments of PEFT's own config class."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """As PEFT calls them; `target_modules` and `modules_to_save` are checked against the model first."""

    saves_model = False

    @classmethod
    def from_config(cls, config: PeftSection | LoraConfig) -> PeftMethod:
        """The method that a recipe describes."""
        settings = config.model_dump(exclude={"type"})
        if isinstance(config, LoraConfig):
            start = config.init_lora_weights
            settings |= {"r": settings.pop("lora_r"), "init_lora_weights": True if start == "true" else start}
            settings["lora_alpha"] = settings["lora_alpha"] or 2 * config.lora_r
            return cls("dora", {name: value for name, value in settings.items() if value is not None})
        given = {_PEFT_NAMES.get(name, name): value for name, value in settings.items()}
        if given.get("alpha", 0) is None:
            given["alpha"] = given["r"]
        if config.type == "prompt_tuning" and given["prompt_tuning_init_text"] is None:
            given["prompt_tuning_init"] = "SAMPLE_VOCAB"
        elif config.type == "prompt_tuning":
            given["prompt_tuning_init"] = "TEXT"
        return cls(config.type, {name: value for name, value in given.items() if value is not None})

    @classmethod
    def from_folder(cls, folder: Path) -> PeftMethod:
        """The method that wrote an adapter folder. Raises: ModelError when it is none of `TYPES`."""
        config = dict(read_adapter(folder).config)
        name = next((ours for ours, theirs in TYPES.items() if theirs == config.get("peft_type")), None)
        if name is None:
            found, known = config.get("peft_type"), ", ".join(sorted(TYPES.values()))
            raise ModelError(f"an adapter of type {found}", where=str(folder / CONFIG), remedy=f"known: {known}")
        about_files = ("peft_type", "task_type", "inference_mode", "base_model_name_or_path", "revision")
        arguments = {k: v for k, v in config.items() if k not in about_files and v is not None}
        if name == "prompt_tuning":  # the text it began with would be asked of a tokenizer again
            arguments = {k: v for k, v in arguments.items() if k not in ("prompt_tuning_init_text", "tokenizer_kwargs")}
            arguments["prompt_tuning_init"] = "RANDOM"
        arguments.pop("prefix_projection", None)  # what the network gave is in the file, the network is not
        return cls(name, arguments)

    @property
    def needs(self) -> BaseNeeds:
        saved = bool(self.arguments.get("modules_to_save"))
        generic = f"PEFT's modules compute {self.name}" if saved or self.name != "adapter" else None
        return BaseNeeds(trained=saved or self.name == "ln_tuning", generic=generic)

    @property
    def no_export(self) -> str | None:
        return NO_EXPORT.get(self.name)

    def trained_numbers(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Counted on layers without numbers, put up from the shapes. Raises: ConfigError when a name matches none."""
        if self.name not in PROMPTS:
            skeleton = build_skeleton(shapes)
            self._adapt(skeleton, self._for(skeleton))
            return sum(p.numel() for p in skeleton.parameters() if p.requires_grad)
        values = [shape[0] for name, shape in shapes.items() if name.endswith(("k_proj.weight", "v_proj.weight"))]
        layers = {match[0] for name in shapes if (match := re.match(r".*?\.\d+\.", name))}
        width = next((s[1] for name, s in shapes.items() if name.split(".")[-2] in EMBEDDINGS), 0)
        per_token = width if self.name == "prompt_tuning" else sum(values) or 2 * width * len(layers)
        return self.arguments["num_virtual_tokens"] * per_token

    def attach(self, model: nn.Module, seed: int) -> None:
        """Freeze `model` and let PEFT add to it; random starts are drawn from `seed`.

        Raises: ConfigError when a name matches nothing; ModelError when PEFT does not know this model.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            kind = "CAUSAL_LM" if hasattr(model, "prepare_inputs_for_generation") else "FEATURE_EXTRACTION"
            adapted = self._adapt(model, {"task_type": kind, **self._for(model)})
        model.__dict__["peft_model"] = adapted  # beside the model, not a part of it: it contains the model
        if self.name in PROMPTS:
            prepend_virtual_tokens(model, adapted)

    def _adapt(self, model: nn.Module, arguments: Mapping[str, Any]) -> Any:
        import peft

        if self.name == "adapter":
            from oleaster.methods import bottleneck

            bottleneck.register()
        try:
            config = peft.get_peft_config({"peft_type": TYPES[self.name], **arguments})
            with warnings.catch_warnings():  # PEFT says it of every norm; which layers fit is checked in `_for`
                warnings.filterwarnings("ignore", "Unsupported layer type", UserWarning)
                return peft.get_peft_model(model, config)  # type: ignore[arg-type]
        except (ValueError, TypeError, NotImplementedError) as error:
            raise ModelError(f"PEFT cannot attach {self.name}: {error}", remedy="--method lora") from error

    def merge(self, model: nn.Module) -> None:
        """Fold into the weights, in place, by PEFT. Raises: ModelError for what no weight can hold."""
        if self.no_export:
            raise ModelError(f"{self.name}: {self.no_export}", remedy="keep it attached, or train with --method lora")
        adapted = _adapted(model)
        adapted.merge_and_unload()
        del model.__dict__["peft_model"]
        model.requires_grad_(False)

    def save(self, model: nn.Module, folder: Path, base: str, revision: str) -> None:
        """Write the adapter in PEFT's layout, atomically. Raises: StorageError."""
        import peft

        adapted = _adapted(model)
        config = adapted.peft_config["default"].to_dict()
        about = {
            "base_model_name_or_path": base,
            "revision": revision,
            "inference_mode": True,
            "task_type": "CAUSAL_LM",
        }
        tensors = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
        plain = {k: sorted(v) if isinstance(v, set) else v for k, v in {**config, **about}.items()}
        write_adapter(folder, plain, tensors, prefix="")

    def load(self, model: nn.Module, folder: Path) -> None:
        """Read what `save` or PEFT wrote into an attached model. Raises: ModelError when names or shapes differ."""
        import peft

        files = read_adapter(folder)
        own = peft.get_peft_model_state_dict(_adapted(model), save_embedding_layers=False)
        shapes = {name.removeprefix(PREFIX): tuple(tensor.shape) for name, tensor in own.items()}
        problems = [f"'{name}' is missing" for name in shapes if name not in files.tensors]
        problems += [f"'{name}' has no place in this model" for name in files.tensors if name not in shapes]
        problems += [
            f"'{name}' has shape {list(tensor.shape)}, the model {list(shapes[name])}"
            for name, tensor in files.tensors.items()
            if name in shapes and tuple(tensor.shape) != shapes[name]
        ]
        collect([ModelError(problem, where=str(folder)) for problem in problems])
        prefix = "" if self.name in PROMPTS else PREFIX
        peft.set_peft_model_state_dict(_adapted(model), {prefix + name: t for name, t in files.tensors.items()})

    def _for(self, model: nn.Module) -> dict[str, Any]:
        """The arguments, with the modules that are meant named one by one."""
        arguments = dict(self.arguments)
        saved = find_saved(model, arguments.get("modules_to_save", ()))
        usual = (
            PLACEMENTS[arguments.pop("adapter_placement", "both")] if self.name == "adapter" else (KEYS_VALUES, INNER)
        )
        if self.name in PROMPTS:
            if arguments.get("prompt_tuning_init") == "TEXT":
                config: Any = model.config
                arguments["tokenizer_name_or_path"] = config._name_or_path
            return arguments
        wanted = arguments.get("target_modules")
        if self.name == "ln_tuning":
            paths = choose(find_norms(model), wanted, None) if wanted else find_norms(model)
        else:
            paths = find_targets(model, wanted or _named_by_family(model, usual))
        _refuse_head(model, paths)
        paths = [path for path in paths if not any(f"{path}.".startswith(f"{module}.") for module in saved)]
        arguments["target_modules"] = short_names(model, paths)
        if self.name == "ia3" and "feedforward_modules" not in arguments:
            inner = [path for path in paths if any(ends_with(path, name) for (name,) in INNER)]
            arguments["feedforward_modules"] = short_names(model, inner)
            if not {*arguments["feedforward_modules"]} <= {*arguments["target_modules"]}:  # PEFT compares the words
                arguments |= {"target_modules": sorted(paths), "feedforward_modules": sorted(inner)}
        return arguments


def _named_by_family(model: nn.Module, places: Sequence[Sequence[Sequence[str]]]) -> list[str]:
    """Of each place the names that this model has. Raises: ConfigError for a model that calls one otherwise."""
    paths = list(linear_modules(model))

    def there(names: Sequence[str]) -> bool:
        return all(any(ends_with(path, name) for path in paths) for name in names)

    found = [next((names for names in families if there(names)), None) for families in places]
    if None in found:
        message = "the layers of this model that the method's paper changes are not known by name"
        remedy = "name them, as --target_modules k_proj,v_proj,down_proj; or --method lora"
        raise ConfigError(message, where="target_modules", remedy=remedy)
    return [name for names in found if names for name in names]


_PEFT_NAMES = {"lora_r": "r", "lora_alpha": "alpha"}


def _adapted(model: nn.Module) -> Any:
    """PEFT's object over an attached model."""
    return model.__dict__["peft_model"]


def _refuse_head(model: nn.Module, paths: Sequence[str]) -> None:
    head = head_path(model)
    if head in paths:
        tied = " (it shares its weight with the embedding)" if shared_names(model, f"{head}.weight") else ""
        remedy = f"leave '{head}' out, or train it whole with modules_to_save"
        raise ConfigError(
            f"no adapter can stand on the output head '{head}'{tied}", where="target_modules", remedy=remedy
        )
