import subprocess
import sys
from typing import Any, get_args

import pytest
import torch
from torch import nn
from transformers import get_scheduler

from oleaster.config.schema import TrainingConfig
from oleaster.core.errors import ConfigError
from oleaster.training.optimizers import make_optimizer, make_schedule, warmup_steps

OPTIMS = sorted(get_args(TrainingConfig.model_fields["optim"].annotation))
SCHEDULES = sorted(get_args(TrainingConfig.model_fields["lr_scheduler_type"].annotation))
TOTAL = 37


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4))
    next(net.parameters()).requires_grad_(False)
    return net


def train(net: nn.Module, optimizer: torch.optim.Optimizer, schedule: Any, steps: range) -> list[float]:
    losses = []
    for step in steps:
        x = torch.randn(32, 8, generator=torch.Generator().manual_seed(step))
        loss = (net(x) - x[:, :4]).square().mean()
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def made(config: TrainingConfig) -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    net = network()
    optimizer = make_optimizer(net.named_parameters(), config)
    return net, optimizer, make_schedule(optimizer, config, TOTAL)


@pytest.mark.parametrize("optim", OPTIMS)
def test_every_optimiser_learns_and_resumes_to_the_bit(optim: str, tmp_path) -> None:
    from oleaster.training.checkpoint import Checkpoints, TrainState

    config = TrainingConfig.model_validate({"optim": optim, "learning_rate": 0.01, "weight_decay": 0.01})
    net, optimizer, schedule = made(config)
    expected = train(net, optimizer, schedule, range(TOTAL))
    assert expected[-1] < expected[0]

    net2, optimizer2, schedule2 = made(config)
    assert train(net2, optimizer2, schedule2, range(15)) == expected[:15]
    tensors = {n: p for n, p in net2.named_parameters() if p.requires_grad}
    Checkpoints(tmp_path).save(TrainState(15, tensors, optimizer2.state_dict(), schedule2.state_dict(), {}))

    net3, optimizer3, schedule3 = made(config)
    state, _ = Checkpoints(tmp_path).latest()
    assert state is not None
    net3.load_state_dict(state.tensors, strict=False)
    optimizer3.load_state_dict(dict(state.optimizer))
    schedule3.load_state_dict(dict(state.scheduler))
    assert train(net3, optimizer3, schedule3, range(15, TOTAL)) == expected[15:]
    for a, b in zip(net.parameters(), net3.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("optim", OPTIMS)
def test_decay_shrinks_matrices_and_leaves_biases_and_norms(optim: str) -> None:
    config = TrainingConfig.model_validate({"optim": optim, "learning_rate": 0.1, "weight_decay": 0.5})
    net = network()
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    optimizer = make_optimizer(net.named_parameters(), config)
    for p in net.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    optimizer.step()
    changed = {n for n, p in net.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {"2.weight"}
    after = dict(net.named_parameters())["2.weight"]
    assert torch.allclose(after, before["2.weight"] * (1 - 0.1 * 0.5))


def test_adamw_is_the_fused_one_with_the_config_numbers() -> None:
    config = TrainingConfig(adam_beta1=0.8, adam_beta2=0.95, adam_epsilon=1e-6, learning_rate=0.5)
    group = make_optimizer(network().named_parameters(), config).param_groups[0]
    assert isinstance(make_optimizer(network().named_parameters(), config), torch.optim.AdamW)
    assert (group["fused"], group["betas"], group["eps"], group["lr"]) == (True, (0.8, 0.95), 1e-6, 0.5)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (7, 0), (100, 10), (100, 99)])
def test_schedules_equal_those_of_transformers(name: str, total: int, warmup: int) -> None:
    config = TrainingConfig.model_validate({"lr_scheduler_type": name, "warmup_steps": warmup, "learning_rate": 0.003})
    ours, theirs = (torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.003) for _ in range(2))
    schedule, reference = make_schedule(ours, config, total), get_scheduler(name, theirs, warmup, total)
    for _ in range(total + 2):
        assert ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]
        for optimizer, s in ((ours, schedule), (theirs, reference)):
            optimizer.step()
            s.step()


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("total", [1, 2, 5])
def test_short_trainings_have_a_step_that_learns(name: str, total: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.003)
    schedule = make_schedule(optimizer, TrainingConfig.model_validate({"lr_scheduler_type": name}), total)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert max(rates) > 0


def test_warmup_is_the_steps_given_or_the_share_rounded_up() -> None:
    assert warmup_steps(TrainingConfig(warmup_ratio=0.03), 100) == 3
    assert warmup_steps(TrainingConfig(warmup_ratio=0.03), 101) == 4
    assert warmup_steps(TrainingConfig(warmup_ratio=0.03, warmup_steps=0), 100) == 0
    with pytest.raises(ConfigError, match="warmup_steps: 50 of 50 steps"):
        warmup_steps(TrainingConfig(warmup_steps=50), 50)


def test_the_usual_ones_do_not_import_transformers() -> None:
    code = (
        "import sys, torch; from oleaster.training.optimizers import *; c = TrainingConfig()\n"
        "make_schedule(make_optimizer([('w', nn.Parameter(torch.zeros(2, 2)))], c), c, 9)\n"
        "sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_adamw_is_torchs_without_its_compiler():
    program = """
import sys, torch
from oleaster.training.optimizers import AdamW

def trained(kind):
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 7)
    optimizer = kind(model.parameters(), lr=1e-2, weight_decay=0.1, fused=True)
    for _ in range(3):
        model(torch.ones(2, 5)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
    return model.weight

ours = trained(AdamW)
assert "torch._dynamo" not in sys.modules
assert torch.equal(ours, trained(torch.optim.AdamW))
"""
    subprocess.run([sys.executable, "-c", program], check=True)
