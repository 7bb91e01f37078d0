"""What may be switched on or divided differently without changing what is computed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_reference import add_lora, both, largest_difference, our_backward, plain_loss, random_rows, relative

from oleaster.config.load import replace
from oleaster.config.schema import Config
from oleaster.data.batch import pack
from oleaster.models.fused import Branch, Projection, project
from oleaster.models.load import load_weights
from oleaster.models.tiny import make_tiny
from oleaster.training.checkpoint import Checkpoints
from oleaster.training.cluster import Cluster
from oleaster.training.loop import default_loss, train, validation_loss


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> dict[str, Path]:
    """One of ours, one with everything that is special, one on transformers' code."""
    return {name: make_tiny(name, tmp_path_factory.mktemp(name)) for name in ("llama", "gemma2", "gpt2")}


@pytest.mark.parametrize("optim", ["sgd", "adamw"])
def test_accumulation_8x1_is_4x2_is_1x8(tiny, tmp_path, optim):
    """Rows with 1 to 60 targets each: whoever divides per forward pass is off by far."""
    rows = random_rows(seed=1, shared=5, count=20, longest=62)
    counts = [len(row.targets) for row in rows]
    assert max(counts) > 10 * min(counts)
    results = {}
    for size, accumulated in ((8, 1), (4, 2), (1, 8)):
        model, parameters = with_lora(tiny["llama"])
        config = replace(
            Config(),
            optim=optim,
            adam_epsilon=1e-3,  # near zero the sign of rounding errors would decide AdamW's first steps
            learning_rate=0.05 if optim == "sgd" else 1e-3,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulated,
            max_steps=5,  # beyond one epoch, so that its short last step is in it
        )
        run_loop(model, parameters, rows, config, tmp_path / f"{size}")
        results[size] = parameters
    start = with_lora(tiny["llama"])[1]
    assert max(relative(results[8][n].data, start[n].data) for n in start) > 1e-2
    for other in (4, 1):
        assert max((results[8][n] - results[other][n]).abs().max().item() for n in start) < 1e-6


def with_lora(folder: Path, dropout: float = 0.0) -> tuple[Any, dict[str, torch.nn.Parameter]]:
    model = load_weights(folder, torch.float32)[0].requires_grad_(False)
    parameters = add_lora(model.hub_model)
    for module in model.modules():
        if hasattr(module, "lora_A"):
            module.dropout = dropout
    return model, parameters


def run_loop(model: Any, parameters: dict, rows: list, config: Config, folder: Path) -> Any:
    return train(model, parameters, rows, [], config, Checkpoints(folder), settings={}, sinks=lambda _: [])


@dataclass
class Saved:
    """Bytes that autograd keeps for the backward pass."""

    total: int = 0

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        self.total += tensor.numel() * tensor.element_size()
        return tensor

    def unpack(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_gradient_checkpointing_changes_memory_only(tiny, name, dropout):
    """Dropout draws the same masks when a layer is computed again."""
    rows = random_rows(seed=4, shared=6)
    gradients, kept = [], []
    for checkpointing in (False, True):
        model, parameters = with_lora(tiny[name], dropout if name != "gpt2" else 0.0)
        model.train()
        model.gradient_checkpointing = checkpointing
        torch.manual_seed(0)
        saved = Saved()
        with torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack):
            our_backward(model, rows)
        gradients.append(parameters)
        kept.append(saved.total)
    assert largest_difference(*gradients)[0] < 1e-6
    if name != "gpt2":  # transformers' own hooks hide what it keeps
        assert kept[1] < 0.5 * kept[0]


def test_validation_loss_is_the_plain_loss(tiny):
    """Whatever training does besides (smoothing, dropout, noise) is off, and batches do not weigh."""
    for folder in tiny.values():
        model, _ = with_lora(folder, dropout=0.5)
        reference = both(folder)[1]
        add_lora(reference)
        model.neftune_noise_alpha = 10.0
        model.train()
        rows = random_rows(seed=8, shared=4, count=13, longest=50)
        loss = default_loss(replace(Config(), label_smoothing_factor=0.3))
        found = validation_loss(model, rows, loss, batch_size=4, cluster=Cluster.alone())
        assert found.count == sum(len(row.targets) for row in rows)
        assert found.total.item() / found.count == pytest.approx(plain_loss(reference, rows).item(), abs=1e-5)


def test_neftune_noise_is_uniform_within_its_bound_and_only_in_training(tiny):
    model, _ = with_lora(tiny["llama"])
    batch = pack(random_rows(seed=9, shared=0, count=40))
    model.neftune_noise_alpha = 5.0
    plain = model.embed_ids(batch.ids)
    model.eval()
    assert torch.equal(model.embed(batch), plain)
    model.train()
    noise = model.embed(batch) - plain
    at = batch.prefix
    for length in batch.lengths:
        bound = 5.0 / (length * plain.shape[1]) ** 0.5  # alpha / sqrt(L d), Jain et al. 2023
        part = noise[at : at + length]
        assert part.abs().max() <= bound * 1.001
        assert part.abs().max() > 0.9 * bound
        at += length


def test_dropout_reaches_only_the_adapter_and_its_gradient_takes_the_same_mask():
    """One input, A = B = 1, W = 0: the output shows the mask, the gradient must be it."""
    torch.manual_seed(0)
    x = torch.rand(50, 40).add_(0.5).requires_grad_()
    eye = torch.eye(40)
    (y,) = project(x, [Projection(torch.zeros(40, 40), None, (Branch(eye, eye, 1.0, 0.3),))])
    mask = (y / x).detach()
    kept = (mask != 0).float().mean().item()
    assert kept == pytest.approx(0.7, abs=0.04)
    torch.testing.assert_close(mask[mask != 0], torch.full_like(mask[mask != 0], 1 / 0.7))
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, mask)


def test_dropout_is_unbiased():
    """Mean gradient over many masks = gradient without dropout (the map is linear in the mask)."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(6, 8), (5, 8), (3, 8), (5, 3)]
    x, w, a, b = (torch.randn(*shape, generator=generator).requires_grad_() for shape in shapes)
    w.requires_grad_(False)

    def gradients(dropout: float) -> list[torch.Tensor]:
        (y,) = project(x, [Projection(w, None, (Branch(a, b, 0.5, dropout),))])
        return list(torch.autograd.grad(y.sum(), (x, a, b)))

    expected = gradients(0.0)
    torch.manual_seed(3)
    drawn = [gradients(0.3) for _ in range(2000)]
    assert not torch.equal(drawn[0][1], drawn[1][1])
    for i, plain in enumerate(expected):
        mean = torch.stack([each[i] for each in drawn]).mean(0)
        assert relative(mean, plain) < 0.05
