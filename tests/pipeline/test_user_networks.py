"""Whole runs of networks as users write them: their files reload, and their layers are in the report."""

import pytest
from torch import nn

from pipeline import Options, load, run
from pipeline.errors import OptionsError

SOURCE = '''
import dataclasses
import torch
from torch import nn
from torch.nn import functional


class Net(nn.Module):
    """Kinds of layers that are no series, outputs of several parts, and a layer that pads in its own forward."""

    def __init__(self, num_classes=4):
        super().__init__()
        self.stem = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3, padding=1))
        self.own = Padded(8, 8, 3)
        self.tied = nn.Conv2d(8, 8, 3, padding=1)
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.again.weight = self.tied.weight
        self.up = nn.ConvTranspose2d(8, 16, 2, stride=2)
        self.line = nn.Conv1d(16, 32, 3, padding=1)
        self.fc = nn.LazyLinear(num_classes)

    def forward(self, x):
        x = functional.relu(self.own(functional.relu(self.stem(x.relu_()))))
        x = functional.relu(self.again(functional.relu(self.tied(x))))
        x = functional.relu(self.line(self.up(x).mean(3)))
        return {"embedding": x.mean(2), "scores": self.fc(x.mean(2))}


class Padded(nn.Conv2d):
    def forward(self, x):
        return super().forward(functional.pad(x, (1, 1, 1, 1)))


def wrapped(num_classes=4):
    return nn.DataParallel(Net(num_classes))


class Plain(nn.Module):
    def __init__(self, num_classes=4):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, num_classes)

    def forward(self, x):
        embedding = self.conv(x).relu().mean((2, 3))
        return {"embedding": embedding, "logits": self.fc(embedding)}


def traced(num_classes=4):
    return torch.fx.symbolic_trace(Plain(num_classes))
'''


@pytest.fixture(scope="module")
def report(folder, tmp_path_factory):
    (folder / "user_nets.py").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SERIESQUANT_CACHE", str(folder / "cache"))
        options = Options(
            config=("2,2,2,2", "dense"),
            bits=(8,),
            model="user_nets:wrapped",
            data="colours.npz",
            output="scores",
            epochs=1,
            qat_epochs=1,
            seed=3,
            out=folder / "user-out",
        )
        yield run(options).report


def test_every_file_reloads_in_a_fresh_process(report):
    rows = [row for row in report["rows"] if row["artifact"]]
    assert len(rows) >= 2
    assert [row["reloaded_logits_max_abs_diff"] for row in rows] == [0.0] * len(rows)


def test_every_weight_is_in_the_report_with_its_reason(report):
    layers = {layer["name"]: layer for layer in report["layers"] if layer["config"] != "dense"}
    assert layers["stem"]["status"] == "compressed"
    assert {name for name, layer in layers.items() if layer["status"] == "kept"} == {
        "own",
        "tied",
        "again",
        "fc",
        "up.weight",
        "line.weight",
    }
    assert "way of its own" in layers["own"]["reason"]
    assert "same weight" in layers["tied"]["reason"]
    assert "ConvTranspose2d" in layers["up.weight"]["reason"]


def test_a_loaded_network_returns_what_the_architecture_returns(report, folder, monkeypatch):
    monkeypatch.chdir(folder)
    row = next(row for row in report["rows"] if row["artifact"])
    network = load(folder / "user-out" / row["artifact"], allow_import=True)
    names = dict(network.named_modules())
    assert not any(isinstance(module, nn.DataParallel) for module in names.values())
    assert isinstance(names["stem"].weight, nn.Parameter)


def test_an_output_that_is_missing_is_refused_before_any_work(report, here, tmp_path):
    with pytest.raises(OptionsError, match=r"--output: got 'logits'.*embedding, scores"):
        run(
            Options(
                config="2,2,2,2", model="user_nets:Net", data="colours.npz", output="logits", out=tmp_path / "refused"
            )
        )
    assert not (tmp_path / "refused" / "artifacts").exists()


def test_a_traced_network_with_several_outputs(report, folder, monkeypatch):
    """`copy.deepcopy` drops the hook that selects the logits."""
    monkeypatch.chdir(folder)
    options = Options(
        config="2", bits=(8,), model="user_nets:traced", data="colours.npz", epochs=1, out=folder / "traced-out"
    )
    rows = run(options).report["rows"]
    assert [row["reloaded_logits_max_abs_diff"] for row in rows if row["artifact"]] == [0.0]
