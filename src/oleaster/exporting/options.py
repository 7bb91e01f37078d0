"""The hardware that exports can be asked for, and what this machine can make of it."""

from __future__ import annotations

from dataclasses import dataclass

from oleaster.config.schema import ExportConfig
from oleaster.core.errors import ConfigError, MissingExtraError, near_names
from oleaster.core.extras import installed


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


PRECISIONS = {
    "genai": ("int4", "int8", "fp32"),
    "hf": ("bf16", "fp16", "fp32"),
    "gguf": ("int4", "int8", "fp16", "fp32"),
}
"""What each `--output_format` can be made in."""


def check_hardware(options: ExportConfig) -> None:
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
    if not any(installed(package) for package in provider.packages):
        raise MissingExtraError(
            f"{options.provider} is not on this machine", where="--provider", remedy=f"pip install '{provider.install}'"
        )
    if options.provider != "CPUExecutionProvider":
        raise ConfigError(
            f"exports for {options.provider} were never run and compared",
            where="--provider",
            remedy="export for CPUExecutionProvider; the float32 graph runs on other providers too",
        )
    able = PRECISIONS[options.output_format]
    if options.precision not in ("auto", *able):
        raise ConfigError(
            f"{options.output_format} is not written in {options.precision}",
            where="--precision",
            remedy=f"auto, {', '.join(able)}",
        )
    if options.memory is not None and options.output_format != "genai":
        remedy = "leave it out, or --output_format genai"
        raise ConfigError(f"memory is not measured for {options.output_format}", where="--memory", remedy=remedy)
    if not options.use_ort_genai:
        raise ConfigError(
            "generating models are written for ONNX Runtime GenAI", where="--use_ort_genai", remedy="true"
        )
