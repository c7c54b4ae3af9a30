"""``compress`` in memory: what it returns, what it leaves alone, and that it computes what a run computes."""

import json
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import CompressionResult, Options, compress, load, run
from pipeline.artifact import read_artifact
from pipeline.data.sources import load_dataset
from pipeline.models.preparation import plain_copy
from pipeline.models.registry import build_model
from tests.pipeline.compression.networks import Named, Net, difference, images, seeded
from tests.support.networks import write_module, write_npz

X = images()


@pytest.mark.parametrize("options", [{"bits": 8}, {"bits": 8, "scheme": "minifloat"}, {}], ids=str)
def test_the_network_stays_close_and_is_that_of_the_file(tmp_path, options):
    network = seeded()
    result = compress(network, X, config="5,3,3", **options)
    assert difference(result.network, network) < 0.01
    loaded = load(result.save(tmp_path / "a.safetensors"), network=lambda: seeded(seed=3))
    with torch.no_grad():
        close = torch.allclose(loaded(X), result.network(X), atol=1e-6)
        assert torch.equal(loaded(X), result.network(X)) if "bits" in options else close
    assert not result.network.training
    assert result.size == (tmp_path / "a.safetensors").stat().st_size == len(result.content)
    assert result.size_mb == pytest.approx(result.size / 1e6)
    assert (result.size < result.baseline_size / 2) == ("bits" in options)


def test_every_layer_has_its_figures():
    layers = {each.name: each for each in compress(seeded(), X, config="3,2,2", bits=4).layers}
    assert list(layers) == ["stem", "block.0", "last", "head"]
    assert [each.kernel for each in layers.values()] == [(5, 5), (3, 3), (3, 3), None]
    assert [each.order for each in layers.values()] == [(3, 3), (2, 2), (2, 2), None]
    assert layers["stem"].status == "compressed"
    assert layers["head"].status == "kept"
    assert all(0 < each.fit_error < 1 for name, each in layers.items() if name != "head")
    assert layers["head"].fit_error is None
    assert all(0 < each.rounding_error < 1 for each in layers.values())
    assert all(each.size > 0 for each in layers.values())


def test_the_fit_to_activations_beats_the_fit_to_weights():
    network = seeded()
    errors = {
        fit: difference(compress(network, X, config="3,2,2", fit=fit).network, network)
        for fit in ("activations", "weights")
    }
    assert errors["activations"] < errors["weights"]


class Narrow(Net):
    """A network that computes in bf16 by itself."""

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x)


@pytest.mark.parametrize("options", [{"config": "3,2,2", "bits": 8}, {"target_mb": 0.0014}], ids=str)
def test_layers_that_compute_in_bf16_are_fitted_in_float32(options):
    """The sums of the fit and of rounding would lose their digits in bf16; rounding changes the outputs by more."""
    narrow, wide = (compress(seeded(kind), X, **options) for kind in (Narrow, Net))
    assert difference(narrow.network, seeded(Narrow)) == pytest.approx(difference(wide.network, seeded(Net)), rel=0.3)
    assert [each.order for each in narrow.layers] == [each.order for each in wide.layers]


def state(network: nn.Module) -> dict[str, object]:
    return {
        "tensors": {name: tensor.clone() for name, tensor in network.state_dict().items()},
        "identities": [id(tensor) for tensor in (*network.parameters(), *network.buffers())],
        "gradients": [(p.requires_grad, p.grad is None, p.is_contiguous()) for p in network.parameters()],
        "modes": [(module.training, type(module)) for module in network.modules()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()],
        "random": torch.get_rng_state().tolist(),
        "other random": (random.getstate(), np.random.get_state()[1].tolist()),
        "flags": (torch.is_grad_enabled(), torch.get_deterministic_debug_mode(), torch.get_num_threads()),
    }


