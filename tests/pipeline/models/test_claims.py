"""The Top-1 that a checkpoint or torchvision states."""

import pytest
import torch
from torch import nn

from pipeline.models.checkpoint.files import read_checkpoint
from pipeline.models.claims import checkpoint_claim, torchvision_claim
from pipeline.models.weights import load_weights


@pytest.mark.parametrize(
    ("entries", "top1", "key"),
    [
        ({"best_acc1": torch.tensor(76.1), "acc": 12.0}, 76.1, "best_acc1"),
        ({"best_prec1": 91.78}, 91.78, "best_prec1"),
        ({"acc": 0.925, "epoch": 90}, 92.5, "acc"),
        ({"acc": torch.tensor([88])}, 88.0, "acc"),
    ],
)
def test_a_checkpoint_states_its_top1(tmp_path, entries, top1, key):
    torch.save({"state_dict": nn.Linear(2, 2).state_dict(), **entries}, tmp_path / "c.pth")
    claim = checkpoint_claim(read_checkpoint(tmp_path / "c.pth"))
    assert claim.top1 == pytest.approx(top1)
    assert key in claim.source


@pytest.mark.parametrize("entries", [{}, {"acc": "high"}, {"acc": 930}, {"acc": float("nan")}, {"best_acc": True}])
def test_nothing_is_made_up(tmp_path, entries):
    torch.save({"state_dict": nn.Linear(2, 2).state_dict(), **entries}, tmp_path / "c.pth")
    assert checkpoint_claim(read_checkpoint(tmp_path / "c.pth")) is None


def test_files_without_entries_state_nothing(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "script.pt")
    torch.save([1], tmp_path / "list.pth")
    for name in ("script.pt", "list.pth"):
        assert checkpoint_claim(read_checkpoint(tmp_path / name)) is None


def test_loading_returns_what_the_file_states(tmp_path):
    torch.save({"state_dict": nn.Linear(2, 2).state_dict(), "best_acc1": 76.1}, tmp_path / "c.pth")
    assert load_weights(nn.Linear(2, 2), tmp_path / "c.pth").claim.top1 == pytest.approx(76.1)


def test_torchvision_states_imagenets_top1():
    assert torchvision_claim("resnet18", "IMAGENET1K_V1").top1 == pytest.approx(69.758)
    assert torchvision_claim("vgg16", "IMAGENET1K_FEATURES") is None
