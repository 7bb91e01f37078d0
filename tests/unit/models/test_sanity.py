"""A folder that does not agree with itself is named before its weights are read, all faults at once."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from oleaster.core.errors import ModelError
from oleaster.models.folder import ModelFolder
from oleaster.models.sanity import check, read_shapes
from oleaster.models.tiny import FAMILIES, byte_tokenizer, make_tiny
from oleaster.models.tokenizer import end_of_turn_id, load_tokenizer, stop_ids


@pytest.fixture
def folder(tmp_path):
    return make_tiny("llama", tmp_path / "tiny", tie_word_embeddings=False)


def faults(folder: Path, tokenizer=None, trust: bool = False) -> str:
    try:
        check(ModelFolder("tiny", folder, ""), tokenizer or load_tokenizer(folder), trust)
    except ModelError as error:
        return str(error)
    return ""


def edit(path: Path, **changes: object) -> None:
    """Change fields of a JSON file; None takes a field out."""
    value = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: each for key, each in value.items() if each is not None}))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tiny_family_is_sound(family, tmp_path):
    assert faults(make_tiny(family, tmp_path)) == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 250}, "ids up to 259, the model only 250"),
        ({"vocab_size": 300}, "'lm_head.weight' has 260 rows, config.json says vocab_size 300"),
        ({"rope_parameters": {"rope_type": "rotten", "rope_theta": 1e4}}, "unknown rope type 'rotten'"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 0}}, "rope_theta is 0, not a positive"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "'linear' needs a positive factor"),
        ({"rope_parameters": None, "rope_theta": -1.0}, "rope_theta is -1.0"),
        ({"rope_parameters": {"full_attention": {"rope_type": "x", "rope_theta": 1}}}, "full_attention: unknown rope"),
        ({"model_type": "nonsense"}, "does not know the model_type 'nonsense'"),
        ({"model_type": "own", "auto_map": {"AutoConfig": "x.Y"}}, "needs the model's own code"),
    ],
)
def test_a_config_that_cannot_be_right(changes, message, folder):
    edit(folder / "config.json", **changes)
    assert message in faults(folder, byte_tokenizer())


def test_own_code_is_accepted_when_trusted(folder):
    edit(folder / "config.json", model_type="own", auto_map={"AutoConfig": "x.Y"})
    assert faults(folder, byte_tokenizer(), trust=True) == ""


def test_an_untied_head_must_be_in_the_files(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    assert "there is no lm_head.weight" in faults(folder)
    edit(folder / "config.json", tie_word_embeddings=True)
    assert faults(folder) == ""


def test_files_that_are_cut_off_missing_or_something_else(folder):
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert f"cut off: {len(whole) - 1} of {len(whole)} bytes" in faults(folder)
    weights.write_bytes(b"<html>not found</html>")
    assert "no safetensors file" in faults(folder)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"a": torch.zeros(2)}, folder / "model-1.safetensors")
    assert "model-2.safetensors is missing" in faults(folder)
    save_file({"c": torch.zeros(2)}, folder / "model-2.safetensors")
    assert read_shapes(folder)[1] == ["'b' is in no file, although model.safetensors.index.json names it"]


def test_faults_of_the_tokenizer_come_together(folder):
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'].nonsense() }}{% endfor %}"
    found = faults(folder, tokenizer)
    assert "2 problems" in found
    assert "no eos token" in found
    assert "does not render" in found
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    assert "leaves out the answer" in faults(folder, tokenizer)


def test_padding_may_equal_the_end(folder):
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    assert faults(folder, tokenizer) == ""


def test_stop_ids_are_the_union_of_all_who_speak_of_them(folder):
    tokenizer = load_tokenizer(folder)
    assert stop_ids(folder, tokenizer) == (2,)
    edit(folder / "generation_config.json", eos_token_id=[2, 7])
    edit(folder / "config.json", eos_token_id=5)
    tokenizer.eos_token = "<|endoftext|>"
    assert end_of_turn_id(tokenizer) == 2
    assert stop_ids(folder, tokenizer) == (2, 3, 5, 7)
    tokenizer.chat_template = None
    (folder / "generation_config.json").unlink()
    assert stop_ids(folder, tokenizer) == (3, 5)


def test_text_behind_an_answer_is_no_stop_token():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + ' /END' }}{% endfor %}"
    assert end_of_turn_id(tokenizer) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_the_short_way_to_a_tokenizer_leads_where_the_long_one_does(family, tmp_path):
    folder = make_tiny(family, tmp_path)
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert type(ours) is type(theirs)
    assert ours.init_kwargs == theirs.init_kwargs
    assert ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()


def test_a_folder_without_a_tokenizer_is_named(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(ModelError, match="no usable tokenizer"):
        load_tokenizer(folder)