@pytest.mark.parametrize(
    "options", [{"config": "3,2,2", "bits": 4, "epochs": 1}, {"target_mb": 0.0018, "epochs": 1}], ids=str
)
def test_nothing_of_the_callers_is_changed(options):
    network, x = seeded().train(), X.clone()
    network.block.eval()
    network.stem.weight.requires_grad_(False)
    network.head.register_forward_hook(lambda module, inputs, output: None)
    before = state(network)
    compress(
        network, x, metric=lambda other: other.train()(X).mean() and other.head.weight.detach().zero_().sum(), **options
    )
    after = state(network)
    assert before.pop("tensors").keys() == after["tensors"].keys()
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in after.pop("tensors").items())
    assert after == before
    assert torch.equal(x, X)


def test_a_metric_can_change_nothing():
    def spoil(network: nn.Module) -> float:
        network.train()(X)
        network.head.weight.detach().zero_()
        return 0.0

    network = seeded()
    plain = compress(network, X, config=2, bits=3)
    assert compress(network, X, config=2, bits=3, metric=spoil).content == plain.content
    assert float(network.head.weight.detach().abs().sum()) > 0


def test_the_metric_is_the_callers_function_of_both_networks():
    seen = []

    def metric(network: nn.Module) -> torch.Tensor:
        seen.append(network)
        with torch.no_grad():
            return network(X).square().mean()

    network = seeded()
    result = compress(network, X, config=2, bits=3, metric=metric)
    assert result.baseline_metric == pytest.approx(float(metric(network.eval())))
    assert result.metric == pytest.approx(float(metric(result.network)))
    assert result.metric != result.baseline_metric
    assert all(other is not network and not other.training for other in seen[:2])


def test_a_metric_that_fails_for_the_compressed_network_loses_no_work(caplog):
    values = iter([1.0])
    result = compress(seeded(), X, config=2, bits=3, metric=lambda network: next(values))
    assert (result.baseline_metric, result.metric) == (1.0, None)
    assert result.content == compress(seeded(), X, config=2, bits=3).content
    assert "StopIteration" in caplog.text


@pytest.mark.parametrize(
    ("config", "orders"),
    [("3,2,2", [3, 2, 2]), ([4, 3, 1], [4, 3, 1]), (4, [4, 3, 3]), (1, [1, 1, 1]), ("DENSE", [None] * 3)],
)
def test_a_config_is_text_or_orders(config, orders):
    found = compress(seeded(), X, config=config, bits=8).layers[:3]
    assert [each.order and each.order[0] for each in found] == orders


def test_a_dict_as_output_is_compressed_without_training():
    network = seeded(Named)
    result = compress(network, X, config="3,2,2", bits=8)
    assert set(result.network(X)) == {"logits", "features"}


def test_a_network_of_the_notebook_is_compressed_and_loaded(tmp_path):
    """A class that no module holds, as in a notebook's cell."""
    cell = """
import torch
from torch import nn
from pipeline import compress, load

class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 4, 3)

    def forward(self, x):
        return self.b(self.a(x).relu()).mean((2, 3))

result = compress(Cell(), images, config="2,2", bits=4)
same = torch.equal(load(result.save(path), network=Cell)(images), result.network(images))
"""
    namespace = {"__name__": "__main__", "images": X, "path": tmp_path / "cell.safetensors"}
    exec(cell, namespace)
    assert namespace["same"]
    _, identity = read_artifact(tmp_path / "cell.safetensors")
    assert identity.is_object
    assert identity.model == "__main__.Cell"
    assert (identity.classes, identity.image_size) == (4, (10, 10))


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrappers_are_looked_through(tmp_path, wrap):
    network = seeded()
    found = compress(wrap(network), X, config="3,2,2", bits=4)
    assert found.content == compress(network, X, config="3,2,2", bits=4).content
    loaded = load(found.save(tmp_path / "a.safetensors"), network=lambda: wrap(seeded(seed=2)))
    assert torch.equal(loaded(X), found.network(X))


COMPUTED: dict[str, Callable[[nn.Module], object]] = {
    "weight normalization": nn.utils.parametrizations.weight_norm,
    "spectral normalization": nn.utils.parametrizations.spectral_norm,
    "old weight normalization": nn.utils.weight_norm,
    "old spectral normalization": nn.utils.spectral_norm,
    "mask": lambda layer: nn.utils.prune.random_unstructured(layer, "weight", 0.3),
}


