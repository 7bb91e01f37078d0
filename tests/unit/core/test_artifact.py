import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oleaster.core.artifact import Artifact
from oleaster.core.errors import ConfigError, ModelError

FACTS = {
    "kind": "onnx-genai",
    "precision": "int8",
    "base_source": "hub/model",
    "base_revision": "abc",
    "run_id": "12ab",
}


def build(target: Path, content: str = "weights") -> Artifact:
    with Artifact.staged(target) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "model.onnx").write_text(content)
        (folder / "genai_config.json").write_text("{}")
        return Artifact.seal(folder, **FACTS, fidelity={"kl": 0.01, "rungs": [("torch", 1.0)], "per": {1: 2}})


def test_it_reads_back_equal(tmp_path: Path) -> None:
    written = build(tmp_path / "out")
    read = Artifact.open(tmp_path / "out", verify=True)
    assert read == written
    assert read.folder == tmp_path / "out"
    assert [f.path for f in read.files] == ["genai_config.json", "sub/model.onnx"]
    assert read.fidelity == {"kl": 0.01, "rungs": [["torch", 1.0]], "per": {"1": 2}}
    assert read.size_mb == pytest.approx(9e-6)


def test_an_artifact_is_replaced_and_anything_else_is_not(tmp_path: Path) -> None:
    build(tmp_path / "out")
    build(tmp_path / "out", "other")
    assert (tmp_path / "out" / "sub" / "model.onnx").read_text() == "other"
    (tmp_path / "empty").mkdir()
    build(tmp_path / "empty")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("")
    with pytest.raises(ConfigError, match="output_path"):
        build(tmp_path / "foreign")
    assert [p.name for p in (tmp_path / "foreign").iterdir()] == ["thesis.txt"]


def test_without_a_seal_there_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="seal"), Artifact.staged(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_all_damage_is_named(tmp_path: Path) -> None:
    folder = build(tmp_path / "out") and tmp_path / "out"
    (folder / "genai_config.json").write_text("{ }")
    (folder / "sub" / "model.onnx").unlink()
    with pytest.raises(ModelError) as caught:
        Artifact.open(folder)
    assert "genai_config.json: has 3 bytes instead of 2" in str(caught.value)
    assert "model.onnx: missing" in str(caught.value)


def test_changed_contents_are_found_by_their_hash(tmp_path: Path) -> None:
    build(tmp_path / "out")
    (tmp_path / "out" / "sub" / "model.onnx").write_text("WEIGHTS")
    Artifact.open(tmp_path / "out")
    with pytest.raises(ModelError, match="has other contents"):
        Artifact.open(tmp_path / "out", verify=True)


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"format": 1}', '{"format": 1, "files": [{}]}', '{"files": []}'])
def test_a_damaged_manifest_is_named(damage: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(damage)
    with pytest.raises(ModelError, match=r"manifest\.json: damaged"):
        Artifact.open(tmp_path)


def test_what_is_no_artifact_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        Artifact.open(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"no manifest\.json"):
        Artifact.open(tmp_path)
    build(tmp_path / "out")
    manifest = tmp_path / "out" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 9}))
    with pytest.raises(ModelError, match="format 9"):
        Artifact.open(tmp_path / "out")


def test_kills_leave_a_whole_artifact_or_none(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from oleaster.core.artifact import Artifact\n"
        "while True:\n"
        "    with Artifact.staged(pathlib.Path(sys.argv[1])) as folder:\n"
        "        for i in range(5): (folder / str(i)).write_bytes(b'x' * 10000)\n"
        "        Artifact.seal(folder, kind='k', precision='p', base_source='s', base_revision='r')\n"
        "    print('.', flush=True)\n"
    )
    dice = random.Random(0)
    for _ in range(10):
        with subprocess.Popen([sys.executable, "-c", code, tmp_path / "out"], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(dice.uniform(0, 0.02))
            os.kill(process.pid, signal.SIGKILL)
        if (tmp_path / "out").exists():
            assert len(Artifact.open(tmp_path / "out", verify=True).files) == 5
