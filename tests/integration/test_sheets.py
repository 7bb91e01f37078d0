"""A blind sheet from two models, judged in a browser, and read back."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from command_line import Program

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
COLUMNS = ("--prompt_field=phrase", "--completion_field=tone")


@pytest.fixture(scope="module")
def sheet(program: Program, tiny: Path, trained: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("judging")
    run = shutil.copytree(trained, place / "run")
    words = ("sheet", run / "model", run, "-d", rows, *COLUMNS, "--max_new_tokens=4", "-o", "sheet", "--sheet_rows=4")
    done = program(*words, cwd=place)
    assert "4 of the 6 rows on which the answers differ" in done.stdout
    assert "not for them:" in done.stdout
    assert str(run) not in (place / "sheet" / "sheet.html").read_text("utf-8")
    return place / "sheet"


def test_a_filled_spreadsheet_is_read_back(program: Program, sheet: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sheet, tmp_path / "sheet")
    key = json.loads((folder / "key.json").read_text("utf-8"))
    with (folder / "sheet.csv").open(encoding="utf-8-sig", newline="") as text:
        lines = list(csv.DictReader(text))
    assert program("unblind", folder, cwd=tmp_path, code=2).stderr.startswith(f"oleaster: {folder}: no filled sheet")
    for judge in ("anna", "ben"):
        with (folder / f"{judge}.csv").open("w", encoding="utf-8", newline="") as text:
            writer = csv.DictWriter(text, lines[0].keys())
            writer.writeheader()
            for line, a_is_first in zip(lines, key["a_is_first"], strict=True):
                writer.writerow({**line, "choice": "b" if a_is_first else "a"})
    done = program("unblind", folder, cwd=tmp_path)
    said = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert said[0] == "second is not distinguishable with 4 judged rows; would need about 6 (sign test, p = 0.12)"
    assert f"second {key['second']}: won 4" in said
    assert "votes first 0, second 8, same 0, neither 0" in said
    assert "judges anna, ben" in said
    assert "side A was preferred in 50% of the choices (p = 1)" in said
    one = program("unblind", folder, "--filled", folder / "anna.csv", cwd=tmp_path)
    assert "one judge" in one.stdout


@pytest.mark.skipif(BROWSER is None, reason="no chromium to open the page with")
def test_the_page_gives_out_what_was_chosen_on_it(program: Program, sheet: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sheet, tmp_path / "sheet")
    key = json.loads((folder / "key.json").read_text("utf-8"))
    keys = "".join("b" if a_is_first else "a" for a_is_first in key["a_is_first"][:3])
    script = f"""<script>
        for (const key of "{keys}") document.body.dispatchEvent(new KeyboardEvent("keydown", {{ key, bubbles: true }}));
        document.querySelector("#row4 input[value=neither]").click();
        document.querySelector("#row2 .comment").value = 'he said "no", zażółć';
        judge.value = "Zoë"; keep();
        document.documentElement.dataset.table = table();
        document.documentElement.dataset.progress = progress.textContent;
    </script></body>"""
    page = folder / "sheet.html"
    page.write_text(page.read_text("utf-8").replace("</body>", script), encoding="utf-8")
    words = (str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri())
    shown = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout
    assert 'data-progress="4 of 4 judged"' in shown
    table = re.search(r'data-table="([^"]*)"', shown)
    assert table
    (folder / "page.csv").write_text(html.unescape(table[1]), encoding="utf-8")
    assert 'he said ""no"", zażółć' in (folder / "page.csv").read_text("utf-8")
    said = [" ".join(line.split()) for line in program("unblind", folder, cwd=tmp_path).stdout.splitlines()]
    assert "votes first 0, second 3, same 0, neither 1" in said
    assert "judges Zoë" in said
