"""What can be chosen about an export, and what this machine can make of it."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from oleaster.config.schema import PositiveFloat, PositiveInt, Section
from oleaster.core.errors import ConfigError, MissingExtraError, near_names

Precision = Literal["auto", "fp32", "int8", "int4"]


class ExportOptions(Section):
    """The shipped model: how small, how faithful, for what."""

    precision: Precision = "auto"
    """Weights of the artifact; auto = the smallest one whose quality holds and whose memory fits."""
    memory: PositiveFloat | None = None
    """Memory the loaded model may take, in MB (1,000,000 bytes)."""
    max_drop: float = Field(default=0.01, ge=0.0, le=1.0)
    """Share of right answers that the artifact may lose against torch (0.01 = one point)."""
    max_kl: PositiveFloat = 0.1
    """Nats per answer token that the artifact's probabilities may move away from torch's (mean KL divergence)."""
    verify_rows: PositiveInt = 100
    """Held-out rows that climb the fidelity ladder."""
    calibration_rows: PositiveInt = 128
    """Rows whose activations calibrate 4-bit weights."""
    target_mb: PositiveFloat | None = None
    """Largest 4-bit artifact in MB; bits are spent where they save most. Default: 5.8 bits per weight."""
    device: Literal["cpu", "gpu", "npu"] = "cpu"
    """Kind of hardware the artifact is for."""
    provider: str = "CPUExecutionProvider"
    """ONNX Runtime execution provider."""
    use_ort_genai: bool = True
    """Write a folder for ONNX Runtime GenAI; the only layout there is for generating models."""


@dataclass(frozen=True)
class Provider:
    """An execution provider that exports can be asked for."""

    device: str
    packages: tuple[str, ...]
    """Distributions of which one brings it."""
    install: str


PROVIDERS = {
    "CPUExecutionProvider": Provider(
        "cpu", ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml"), "oleaster[cpu]"
    ),
    "CUDAExecutionProvider": Provider("gpu", ("onnxruntime-genai-cuda",), "oleaster[gpu]"),
    "DmlExecutionProvider": Provider("gpu", ("onnxruntime-genai-directml",), "oleaster[directml]"),
    "WebGpuExecutionProvider": Provider("gpu", ("onnxruntime-webgpu",), "onnxruntime-webgpu"),
    "QNNExecutionProvider": Provider("npu", ("onnxruntime-qnn",), "onnxruntime-qnn"),
    "OpenVINOExecutionProvider": Provider("npu", ("onnxruntime-ep-openvino",), "onnxruntime-ep-openvino"),
}


def check_hardware(options: ExportOptions) -> None:
    """Refuse, before any work, what this machine cannot verify.

    An artifact is only shipped when its ladder was climbed on the hardware it is for.

    Raises: ConfigError for an unknown or unfitting provider; MissingExtraError naming the package to install.
    """
    provider = PROVIDERS.get(options.provider)
    if provider is None:
        raise ConfigError(
            f"there is no execution provider '{options.provider}'",
            where="--provider",
            remedy=near_names(options.provider, PROVIDERS),
        )
    if options.device != provider.device:
        fitting = [name for name, known in PROVIDERS.items() if known.device == options.device]
        raise ConfigError(
            f"{options.provider} runs on a {provider.device}, not on a {options.device}",
            where="--device",
            remedy=f"--device {provider.device}, or --provider {' | '.join(fitting)}",
        )
    if not any(_installed(package) for package in provider.packages):
        raise MissingExtraError(
            f"{options.provider} is not on this machine", where="--provider", remedy=f"pip install '{provider.install}'"
        )
    if options.provider != "CPUExecutionProvider":
        raise ConfigError(
            f"exports for {options.provider} were never run and compared",
            where="--provider",
            remedy="export for CPUExecutionProvider; the float32 graph runs on other providers too",
        )
    if not options.use_ort_genai:
        raise ConfigError(
            "generating models are written for ONNX Runtime GenAI", where="--use_ort_genai", remedy="true"
        )


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
