"""A run's model/ is the base without a second copy of its weights, and its card reads back."""

import os

import pytest
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from oleaster.core.errors import ModelError
from oleaster.models.card import model_card
from oleaster.models.folder import INDEX, ModelFolder, present_weights, write_companions, write_model_folder
from oleaster.models.source import revision_of
from oleaster.models.tiny import make_tiny


def test_the_weights_are_linked_and_the_rest_is_copied(tmp_path, monkeypatch):
    monkeypatch.setenv("OLEASTER_CACHE", str(tmp_path / "cache"))
    folder = make_tiny("llama", tmp_path / "base")
    (folder / "pytorch_model.bin").touch()
    (folder / "adapter_config.json").write_text("{}")
    base = ModelFolder("base", folder, "r")
    write_model_folder(base, tmp_path / "run" / "model")
    write_model_folder(base, tmp_path / "run" / "model")
    made = {p.name for p in (tmp_path / "run" / "model").iterdir()}
    assert made == {p.name for p in folder.iterdir()} - {"pytorch_model.bin", "adapter_config.json"}
    assert os.path.samefile(folder / "model.safetensors", tmp_path / "run" / "model" / "model.safetensors")
    assert not os.path.samefile(folder / "config.json", tmp_path / "run" / "model" / "config.json")
    assert revision_of(tmp_path / "run" / "model") == revision_of(folder)
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    AutoTokenizer.from_pretrained(tmp_path / "run" / "model")


def test_a_cache_of_symbolic_links_gives_real_files(tmp_path):
    blobs = make_tiny("llama", tmp_path / "blobs")
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for blob in blobs.iterdir():
        (snapshot / blob.name).symlink_to(blob)
    write_model_folder(ModelFolder("owner/name", snapshot, "abc"), tmp_path / "model")
    assert not any(p.is_symlink() for p in (tmp_path / "model").iterdir())
    assert os.path.samefile(tmp_path / "model" / "model.safetensors", blobs / "model.safetensors")


def test_a_sharded_base_keeps_its_shards_but_new_weights_lose_its_index(tmp_path):
    folder = make_tiny("llama", tmp_path / "base")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(make_tiny("llama", tmp_path / "x")).save_pretrained(
        folder, max_shard_size="100KB"
    )
    base = ModelFolder("base", folder, "r")
    write_model_folder(base, tmp_path / "model")
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) > 1
    AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    (tmp_path / "tuned").mkdir()
    save_file(tensors, tmp_path / "tuned" / "model.safetensors", metadata={"format": "pt"})
    write_companions(base, tmp_path / "tuned", {"dtype": "float32"})
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "tuned").dtype.itemsize == 4


def test_weights_that_an_index_names_and_the_disk_lacks_are_named(tmp_path):
    folder = make_tiny("llama", tmp_path / "base")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"no \.safetensors weights"):
        present_weights(folder)
    (folder / INDEX).write_text('{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}')
    (folder / "model-1.safetensors").touch()
    with pytest.raises(ModelError, match=r"missing: model-2\.safetensors"):
        present_weights(folder)


def card(base, **changes):
    settings = {
        "name": "intents",
        "method": "lora",
        "datasets": ["clinc/clinc_oos", "rows.jsonl"],
        "settings": {"learning_rate": 3e-4, "max_steps": None, "method": {"lora_r": 16}},
        "ledger": {"read": 2000, "train": {"used": 1800, "dropped": {}}},
        "scores": [{"split": "validation", "metric": "exact|match", "base": 0.1, "tuned": 0.912345}],
        "prompt": "```q```",
        "answer": "a",
    }
    return model_card(base, **{**settings, **changes})


def front(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_the_card_of_a_hub_model_names_its_base_and_licence(tmp_path):
    (tmp_path / "abc").mkdir()
    (tmp_path / "abc" / "README.md").write_text("---\nlicense: apache-2.0\ntags: [x]\n---\n# Base\n")
    text = card(ModelFolder("owner/name", tmp_path / "abc", "abc"))
    assert front(text) == {
        "base_model": "owner/name",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "license": "apache-2.0",
        "datasets": ["clinc/clinc_oos"],
        "pipeline_tag": "text-generation",
        "tags": ["oleaster", "lora"],
    }
    assert "| validation | exact\\|match | 0.1 | 0.9123 |" in text
    assert "| train.used | 1,800 |" in text
    assert "| method.lora_r | 16 |" in text
    assert "max_steps" not in text
    assert "````text\n```q```\n````" in text


def test_a_local_base_claims_no_hub_id_and_an_unknown_licence_is_said(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: [broken\n---\n")
    text = card(ModelFolder("./mine", tmp_path, "sha256:1"), method="full", scores=[])
    assert front(text)["library_name"] == "transformers"
    assert not {"base_model", "license"} & front(text).keys()
    assert "licence of the base is not stated" in text
    assert "Not measured yet" in text
