"""Training and targets of ``compress``, and what it repeats."""

import copy
from collections.abc import Callable
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from basis.conv import SeriesConv2d
from pipeline import compress, load
from pipeline.errors import OptionsError
from quant.stepped_training import attach_stepped_quantizers
from tests.pipeline.compression.networks import Maps, Named, Net, difference, images, labels_of, seeded

X = images()


@pytest.mark.parametrize("kind", [Net, Maps])
@pytest.mark.parametrize("labelled", [False, True])
def test_training_needs_no_labels_and_takes_any_tensor(kind, labelled):
    network, x = seeded(kind), images(640)  # the gain on the tenth that is held out must be certain
    given = (x, labels_of(x)) if labelled else x
    plain = compress(network, x, config="2,1,1", bits=8)
    trained = compress(network, given, config="2,1,1", bits=8, epochs=12, batch_size=32, lr=0.01)
    assert not trained.training_undone
    assert not torch.equal(trained.network.last.weight, plain.network.last.weight)
    if not labelled or kind is Maps:
        assert difference(trained.network, network) < difference(plain.network, network)


MODES: dict[str, Callable[[], object]] = {
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("mode", MODES)
def test_the_callers_modes_do_not_change_the_result(mode):
    network, options = seeded(), {"config": "2,1,1", "bits": 4, "epochs": 8, "batch_size": 16, "lr": 0.003}
    x = images(320)  # the gain on the tenth that is held out must be certain
    usual = compress(network, x, **options)
    with MODES[mode]():
        found = compress(network, x.clone(), **options)
    assert not usual.training_undone
    assert found.content == usual.content


def test_training_that_does_harm_is_rolled_back(caplog):
    network = seeded()
    plain = compress(network, X, config="3,2,2", bits=8)
    harmed = compress(network, X, config="3,2,2", bits=8, epochs=1, lr=3.0, batch_size=16)
    assert harmed.training_undone
    assert harmed.content == plain.content
    assert "undone" in caplog.text


@pytest.mark.parametrize(("labelled", "epochs"), [(False, 0), (True, 0), (False, 2)])
@pytest.mark.parametrize("kind", [Net, Maps])
def test_a_target_decides_the_size(tmp_path, kind, labelled, epochs):
    network = seeded(kind)
    result = compress(network, (X, labels_of(X)) if labelled else X, target_mb=0.0018, epochs=epochs, batch_size=16)
    assert result.target_met
    assert 0.97 * 1800 <= result.size <= 1800
    assert difference(result.network, network) < 0.2
    assert [each.order is not None for each in result.layers] == [True, True, True, False]
    loaded = load(result.save(tmp_path / "a.safetensors"), network=kind)
    with torch.no_grad():
        assert torch.equal(loaded(X), result.network(X))


def test_float_series_can_be_trained_by_the_caller_and_then_quantized():
    network = seeded()
    series = compress(network, X, config="3,2,2").network
    assert sum(isinstance(module, SeriesConv2d) for module in series.modules()) == 3
    assert all(a.requires_grad for a in series.parameters())
    optimizer = torch.optim.Adam(series.parameters(), 1e-3)
    for _ in range(3):
        (series.train()(X) - network(X).detach()).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    result = compress(series, X, bits=8)
    assert result.size < compress(network, X, config="dense", bits=8).size / 1.5
    assert difference(result.network, series) < 0.02
    assert not any(isinstance(module, SeriesConv2d) for module in result.network.modules())
    assert sum(isinstance(module, SeriesConv2d) for module in series.modules()) == 3


@pytest.mark.parametrize("basis", ["chebyshev", "fracsrf"])
def test_a_network_with_series_keeps_their_basis(basis):
    series = compress(seeded(), X, basis=basis, config=None if basis == "fracsrf" else "3,2,2").network
    first, second = (compress(series, X, bits=8, basis=each) for each in (None, basis))
    assert first.content == second.content
    assert difference(first.network, series) < 0.1


def test_equal_calls_give_equal_files():
    options, x = {"config": "2,1,1", "bits": 4, "epochs": 16, "batch_size": 32, "lr": 0.003}, images(320)
    first, second, other = (compress(seeded(), x, **options, seed=seed) for seed in (3, 3, 4))
    assert not first.training_undone
    assert first.content == second.content != other.content


def test_frozen_parameters_stay_as_they_are():
    network = seeded()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name == "last.weight")
    kept = copy.deepcopy(network.head.weight)
    result = compress(network, X, config="5,3,2", epochs=2, batch_size=16)
    assert torch.equal(result.network.head.weight, kept)
    assert [p.requires_grad for p in result.network.head.parameters()] == [False, False]


@pytest.mark.parametrize("trained", [{"last.weight"}, {"block.1.weight", "block.1.bias"}])
def test_frozen_layers_are_rounded_as_without_training(monkeypatch, trained):
    network, given = seeded(), []
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in trained)

    def attach(model, layers, uncompressed):
        given.append((layers, set(uncompressed)))
        return attach_stepped_quantizers(model, layers, uncompressed)

    monkeypatch.setattr("pipeline.stages.targets.search.attach_stepped_quantizers", attach)
    result = compress(network, X, target_mb=0.0018, epochs=2, batch_size=16, lr=0.01)
    ((layers, names),) = given
    assert names == {"last"} & {name.split(".")[0] for name in trained}
    assert torch.equal(result.network.head.weight, layers["head"].dequantize())