@pytest.mark.parametrize("bits", [8, None])
@pytest.mark.parametrize("kind", COMPUTED)
@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_computed_weights_are_compressed_as_they_are_in_use(tmp_path, kind, bits):
    def build(seed: int) -> Net:
        network = seeded(seed=seed)
        for layer in (network.stem, network.last, network.head):
            COMPUTED[kind](layer)
        return network

    network = build(0)
    network.train()(X)  # leaves computed weights with a graph
    wanted = network.eval()(X).detach()
    before = state(network)
    result = compress(network, X, config="5,3,3", bits=bits)
    after = state(network)
    tensors, now = before.pop("tensors"), after.pop("tensors")
    assert all(torch.equal(tensor, now[name]) for name, tensor in tensors.items())
    assert after == before
    assert torch.equal(network(X), wanted)
    assert float((result.network(X).detach() - wanted).norm() / wanted.norm()) < 0.02
    other = build(1)
    loaded = load(result.save(tmp_path / "a.safetensors"), network=plain_copy(other))
    assert torch.allclose(loaded(X), result.network(X), atol=1e-5)
    assert other(X).shape == wanted.shape


def test_the_file_holds_what_a_run_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SERIESQUANT_CACHE", str(tmp_path / "cache"))
    write_npz(tmp_path / "colours.npz")
    name = write_module(tmp_path)
    network = build_model(name, 4)
    torch.save(network.state_dict(), "net.pth")
    common = {"config": "3,2,2", "bits": 4, "model": name, "weights": "net.pth", "data": "colours.npz", "epochs": 0}
    row = run(Options(**common, calibration_size=64, workers=0, out=tmp_path / "out")).report["rows"][0]
    images = load_dataset("colours.npz").train.sample(64, seed=0, device=torch.device("cpu"))
    result = compress(network, images, config="3,2,2", bits=4)
    written, _ = read_artifact(tmp_path / "out" / row["artifact"])
    ours, _ = read_artifact(result.save(tmp_path / "ours.safetensors"))
    tensors = dict(ours.tensors())
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in written.tensors())
    layers = run_layers(row, tmp_path)
    assert {each.name: each.rounding_error for each in result.layers} == pytest.approx(layers, rel=1e-5)


def run_layers(row: dict, folder) -> dict[str, float]:
    report = json.loads((folder / "out" / "report.json").read_text())
    return {
        layer["name"]: layer["rounding_error"]["4"] for layer in report["layers"] if layer["config"] == row["config"]
    }


def test_the_result_has_a_short_text():
    result = compress(seeded(), X, config="3,2,2", bits=4, metric=lambda network: 1.5)
    assert isinstance(result, CompressionResult)
    text = repr(result)
    assert len(text) < 300
    assert f"size={result.size}" in text
    assert "metric=1.5" in text


class Odd(Net):
    """It changes its input in place, ties two weights, and doubles the outputs of a layer by a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.tied = nn.Conv2d(8, 12, 3, padding=1)
        self.tied.weight = self.last.weight
        self.stem.register_forward_hook(lambda module, inputs, output: 2 * output)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.mul_(2)
        return super().forward(x) + self.tied(self.stem(x)).mean((2, 3))[:, :4]


def test_layers_that_no_series_can_replace_are_kept_with_their_reason(tmp_path):
    network = seeded(Odd)
    result = compress(network, X, config="3,2,2,2", bits=8)
    reasons = {each.name: each.reason for each in result.layers if each.order is None}
    assert "hooks" in reasons["stem"]
    assert "same weight" in reasons["last"]
    assert torch.equal(X, images())
    with torch.no_grad():
        wanted = network.eval()(X.clone())
        assert float((result.network(X.clone()) - wanted).norm() / wanted.norm()) < 0.1
        loaded = load(result.save(tmp_path / "a.safetensors"), network=Odd)
        assert torch.equal(loaded(X.clone()), result.network(X.clone()))
