"""The page needs nothing but itself, is whole XML inside, and shows every trial."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from oleaster.reporting.search_charts import parallel
from oleaster.reporting.search_page import render_search
from oleaster.search.papers import Findings, Objective, Trial

LOSS, ACCURACY = Objective("eval_loss", False, "training"), Objective("accuracy", True, "answers")


def trial(number: int, loss: float | None, state: str = "complete", **settings: str) -> Trial:
    values = {} if loss is None else {"eval_loss": loss, "accuracy": 1 - loss / 2}
    why = "" if loss is not None else "loss became nan & <worse>"
    course = ((1, 2.0), (2, loss or 3.0))
    return Trial(number, state, settings, Path("trials"), values, course, 1.5, why)  # type: ignore[arg-type]


TRIALS = (
    trial(0, 1.0, learning_rate="0.001", lora_r="8", lr_scheduler_type="cosine"),
    trial(1, 0.5, learning_rate="0.1", lora_r="16", lr_scheduler_type="linear"),
    trial(2, None, "failed", learning_rate="9.0", lora_r="<b>"),
    trial(3, 0.7, learning_rate="0.01", lora_r="4"),
)


@pytest.mark.parametrize("objectives", [(LOSS,), (ACCURACY, LOSS)])
@pytest.mark.parametrize("trials", [(), TRIALS[:1], TRIALS[2:3], TRIALS])
def test_the_page_stands_alone_and_is_well_formed(trials: tuple[Trial, ...], objectives: tuple[Objective, ...]) -> None:
    best = tuple(t for t in trials if t.number == 1)
    text = render_search(
        Findings(Path("runs/<s>"), objectives, trials, best, {"lora_r": 0.75, "learning_rate": 0.25}, 6)
    )
    assert not re.search(r"(src|href)=|https?://|@import|url\(", text)
    assert "<script" not in text
    table = text[text.index("All trials</h2>") :]
    table = table[table.index("<table>") : table.index("</table>") + len("</table>")]
    rows = [["".join(cell.itertext()) for cell in row] for row in ET.fromstring(table)]
    assert [row[0] for row in rows[1:]] == [str(t.number) for t in trials]
    for chart in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ET.fromstring(chart)
        assert "nan" not in re.sub(r"<title>.*?</title>", "", chart, flags=re.DOTALL)


def test_parallel_lines_are_stronger_the_better_and_the_best_is_on_top() -> None:
    chart = parallel(Findings(Path("s"), (LOSS,), TRIALS, (TRIALS[1],), {}, 4))
    lines = re.findall(r'stroke-opacity="([\d.]+)" points="([^"]*)"><title>trial (\d)', chart)
    assert [number for _, _, number in lines] == ["0", "3", "1"]
    strengths = [float(strength) for strength, _, _ in lines]
    assert strengths == sorted(strengths)
    assert strengths[-1] == 1.0
    # Trial 3 has no scheduler: its line passes that axis by.
    assert {number: len(points.split()) for _, points, number in lines} == {"0": 4, "3": 3, "1": 4}
