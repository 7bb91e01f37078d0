"""Files with rows, and the report of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from quality_rows import Row

from oleaster.config.schema import DataConfig
from oleaster.quality.findings import DataReport
from oleaster.quality.material import gather
from oleaster.quality.report import report


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Sequence[Row]], Path]:
    def to_file(name: str, rows: Sequence[Row]) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return to_file


@pytest.fixture
def look(write: Callable[[str, Sequence[Row]], Path]) -> Callable[..., DataReport]:
    """The report of rows by part: `look(train=rows, validation=rows)`."""

    def at(settings: DataConfig = DataConfig(), **parts: Sequence[Row]) -> DataReport:
        return report(gather([str(write(f"{part}.jsonl", rows)) for part, rows in parts.items()], settings))

    return at
