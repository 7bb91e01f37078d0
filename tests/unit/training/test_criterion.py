"""A loss tells by its arguments and a few random numbers what it is; a wrong one is refused before a model is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from oleaster.core.errors import ConfigError
from oleaster.training.criterion import read_criterion

PAIRS = '''
import torch, torch.nn as nn, torch.nn.functional as F

class Hadsell(nn.Module):
    """The tutorial's: 1 = different."""
    def __init__(self, margin=1.0):
        super().__init__()
        self.margin = margin
    def forward(self, output1, output2, label):
        d = F.pairwise_distance(output1, output2)
        return torch.mean((1 - label) * d**2 + label * torch.clamp(self.margin - d, min=0.0)**2)

def siamese(embedding1, embedding2, labels):
    """As in sentence-transformers: 1 = similar."""
    d = F.pairwise_distance(embedding1, embedding2)
    return labels * d**2 + (1 - labels) * F.relu(1.0 - d)**2

def secretive(output1, output2, label):
    return (output1 * output2).sum(-1)

class Learned(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
    def forward(self, output1, output2):
        return self.scale * F.pairwise_distance(output1, output2)

def greedy(output1, output2, weights):
    return weights * F.pairwise_distance(output1, output2)

def broken(output1, output2):
    return output1 @ output2

def frozen(output1, output2):
    return F.pairwise_distance(output1, output2).detach()

def counted(output1, output2):
    return len(output1)

def matrix(output1, output2):
    return output1 @ output2.t()

def blind(similarity):
    return similarity

def batchy(output1, output2):
    return F.cross_entropy(output1 @ output2.t(), torch.arange(len(output1)))
'''


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("losses") / "mine.py"
    path.write_text(PAIRS)
    return path


def test_the_tutorials_class_works_as_it_stands(file: Path) -> None:
    found = read_criterion(f"{file}:Hadsell", ["margin=0.5"], "pair", 8)
    assert (found.adds, found.one_means, dict(found.takes)["label"]) == ("mean", "different", "label")
    assert "a label of 1 means 'different'" in found.notes[0]
    same = torch.ones(3, 8)
    alike = {"output1": same, "output2": same, **found.labels(torch.ones(3))}
    assert found.total(alike, 3).item() == pytest.approx(0.0, abs=1e-6)
    unlike = {"output1": same, "output2": same, **found.labels(torch.zeros(3))}
    assert found.total(unlike, 3).item() == pytest.approx(3 * 0.5**2, rel=1e-3)


def test_the_other_meaning_of_a_label_is_found_too(file: Path) -> None:
    found = read_criterion(f"{file}:siamese", None, "pair", 8)
    assert (found.adds, found.one_means) == ("values", "similar")


def test_a_loss_over_the_batch_is_known_and_said(file: Path) -> None:
    found = read_criterion(f"{file}:batchy", None, "pair", 8)
    assert found.adds == "together"
    assert "another batch size or accumulation is another training" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("secretive", "does not show what a label of 1 means"),
        ("Learned", "has parameters of its own"),
        ("greedy", "wants weights"),
        ("frozen", "gives no gradient"),
        ("counted", "returns int, no numbers"),
        ("matrix", r"returns numbers of shape \[6, 6\] for 6 pairs"),
        ("blind", "does not take output1 and output2"),
        ("Hadsel", "did you mean 'Hadsell'"),
    ],
)
def test_what_cannot_be_used_is_refused(file: Path, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_criterion(f"{file}:{name}", None, "pair", 8)


def test_a_mistake_in_the_users_code_is_named_by_its_line(file: Path) -> None:
    line = 1 + PAIRS.splitlines().index("    return output1 @ output2")
    with pytest.raises(ConfigError, match=rf"mine.py:{line}: .*output1 \[6, 8\], output2 \[6, 8\]: RuntimeError"):
        read_criterion(f"{file}:broken", None, "pair", 8)


def test_names_and_options_are_answered_with_near_ones(file: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'focal'"):
        read_criterion("fokal", None, "token", 8)
    with pytest.raises(ConfigError, match=r"no argument 'marge'(.|\n)*'margin'"):
        read_criterion("contrastive", ["marge=1"], "pair", 8)
    with pytest.raises(ConfigError, match="not of the form name=value"):
        read_criterion("focal", ["2"], "token", 8)
    with pytest.raises(ConfigError, match="it is a loss of pairs: --task embedding"):
        read_criterion("contrastive", None, "token", 8)


def test_focal_with_gamma_zero_is_the_cross_entropy() -> None:
    logits, targets = torch.randn(5, 7), torch.arange(5)
    given = {"logits": logits, "targets": targets}
    focal = read_criterion("focal", ["gamma=0.0"], "token", 7)
    plain = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    assert focal.total(given, 5).item() == pytest.approx(plain.item(), rel=1e-6)