def test_progress_is_shown():
    seen = []

    class Seen:
        def stage(self, name: str) -> None:
            seen.append(name)

        @contextmanager
        def track(self, description: str, total: int):
            seen.append((description, total))
            yield lambda steps, status: None

    compress(seeded(), X, config="3,2,2", bits=4, epochs=2, batch_size=16, progress=Seen())
    assert [name for name in seen if isinstance(name, str)] == [
        "cosine 3,2,2: approximate",
        "cosine 3,2,2: round to 4 bits",
    ]
    assert ("cosine 3,2,2: fine-tuning", 4) in seen, "two batches of 43 images in two epochs; five are held out"


def test_a_target_that_no_file_meets_gives_the_nearest(monkeypatch, caplog):
    monkeypatch.setattr("pipeline.stages.targets.search.AIM", 0.9)
    result = compress(seeded(), X, target_mb=0.0018)
    assert not result.target_met
    assert result.size < 1800
    assert "1800" in caplog.text


class Several(Net):
    """It returns maps and logits; in training mode a further output."""

    def forward(self, x):
        maps, logits = self.features(x), super().forward(x)
        return (maps, logits, logits) if self.training else (maps, logits)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (Named, {"config": "3,2,2", "bits": 4, "epochs": 1}),
        (Named, {"config": "3,2,2", "epochs": 1}),
        (Named, {"target_mb": 0.0018}),
        (Several, {"config": "3,2,2", "bits": 4, "epochs": 1, "output": 1}),
        (Several, {"config": "3,2,2", "bits": 4, "epochs": 1, "output": "1"}),
    ],
)
def test_one_of_several_outputs_is_trained_and_all_are_returned(kind, arguments, tmp_path):
    x = images(64)
    network = compress(seeded(kind), (x, labels_of(x)), **arguments).network
    found, wanted = network(x), seeded(kind).eval()(x)
    assert type(found) is type(wanted)
    assert len(found) == len(wanted)


def test_a_network_whose_hook_keeps_an_output_can_be_trained():
    x, network = images(64), seeded()
    network.kept = None
    network.last.register_forward_hook(lambda module, inputs, output: setattr(network, "kept", output))
    assert compress(network, (x, labels_of(x)), config="3,2,2", bits=4, epochs=1).size > 0


def test_networks_and_callers_in_inference_mode_are_taken():
    x = images()
    with torch.inference_mode():
        network = Net().eval()
        result = compress(network, (x, labels_of(x)), config="3,2,2", bits=4, epochs=1)
    assert not any(parameter.is_inference() for parameter in result.network.parameters())


def test_another_default_type_changes_no_bit():
    x, network = images(), seeded()
    expected = compress(network, x, config="3,2,2", bits=4).content
    torch.set_default_dtype(torch.float64)
    try:
        found = compress(network, x, config="3,2,2", bits=4).content
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == expected


class Keeping(Net):
    """It keeps a map, whose gradient graph copy.deepcopy refuses, in a dict that another part reads."""

    def __init__(self):
        super().__init__()
        self.kept = self.block.kept = {}

    def features(self, x):
        self.block.kept["stem"] = x = self.stem(x).relu()
        return self.last(self.kept["stem"] + self.block(x)).relu()


class Stateful(Net):
    def get_extra_state(self):
        return {"version": 2}

    def set_extra_state(self, state):
        assert state == {"version": 2}


@pytest.mark.parametrize("kind", [Keeping, Stateful])
@pytest.mark.parametrize("rounding", [{"config": "3,2,2", "bits": 4}, {"target_mb": 0.0018}])
def test_networks_that_keep_maps_or_extra_state_are_trained(kind, rounding):
    result = compress(seeded(kind), (X, labels_of(X)), epochs=1, **rounding)
    assert result.network(X[:5]).shape == (5, 4)


def test_a_forward_that_differentiates_itself_is_trained():
    class Score(Net):
        """It returns a gradient of its features, whose graph is kept in training alone."""

        def forward(self, x):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                total = self.features(x).tanh().sum()
                return torch.autograd.grad(total, x, create_graph=self.training)[0]

    result = compress(seeded(Score), X, config="3,2,2", epochs=1)
    assert torch.isfinite(result.network(X[:5])).all()


def test_a_forward_that_views_maps_in_training_alone_is_refused_in_a_sentence():
    class Auxiliary(Net):
        def features(self, x):
            maps = super().features(x)
            return maps + 0 * maps.view(len(maps), -1).mean() if self.training else maps

    with pytest.raises(OptionsError, match=r"in training mode.*view size"):
        compress(seeded(Auxiliary), X, config="3,2,2", epochs=1)


def test_the_callers_default_device_does_not_matter():
    expected = compress(seeded(), X, config="3,2,2", bits=4, epochs=1)
    network = seeded()
    with torch.device("meta"):
        found = compress(network, X, config="3,2,2", bits=4, epochs=1)
    assert found.content == expected.content


def test_a_network_of_one_output_is_trained_on_batches_of_one_image():
    """The outputs of a batch are a single value, which has no variance."""
    original = nn.Sequential(seeded(), nn.Linear(4, 1))
    result = compress(original, images(24), config=2, epochs=1, batch_size=1)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in result.network.parameters())
