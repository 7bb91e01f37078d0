"""The batched, cached, prefix-sharing predictor against one row at a time without a cache."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from oleaster.config.methods import LoraConfig
from oleaster.core.errors import DataError, ModelError
from oleaster.inference.decoder_backend import DecoderBackend
from oleaster.inference.predictor import Sampling
from oleaster.inference.torch_predictor import TorchPredictor
from oleaster.inference.transformers_backend import TransformersBackend
from oleaster.methods import get_method
from oleaster.models.tiny import FAMILIES

PREFIX = tuple(range(10, 60))
"""Long enough that sharing it pays, longer than the tiny models' sliding window."""


def rows(seed: int, count: int, prefix: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    source = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 20, (count,), generator=source).tolist()
    return [(*prefix, *torch.randint(4, 260, (length,), generator=source).tolist()) for length in lengths]


@torch.no_grad()
def plain_logits(model: torch.nn.Module, ids: tuple[int, ...]) -> torch.Tensor:
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def plain_greedy(model: torch.nn.Module, prompt: tuple[int, ...], count: int, stop: tuple[int, ...]) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        token = int(plain_logits(model, tuple(ids))[-1].argmax())
        if token in stop:
            break
        ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize("own", [False, True], ids=["transformers", "own"])
@pytest.mark.parametrize("prefix", [(), PREFIX], ids=["alone", "shared"])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_equal_those_of_single_rows_without_a_cache(tiny, family, prefix, own):
    prompts = rows(1, 6, prefix)
    answers = TorchPredictor(tiny(family, own), family).generate(prompts, Sampling(max_new_tokens=8))
    for prompt, answer in zip(prompts, answers, strict=True):
        expected = plain_greedy(tiny(family).model, prompt, 8, (2,))
        assert list(answer.token_ids) == expected
        assert answer.finish == ("length" if len(expected) == 8 else "stop")


