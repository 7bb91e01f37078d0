"""What the page says of an artifact."""

import pytest

from oleaster.core.artifact import Artifact
from oleaster.exporting.ladder import Figures
from oleaster.reporting.page import ladder

CLIMBED = [Figures("torch").as_json(), Figures("genai", fault="lost").as_json()]


@pytest.mark.parametrize(
    ("fidelity", "names"),
    [
        ({"ladder": CLIMBED}, ["torch", "genai"]),
        ({"adapters": {"a": CLIMBED, "b": CLIMBED[:1]}}, ["a: torch", "a: genai", "b: torch"]),
        ({}, []),
    ],
)
def test_the_rungs_of_every_adapter_are_shown(tmp_path, fidelity, names):
    with Artifact.staged(tmp_path / "out") as stage:
        (stage / "model.onnx").write_bytes(b"x")
        Artifact.seal(stage, kind="onnx-genai", precision="int8", base_source="b", base_revision="r", fidelity=fidelity)
    rungs = ladder(Artifact.open(tmp_path / "out"))
    assert [rung.rung for rung in rungs] == names
    assert [rung.rung for rung in rungs if rung.fault] == [name for name in names if "genai" in name]
