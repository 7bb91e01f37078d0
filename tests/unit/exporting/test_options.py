"""What this machine cannot verify is refused before any work, with what to do."""

from __future__ import annotations

import pytest

from oleaster.config.schema import ExportConfig
from oleaster.core.errors import ConfigError, MissingExtraError
from oleaster.exporting.options import check_hardware


def test_the_cpu_is_accepted() -> None:
    check_hardware(ExportConfig())


def test_an_unknown_provider_is_answered_with_the_near_name() -> None:
    with pytest.raises(ConfigError, match="CUDAExecutionProvider"):
        check_hardware(ExportConfig(provider="CudaExecutionProvider", device="gpu"))


def test_a_provider_of_another_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="runs on a gpu"):
        check_hardware(ExportConfig(provider="CUDAExecutionProvider", device="cpu"))


@pytest.mark.parametrize(
    ("provider", "device", "package"),
    [
        ("CUDAExecutionProvider", "gpu", "oleaster\\[gpu\\]"),
        ("DmlExecutionProvider", "gpu", "oleaster\\[directml\\]"),
        ("QNNExecutionProvider", "npu", "onnxruntime-qnn"),
        ("OpenVINOExecutionProvider", "npu", "onnxruntime-ep-openvino"),
    ],
)
def test_a_provider_that_is_not_here_names_its_package(provider: str, device: str, package: str) -> None:
    with pytest.raises((MissingExtraError, ConfigError), match=f"{package}|never run"):
        check_hardware(ExportConfig.model_validate({"provider": provider, "device": device}))
