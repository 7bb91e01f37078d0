"""`oleaster report` and what it writes."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from command_line import Program


class _Page(HTMLParser):
    """Collects the text, and every address that a browser would fetch."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.addresses, self.tags = "", [], []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_run_with_its_evaluation_becomes_one_page(program: Program, trained: Path, tmp_path: Path) -> None:
    scores = tmp_path / "scores"
    program("evaluate", trained, "-o", scores, "--max_new_tokens=4", cwd=tmp_path)
    done = program("report", trained, "--evaluation", scores, "-o", "page.html", cwd=tmp_path)
    assert done.stdout.startswith("page.html")
    html = (tmp_path / "page.html").read_text("utf-8")
    page = _Page(html)
    assert page.addresses == []
    assert "script" not in page.tags
    assert not re.search(r"url\(|@import", html)
    for heading in ("What was trained on what", "How good it is", "Rows worth reading", "How the training went"):
        assert heading in page.text
    assert "oleaster finetune --config" in page.text
    assert page.tags.count("svg") >= 5
    assert "the tuned model reaches" in page.text
    assert "model_name_or_path" in page.text


def test_a_run_that_was_only_trained_has_a_page_beside_its_files(program: Program, trained: Path) -> None:
    target = trained / "report.html"
    try:
        program("report", trained, cwd=trained.parent)
        assert "not yet evaluated" in target.read_text("utf-8")
    finally:
        target.unlink()


def test_what_is_no_run_is_refused(program: Program, tmp_path: Path) -> None:
    done = program("report", "nothing", cwd=tmp_path, code=2)
    assert done.stderr == (
        "oleaster: nothing: the folder does not exist\n  -> oleaster finetune --output_path nothing ... makes one\n"
    )
    assert "oleaster report runs/first" in program("report", cwd=tmp_path, code=2).stderr
