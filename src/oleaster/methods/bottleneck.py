"""Bottleneck adapters: small networks behind frozen layers, y + up(activation(down(y))).

Behind the output projection of attention and of the MLP, before the residual sum (Houlsby et al. 2019,
https://arxiv.org/abs/1902.00751), or of the MLP alone (Pfeiffer et al. 2021, https://arxiv.org/abs/2005.00247). PEFT
has none, so here is one for it: a tuner like its own, which it attaches, saves and loads once `register` was called.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig, PeftType
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import register_peft_method
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN

NAME = "BOTTLENECK"
"""The `peft_type`."""


@dataclass
class BottleneckConfig(PeftConfig):
    """What adapter_config.json says of it."""

    target_modules: Any = field(default=None, metadata={"help": "Linear layers that get a network behind them."})
    reduction_factor: int = field(default=16, metadata={"help": "Width of a layer over that of its network."})
    non_linearity: str = field(default="relu", metadata={"help": "Activation between the two maps."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Modules that are trained whole."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = getattr(PeftType, NAME)
        self.target_modules = set(self.target_modules) if isinstance(self.target_modules, list) else self.target_modules


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A linear layer with networks behind it, one for each adapter; starts as the layer alone."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down, self.bottleneck_up = nn.ModuleDict(), nn.ModuleDict()
        self.activations: dict[str, nn.Module] = {}
        self.add(adapter_name, config)

    def add(self, adapter_name: str, config: BottleneckConfig) -> None:
        """One more network."""
        width = _width(self.base_layer)
        inner = max(1, width // config.reduction_factor)
        down, up = nn.Linear(width, inner), nn.Linear(inner, width)
        nn.init.normal_(down.weight, std=0.02)
        for zeros in (down.bias, up.weight, up.bias):
            nn.init.zeros_(zeros)
        self.bottleneck_down[adapter_name], self.bottleneck_up[adapter_name] = down, up
        self.activations[adapter_name] = ACT2FN[config.non_linearity]
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out] in the dtype of `x`."""
        return self.adapt(self.base_layer(x))

    def adapt(self, y: torch.Tensor) -> torch.Tensor:
        """What becomes of the layer's result, [..., out]; the training engine computes that itself."""
        if self.disable_adapters:
            return y
        for name in self.active_adapters:
            if name in self.bottleneck_down:
                inner = self.activations[name](_linear(y, self.bottleneck_down[name]))
                y = y + _linear(inner, self.bottleneck_up[name])
        return y


class BottleneckModel(BaseTuner):
    """Puts a `BottleneckLayer` in the place of each target. Nothing of it can be merged."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: dict[str, list[str]] = {}

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, BottleneckLayer):
            target.add(adapter_name, peft_config)
        else:
            self._replace_module(parent, target_name, BottleneckLayer(target, adapter_name, peft_config), target)

    def _check_merge_allowed(self) -> None:
        raise ValueError("what stands behind an activation cannot be merged into a weight")


@functools.cache
def register() -> None:
    """Make the method known to PEFT, whose table of types is closed: the name has to be entered by hand."""
    member = str.__new__(PeftType, NAME)
    member._name_ = member._value_ = NAME
    type.__setattr__(PeftType, NAME, member)
    PeftType._member_names_.append(NAME)
    PeftType._member_map_[NAME] = PeftType._value2member_map_[NAME] = member
    register_peft_method(name=NAME.lower(), config_cls=BottleneckConfig, model_cls=BottleneckModel)


def _width(layer: nn.Module) -> int:
    """Outputs of a Linear, [out, in], or of GPT-2's Conv1D, [in, out]."""
    weight: Any = layer.weight
    return weight.shape[0] if isinstance(layer, nn.Linear) else weight.shape[1]


def _linear(x: torch.Tensor, layer: Any) -> torch.Tensor:
    """The float32 layer in the dtype of `x`."""
    return functional.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))
