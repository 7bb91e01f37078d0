"""What the optional parts need, and what of it is missing."""

from __future__ import annotations

from packaging.requirements import Requirement

from oleaster.core.extras import extras, fits, installed, missing


def test_all_extras_are_known_and_the_developers_are_whole() -> None:
    assert {"auto-opt", "cpu", "gpu", "directml", "azureml", "tensorboard", "dev"} <= set(extras())
    assert missing("dev") == missing("auto-opt") == []


def test_what_is_missing_is_said_in_pips_words() -> None:
    assert any(word.startswith("onnxruntime-genai-directml>=") for word in missing("directml"))


def test_a_version_that_is_too_old_does_not_fit() -> None:
    assert fits(Requirement("pydantic>=2"))
    assert not fits(Requirement("pydantic>=99"))
    assert not fits(Requirement("no-such-package"))
    assert installed("no-such-package") is None
