"""doctor reports facts and does not fail."""

from __future__ import annotations

import platform

import torch

from oleaster.cli.doctor import abilities, extras, installation, machine
from oleaster.models.kernels import why_not_compiled


def test_versions_are_those_that_run() -> None:
    facts = dict(installation())
    assert facts["python"].startswith(platform.python_version())
    assert facts["torch"] == torch.__version__
    assert facts["compiled kernels"] == (why_not_compiled() or "in use")


def test_extras_of_the_project_are_listed_with_the_command_for_those_missing() -> None:
    facts = dict(extras())
    assert {"[auto-opt]", "[cpu]", "[gpu]", "[directml]", "[azureml]", "[dev]"} <= set(facts)
    assert facts["[dev]"] == "installed"
    assert all(
        finding == "installed" or finding == f'pip install "oleaster{extra}"' for extra, finding in facts.items()
    )


def test_the_machine_has_a_processor_and_memory() -> None:
    facts = dict(machine())
    assert "cores" in facts["processor"]
    assert "GiB" in facts["memory"]


def test_the_faster_type_is_the_one_measured_faster() -> None:
    assert dict(abilities({"float32": 2.0, "bfloat16": 1.0}))["compute"] == "fastest in float32"
    assert "decides" in dict(abilities({}))["compute"]
