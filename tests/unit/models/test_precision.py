"""The faster number type is noted, and a note that cannot be read or kept changes nothing but the time."""

import json

import torch

from oleaster.models.precision import WORTH, choose_dtype

TINY = {"hidden_size": 8, "intermediate_size": 8}


def chosen() -> torch.dtype:
    return choose_dtype("auto", TINY, torch.device("cpu"))[0]


def test_a_note_is_believed_and_a_damaged_one_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("OLEASTER_CACHE", str(tmp_path))
    note = tmp_path / "precision.json"
    note.write_text("{")
    chosen()
    (name,) = json.loads(note.read_text())
    for gain, dtype in ((WORTH + 1, torch.bfloat16), (WORTH - 1, torch.float32)):
        note.write_text(json.dumps({name: gain}))
        assert chosen() == dtype


def test_no_place_for_the_note(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("OLEASTER_CACHE", str(tmp_path / "file"))
    assert chosen() in (torch.bfloat16, torch.float32)