@pytest.mark.parametrize("own", [False, True], ids=["transformers", "own"])
@pytest.mark.parametrize("prefix", [(), PREFIX], ids=["alone", "shared"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_a_shrinking_batch_equal_those_of_single_rows_without_a_cache(tiny, family, prefix, own):
    lines = [(*line, 100 + i, 200 - i) for i, line in enumerate(rows(1, 6, prefix))]
    backend = TorchPredictor(tiny(family, own), family).backend
    with torch.no_grad():
        logits, state = backend.prefill([line[:-2] for line in lines], room=2)
        for row, line in zip(logits, lines, strict=True):
            torch.testing.assert_close(torch.from_numpy(row), plain_logits(tiny(family).model, line[:-2])[-1])
        backend.keep([1, 3, 4], state)
        lines = [lines[i] for i in (1, 3, 4)]
        for place in (-2, -1):
            logits = backend.step(np.array([line[place] for line in lines]), state)
        for row, line in zip(logits, lines, strict=True):
            torch.testing.assert_close(torch.from_numpy(row), plain_logits(tiny(family).model, line)[-1])


@pytest.mark.parametrize("own", [False, True], ids=["transformers", "own"])
@pytest.mark.parametrize("prefix", [(), PREFIX], ids=["alone", "shared"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_the_plain_cross_entropy(tiny, family, prefix, own):
    lines = [line for line in rows(2, 7, prefix) if len(line) > 1]
    marked = [(line, tuple(range(max(1, len(line) - 3), len(line)))) for line in lines]
    marked.append((lines[0], (1, len(lines[0]) - 1) if prefix else (1,)))
    scores = TorchPredictor(tiny(family, own), family).score(marked)
    for (line, targets), score in zip(marked, scores, strict=True):
        found = plain_logits(tiny(family).model, line).log_softmax(-1)[[t - 1 for t in targets]]
        wanted = torch.tensor([line[t] for t in targets])
        assert score.total == pytest.approx(float(found.gather(1, wanted[:, None]).sum()), abs=1e-4, rel=1e-5)
        assert (score.count, score.correct) == (len(targets), int((found.argmax(1) == wanted).sum()))


@pytest.mark.parametrize("own", [False, True], ids=["transformers", "own"])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gemma2"])
def test_target_logits_come_in_pieces_of_bounded_size(tiny, family, own):
    model, kind = tiny(family, own).model, DecoderBackend if own else TransformersBackend
    lines = rows(3, 5, PREFIX)
    targets = [tuple(range(1, len(line))) for line in lines]
    with torch.no_grad():
        whole = list(kind(model).target_logits(lines, targets))
        pieces = list(kind(model, logit_elements=5 * 260 * 4).target_logits(lines, targets))
    assert len(whole) == 1
    assert max(logits.numel() for _, _, logits in pieces) <= 5 * 260 * 4
    torch.testing.assert_close(by_target(pieces), by_target(whole), atol=1e-4, rtol=1e-5)


def by_target(pieces: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """The logits in the order of rows; pieces walk through columns, so within a row the order is that of tokens."""
    owners, logits = torch.cat([p[0] for p in pieces]), torch.cat([p[2] for p in pieces])
    return logits[owners.argsort(stable=True)]


UNUSUAL = {
    "bloom": {"n_layer": 2, "n_head": 4, "hidden_size": 32},  # ALiBi, takes no positions
    "opt": {"num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_neox": {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48},
    "lfm2": {  # short convolutions beside attention: they would see the padding
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "layer_types": ["conv", "full_attention"],
    },
}


@pytest.mark.parametrize("family", UNUSUAL)
def test_families_that_do_not_bear_padding_are_answered_in_batches_of_one_length(tiny, family):
    shape = {"vocab_size": 260, "hidden_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**shape, "max_position_embeddings": 128, **UNUSUAL[family]})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():
        parameter.data.mul_(4.0)  # away from the flat distribution of a fresh model
    predictor = TorchPredictor(replace(tiny("llama"), model=model), family)
    lines = rows(4, 6, PREFIX) + rows(4, 4)
    for prompt, answer in zip(lines, predictor.generate(lines, Sampling(max_new_tokens=5)), strict=True):
        assert list(answer.token_ids) == plain_greedy(model, prompt, 5, (2,))
    for line, score in zip(lines, predictor.score([(line, (len(line) - 1,)) for line in lines[:6]]), strict=False):
        assert score.total == pytest.approx(float(plain_logits(model, line)[-2].log_softmax(-1)[line[-1]]), rel=1e-4)


def test_a_model_without_a_key_value_cache_is_refused(tiny):
    config = AutoConfig.for_model("mamba", vocab_size=260, hidden_size=32, num_hidden_layers=1, state_size=8)
    with pytest.raises(ModelError, match="type 'mamba' has no key-value cache"):
        TorchPredictor(replace(tiny("llama"), model=AutoModelForCausalLM.from_config(config)), "mamba")


def test_a_sampled_answer_is_the_same_in_any_batch_and_differs_from_its_twin(tiny):
    predictor = TorchPredictor(tiny("llama"), "llama")
    prompts, sampling = rows(5, 5), Sampling(max_new_tokens=12, temperature=1.0, top_k=50, top_p=0.95, seed=3)
    together = predictor.generate([*prompts, prompts[0]], sampling)
    assert [predictor.generate([prompt], sampling)[0] for prompt in prompts] == together[:5]
    assert together[5] != together[0]
    assert predictor.generate(prompts, replace(sampling, seed=4)) != together[:5]


def test_tokens_are_told_as_they_come_and_a_stop_token_is_not(tiny):
    sampling = Sampling(max_new_tokens=6, temperature=1.5)
    free = TorchPredictor(tiny("qwen2"), "free").generate([PREFIX], sampling)[0].token_ids
    stop = next(token for token in free if token != free[0])
    predictor = TorchPredictor(replace(tiny("qwen2"), stop_ids=(stop,)), "stopping")
    told: list[tuple[int, int]] = []
    first, second = predictor.generate([PREFIX, (7, 8)], sampling, lambda *found: told.append(found))
    assert first.finish == "stop"
    assert first.token_ids == free[: free.index(stop)]
    for index, answer in enumerate((first, second)):
        assert tuple(token for prompt, token in told if prompt == index) == answer.token_ids


def test_the_training_mode_and_gradients_are_as_before(tiny):
    model = tiny("llama").model
    model.model.layers[0].train()
    TorchPredictor(tiny("llama"), "llama").score([((5, 6, 7), (1, 2))])
    assert model.model.layers[0].training
    assert not model.training
    model.eval()
    assert torch.is_grad_enabled()


def test_impossible_prompts_are_named_together(tiny):
    with pytest.raises(DataError, match=r"(?s)2 problems.*prompt 1.*empty.*prompt 2.*600 tokens.*at most 511"):
        TorchPredictor(tiny("llama"), "llama").generate([(5,), (), (5,) * 600])


def test_an_answer_ends_where_the_context_ends(tiny):
    answer = TorchPredictor(replace(tiny("gpt2"), stop_ids=()), "gpt2").generate([(5,) * 509])[0]
    assert (len(answer.token_ids), answer.finish) == (3, "length")


def test_impossible_targets_are_refused_and_rows_without_targets_score_nothing(tiny):
    predictor = TorchPredictor(tiny("llama"), "llama")
    with pytest.raises(DataError, match="row 0: the first token is a target"):
        predictor.score([((5, 6), (0, 1))])
    assert predictor.score([((5, 6), ())])[0].count == 0


def test_an_attached_adapter_is_computed_by_both_engines(fresh):
    answers = []
    for own in (False, True):
        changed = fresh("llama", own)
        plain = TorchPredictor(changed, "base").score([((*PREFIX, 5, 6), (50, 51))])[0]
        get_method(LoraConfig(lora_r=4)).attach(changed.model, seed=0)
        for name, parameter in changed.model.named_parameters():
            if name.endswith("lora_B"):
                torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(len(name)))
        predictor = TorchPredictor(changed, "tuned")
        tuned = predictor.score([((*PREFIX, 5, 6), (50, 51))])[0]
        assert abs(tuned.total - plain.total) > 0.1
        answers.append((tuned.total, predictor.generate(rows(6, 4), Sampling(max_new_tokens=6))))
    assert answers[1][0] == pytest.approx(answers[0][0], rel=1e-5)
    assert answers[1][1] == answers[0][1]
