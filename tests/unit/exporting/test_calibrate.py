"""How far 4 bits move the answers: the sums over activations are those of the weights' gradients, row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from oleaster.data.papers import Encoded
from oleaster.exporting.calibrate import collect_hessians
from oleaster.exporting.harm import fisher_sample, measure_harm
from oleaster.exporting.lessons import Lesson, Linear, Piece
from oleaster.exporting.quantize import Format, round_to_nearest
from oleaster.models.load import load_plain
from oleaster.models.tiny import make_tiny

ROWS = [Encoded(tuple(range(start, start + 24)), tuple(range(12, 24)), 12, 0) for start in (5, 40, 90)]


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text"])  # tied, untied, a scaled embedding
def test_harm_is_the_squared_product_of_gradient_and_error(family: str, tmp_path: Path) -> None:
    model = load_plain(make_tiny(family, tmp_path / "base")).requires_grad_(False)
    modules = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    linears = [Linear(path, (Piece(module),)) for path, module in modules.items()]
    low = {each.name: round_to_nearest(each.weight.numpy(), Format(4, 32)) for each in linears}
    harm = measure_harm(model, linears, low, [Lesson(ROWS)])

    expected = dict.fromkeys(harm, 0.0)
    sampler = torch.Generator().manual_seed(0)
    ids = torch.tensor([row.input_ids for row in ROWS])
    drawn = fisher_sample(model(ids, use_cache=False).logits[:, 11:23].flatten(0, 1), sampler).view(3, 12, -1)
    for module in modules.values():
        module.weight.requires_grad_(True)
    for row in range(len(ROWS)):
        model.zero_grad(set_to_none=True)
        model(ids[row : row + 1], use_cache=False).logits[0, 11:23].backward(drawn[row])
        for path, module in modules.items():
            error = torch.from_numpy(low[path].dense()) - module.weight.detach()
            assert module.weight.grad is not None
            expected[path] += 0.5 * float((module.weight.grad * error).sum()) ** 2 / 36
    assert harm == pytest.approx(expected, rel=2e-3, abs=1e-9)


def test_drawn_vectors_have_the_fisher_informations_covariance() -> None:
    logits = torch.tensor([2.0, 0.0, -1.0, 0.5])
    drawn = fisher_sample(logits.expand(200_000, 4), torch.Generator().manual_seed(0))
    p = logits.softmax(-1)
    assert torch.allclose(drawn.T @ drawn / len(drawn), p.diag() - p[:, None] * p, atol=5e-3)
    assert torch.allclose(drawn.sum(-1), torch.zeros(len(drawn)), atol=1e-5)


def test_inputs_that_are_the_same_are_summed_once(tmp_path: Path) -> None:
    model = load_plain(make_tiny("llama", tmp_path / "base")).requires_grad_(False)
    modules = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    linears = [Linear(path, (Piece(module),)) for path, module in modules.items()]
    seen: dict[str, list[np.ndarray]] = {path: [] for path in modules}
    for path, module in modules.items():
        module.register_forward_pre_hook(lambda _, inputs, path=path: seen[path].append(inputs[0][0].numpy()))
    sums = collect_hessians(model, linears, [Lesson(ROWS[:1])])
    layer = "model.layers.0"
    assert sums[f"{layer}.mlp.up_proj"] is sums[f"{layer}.mlp.gate_proj"]
    assert sums[f"{layer}.self_attn.q_proj"] is sums[f"{layer}.self_attn.v_proj"]
    assert sums[f"{layer}.self_attn.o_proj"] is not sums[f"{layer}.self_attn.v_proj"]
    for path in (f"{layer}.mlp.up_proj", f"{layer}.mlp.down_proj", "model.layers.1.self_attn.k_proj"):
        inputs = np.concatenate(seen[path])
        assert np.allclose(sums[path].numpy(), inputs.T @ inputs, rtol=1e-4, atol=1e-4)
