"""`oleaster diagnose` and `oleaster watch` on a run of the tiny model."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from command_line import Program

from oleaster.config.load import load_config


def test_a_diagnosis_names_causes_and_writes_recipes_that_finetune_takes(
    program: Program, trained: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = (run / "log.jsonl").read_bytes()
    done = program("diagnose", run, "--steps=4", cwd=tmp_path)
    assert "answers shuffled" in done.stdout or "8 rows by heart" in done.stdout or "no trials" in done.stdout
    found = json.loads((run / "diagnosis" / "diagnosis.json").read_text())
    assert found["findings"], done.stdout
    recipes = [Path(finding["recipe"]) for finding in found["findings"] if finding["recipe"]]
    assert recipes
    for recipe in recipes:
        assert load_config(recipe).output_path != run
    assert (run / "log.jsonl").read_bytes() == before
    small = next(recipe for recipe in recipes if "small_validation" in recipe.name)
    again = program("finetune", "--config", small, "--dry_run", cwd=tmp_path)
    assert "optimiser steps" in again.stdout
    program("report", run, cwd=tmp_path)
    page = (run / "report.html").read_text("utf-8")
    assert "What would make it better" in page
    assert str(small) in page


def test_a_run_is_shown_as_it_stands(program: Program, trained: Path, tmp_path: Path) -> None:
    done = program("watch", trained, "--once", cwd=tmp_path)
    assert "trained (done)" in done.stdout
    assert "6 of 6" in done.stdout
    for what in ("training loss", "validation loss", "learning rate", "gradient norm", "speed", "memory", "processor"):
        assert what in done.stdout
    assert program("watch", tmp_path / "none", cwd=tmp_path, code=2).stderr.startswith("oleaster: ")
    runs = {shutil.copytree(trained, tmp_path / "above" / name) for name in ("first", "second")}
    for command in ("watch", "report", "diagnose"):
        above = program(command, tmp_path / "above", cwd=tmp_path, code=2)
        assert all(str(run) in above.stderr for run in runs), above.stderr


def test_the_page_shows_runs_side_by_side_to_this_machine_only(trained: Path) -> None:
    import threading

    from oleaster.reporting.live import Watched, make_server

    with make_server([Watched.open(trained), Watched.open(trained)], 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_address[1]}"
            html = urllib.request.urlopen(f"{address}/", timeout=10).read().decode()
            assert html.count("Validation loss") >= 1
            assert "curve first" in html
            assert "curve second" in html
            now = json.loads(urllib.request.urlopen(f"{address}/now", timeout=10).read())
            assert now["done"] is True
            assert "<svg" in now["html"]
            foreign = urllib.request.Request(f"{address}/now", headers={"Host": "evil.example"})
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(foreign, timeout=10)
            assert refused.value.code == 403
        finally:
            server.shutdown()
            thread.join()
