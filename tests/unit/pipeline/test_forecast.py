"""What a forecast advises, and how it counts words; its figures are held against real trainings by a benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oleaster.config.load import load_config
from oleaster.data.papers import Example
from oleaster.models.tiny import make_tiny
from oleaster.pipeline.forecast import Choice, Forecast, forecast, tokens_per_word


def found(method: str = "lora", rows: int = 2000, peak: float = 1000.0, free: float = 4000.0, **other: Any) -> Forecast:
    ready = SimpleNamespace(data=SimpleNamespace(train=[None] * rows))
    preview: Any = SimpleNamespace(ready=ready, total_steps=100, steps_per_epoch=50)
    choices = (
        Choice(method, 5_000_000, peak, 1.0, peak < free),
        Choice(f"{method} + gradient_checkpointing", 5_000_000, peak / 2, 1.5, peak / 2 < free),
    )
    facts = {"tokens_per_word": 1.3, "licence": "apache-2.0"} | other
    return Forecast(preview, 500.0, peak - 1, peak, free, 0.5, 2.0, 0.2, 54.0, choices=choices, **facts)


@pytest.mark.parametrize(
    ("case", "advice"),
    [
        ({}, ["lora fits, with 3,000 MB to spare"]),
        ({"peak": 6000.0}, ["lora does not fit; lora + gradient_checkpointing does, with 3,000 MB"]),
        ({"peak": 9000.0}, ["nothing fits"]),
        ({"method": "full"}, ["2,000 rows are few for 5,000,000 trained numbers"]),
        ({"rows": 12}, ["lora fits", "12 rows are few"]),
        ({"tokens_per_word": 3.1}, ["lora fits", "3.1 tokens per word"]),
        ({"licence": None}, ["lora fits", "states no licence"]),
    ],
)
def test_the_advice_has_its_reason(case: dict[str, Any], advice: list[str]) -> None:
    given = found(**case).advice
    assert len(given) == len(advice)
    assert all(part in line for part, line in zip(advice, given, strict=True))


def test_words_are_those_of_the_rows_not_of_templates() -> None:
    def letters(texts: list[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1] * len(text.replace(" ", "")) for text in texts]}

    chat = Example("a:1", messages=({"role": "user", "content": "two words"}, {"role": "assistant", "content": "x"}))
    text = Example("a:2", text_parts=(("one more", False), ("\n", True)))
    assert tokens_per_word(letters, [chat, text]) == pytest.approx((8 + 1 + 7) / 5)
    assert tokens_per_word(letters, []) == 0.0


CHOICES = [{"prompt": f"phrase {i} is {tone}", "completion": tone} for i in range(12) for tone in ("calm", "cross")]
PAIRS = [{"sentence1": f"a cat {i}", "sentence2": f"the cat {i}", "score": i % 6} for i in range(24)]


@pytest.mark.parametrize(
    ("rows", "settings"),
    [
        (CHOICES, {"task": "classification", "head": "sequence"}),
        (PAIRS, {"task": "embedding"}),
        (CHOICES, {"loss": "focal", "method": "adapter"}),
    ],
)
def test_it_runs_the_steps_that_the_training_will_run(rows, settings, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given = {"model": str(make_tiny("llama", tmp_path / "tiny")), "data_files": [str(data)], "num_threads": 1}
    figures = forecast(load_config(None, {**given, "per_device_train_batch_size": 4, "max_steps": 6, **settings}))
    assert all((figures.step_seconds, figures.validation_seconds, figures.save_seconds))
    pauses = 2 * figures.validation_seconds + 2 * figures.save_seconds  # after steps 3 and 6
    assert figures.total_seconds >= figures.step_seconds * 6 + pauses
    assert figures.load_mb <= figures.step_mb <= figures.validation_mb
