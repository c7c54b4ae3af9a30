"""Networks whose outputs have values that no loss takes, or other values in training mode than in evaluation mode."""

import pytest
import torch

from pipeline import Options, compress, run
from pipeline.compression.network import identity_of
from pipeline.errors import OptionsError
from tests.pipeline.compression.networks import Net, images, labels_of, seeded, without_work

X = images(48)
LABELLED = X, labels_of(X)


class Fixed(Net):
    """Its output for class 1 is a constant, in one mode or both."""

    value, modes = torch.nan, (False, True)

    def forward(self, x):
        outputs = super().forward(x)
        return outputs.masked_fill(torch.arange(4) == 1, self.value) if self.training in self.modes else outputs


class PlusInfinity(Fixed):
    value = torch.inf


class NaNInTraining(Fixed):
    modes = (True,)


class MaskedInTraining(Fixed):
    value, modes = -torch.inf, (True,)


TARGET = {"target_mb": 0.0017}
TRAINED = {"config": "3,2,2", "epochs": 1}
REFUSED = [
    (Fixed, TRAINED, "^compress: epochs: .* NaN as output 1 of an image in evaluation mode.*epochs=0"),
    (Fixed, TARGET, "^compress: target_mb: .* NaN as output 1 .*or bits"),
    (PlusInfinity, TRAINED, r"\+inf as output 1 of an image in evaluation"),
    (PlusInfinity, TARGET, r"^compress: target_mb: .*\+inf"),
    (NaNInTraining, TRAINED, "NaN as output 1 of an image in training mode"),
    (NaNInTraining, TARGET | {"epochs": 1}, "NaN as output 1 of an image in training mode"),
    (MaskedInTraining, TRAINED, "-inf as output 1 of an image in training mode.*masked in both modes"),
]


@pytest.mark.parametrize("given", [X, LABELLED], ids=["images", "labels"])
@pytest.mark.parametrize(("kind", "changes", "words"), REFUSED)
def test_values_that_no_loss_takes_are_refused_before_any_work(kind, changes, words, given, monkeypatch):
    without_work(monkeypatch)
    with pytest.raises(OptionsError, match=words):
        compress(seeded(kind), given, **changes)


def test_values_that_nothing_compares_are_kept():
    result = compress(seeded(PlusInfinity), X, config="3,2,2", bits=4)
    assert bool((result.network(X)[:, 1] == torch.inf).all())


class Scaled(Net):
    """Training mode has other logits, the same up to a constant, random ones, or ones of the batch."""

    kind = "scaled"

    def forward(self, x):
        outputs = super().forward(x)
        if not self.training:
            return outputs
        if self.kind == "random":
            return torch.dropout(outputs, 0.5, train=True)
        if self.kind == "batch":
            return outputs - outputs.mean(0)
        return outputs.log_softmax(1) if self.kind == "constant" else 8 * outputs


class Shifted(Scaled):
    kind = "constant"


class Random(Scaled):
    kind = "random"


class OfTheBatch(Scaled):
    kind = "batch"


class AlwaysTraining(Net):
    """It normalizes by the statistics of the batch in evaluation mode, too."""

    def train(self, mode=True):
        return super().train(True)


WORDS = "gives other outputs in training mode than in evaluation mode"


@pytest.mark.parametrize(
    ("kind", "given", "warned"),
    [
        (Scaled, X, True),
        (Scaled, LABELLED, True),
        (Shifted, X, True),
        (Shifted, LABELLED, False),
        (Random, X, False),
        (OfTheBatch, X, False),
        (AlwaysTraining, X, False),
        (Net, LABELLED, False),
    ],
)
def test_outputs_that_depend_on_the_mode_are_named(kind, given, warned, caplog):
    compress(seeded(kind), given, **TRAINED)
    assert (f"the network {kind.__name__} {WORDS}" in caplog.text) == warned


SOURCE = """
import torch
from torch import nn


class Large(nn.Module):
    def __init__(self, num_classes=4):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, num_classes)

    def forward(self, x):
        return (self.fc(self.conv(x).relu().mean((2, 3)))).square().exp()


class Scaled(nn.Module):
    def __init__(self, num_classes=4):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, num_classes)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3))) * (8 if self.training else 1)


def trained():
    network = Large()
    network.fc.bias.data.fill_(1e3)
    return network
"""


def test_a_run_refuses_weights_whose_logits_overflow(here, tmp_path):
    (tmp_path / "large.py").write_text(SOURCE)
    options = {"config": "2", "data": "colours.npz", "weights": "builtin", "epochs": 0, "out": tmp_path / "out"}
    with pytest.raises(OptionsError, match=r"--weights builtin: the network gives \+inf as output 0 .*other weights"):
        run(Options(model=f"{tmp_path}/large.py:trained", **options))
    assert not (tmp_path / "out" / "artifacts").exists()


@pytest.mark.parametrize("distill", [True, False])
def test_a_run_with_a_teacher_names_outputs_that_depend_on_the_mode(here, tmp_path, caplog, distill):
    (tmp_path / "scaled.py").write_text(SOURCE)
    options = {"config": "2", "bits": (8,), "data": "colours.npz", "weights": "builtin", "limit_train": 64}
    run(Options(model=f"{tmp_path}/scaled.py:Scaled", epochs=1, distill=distill, out=tmp_path / "out", **options))
    assert (WORDS in caplog.text) == distill


def test_an_output_wider_than_a_file_can_say_is_written(monkeypatch):
    """Such as whole maps, flattened."""
    monkeypatch.setattr("pipeline.compression.network.MOST_CLASSES", 3)
    identity = identity_of(torch.nn.Identity(), torch.zeros(2, 9), torch.zeros(2, 1, 8, 8))
    assert (identity.classes, identity.class_names) == (3, ("0", "1", "2"))
