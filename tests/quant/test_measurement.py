"""Costs against the definition, from sums over all positions; ranks."""

import copy

import pytest
import torch
from torch import nn

from basis.conv import SeriesConv2d
from basis.gram_statistics import GramStatistics
from basis.layers import stored_values
from basis.patches import feature_order, patch_batches, samples
from basis.shard import CalibrationShard
from basis.swap import swap_convolutions
from quant.measurement import measure_layers
from quant.original_pass import OriginalPass
from quant.rate import LayerMeasurement, RatePlan
from quant.rate_rounding import RoundedNetwork, round_network
from quant.sensitivity import gradient_moments
from quant.step_rounding import columns_hessian, measure_freedoms
from tests.support.lockstep import in_shares


def network() -> nn.Module:
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 3, stride=2, groups=2)
    return nn.Sequential(
        first, nn.BatchNorm2d(8), nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(72, 5, bias=False)
    ).eval()


@pytest.fixture(scope="module")
def original() -> nn.Module:
    return network()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(1)) + 0.3


def series(original: nn.Module) -> nn.Module:
    return swap_convolutions(copy.deepcopy(original), {"0": (3, 3), "3": (2, 3)}, "cosine").eval()


def measured(original: nn.Module, images: torch.Tensor) -> dict[str, LayerMeasurement]:
    model = series(original)
    return measure_layers(model, OriginalPass.record(model, original, images))


def reference(model: nn.Module, images: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The Hessian of a layer, and the mean of its inputs, from all positions of all images in one batch."""
    with torch.no_grad():
        x = model[: int(name)](images)
    if name == "6":  # without a bias: the second moment
        return (x.double().T @ x.double() / len(x))[None], torch.zeros(1, 72)
    conv = model[int(name)]
    assert isinstance(conv, SeriesConv2d)
    batches = patch_batches(conv, x, samples(conv, x), conv.operator)
    order = feature_order(conv, conv.operator)
    statistics = GramStatistics.accumulate(batches, constant=True).reordered(order)
    return columns_hessian(statistics, centered=True), statistics.mean().gram[:, :-1, -1]


@pytest.mark.parametrize("name", ["0", "3", "6"])
def test_costs_are_the_information_that_compensation_leaves(original, images, name):
    model = series(original)
    found, (hessian, mean) = measured(original, images)[name].costs, reference(model, images, name)
    moments, terms = gradient_moments(model, [name], images, absorbing=[name])[name], tuple(found.shape)
    fisher = moments.squares if name == "6" else moments.centred(mean)
    axes = (-1, *terms) if terms else (-1, 1)
    diagonal = hessian.diagonal(dim1=1, dim2=2).double()
    diagonal = diagonal + 0.01 * diagonal.mean(1, keepdim=True)  # the damping, as for the freedoms
    means = [each.unflatten(1, axes).mean((0, 1)).view(terms) for each in (fisher, diagonal)]
    expected = means[0] * measure_freedoms(hessian, terms) / means[1]
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=0)


def test_a_layer_without_hessian_costs_its_whole_information(original, images):
    model = series(original)
    recorded = OriginalPass.record(model, original, images, max_features=30)
    found = measure_layers(model, recorded)
    assert list(recorded.seeds) == ["0", "3"]
    squares = gradient_moments(model, ["6"], images)["6"].squares
    torch.testing.assert_close(found["6"].costs, squares.mean())


def test_a_weight_without_a_gradient_costs_what_its_outputs_do(original, images):
    class Detached(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, self.weight.detach())

    changed = copy.deepcopy(original)
    changed[6] = Detached(72, 5, bias=False)
    changed[6].weight.data.copy_(original[6].weight)
    model = series(changed)
    recorded = OriginalPass.record(model, changed, images)
    assert "6" not in recorded.seeds, "its forward is its own"
    found = measure_layers(model, recorded)["6"].costs
    outputs = gradient_moments(model, ["6"], images)["6"].outputs
    torch.testing.assert_close(found, outputs * model[:6](images).double().square().mean())
    squares = gradient_moments(series(original), ["6"], images)["6"].squares
    assert float(found) == pytest.approx(float(squares.mean()), rel=0.5)


class Heads(nn.Module):
    """Its first output does not depend on one head, and on another by the choice of the largest value alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.other, self.gate = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 8)
        self.body, self.head = nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.stem(x).relu()
        self.result = self.other(maps).mean((2, 3))
        chosen = nn.functional.one_hot(self.gate(maps.mean((2, 3))).argmax(1), 8)
        return self.head(self.body(maps).relu().mean((2, 3)) * chosen)


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
def test_layers_of_other_scales_cost_in_proportion(original, images, scale):
    scaled = copy.deepcopy(original)
    with torch.no_grad():
        for tensor in (scaled[3].weight, scaled[3].bias):
            tensor.mul_(scale)
        scaled[6].weight.div_(scale)
    before, after = measured(original, images), measured(scaled, images)
    for name, factor in (("0", 1.0), ("3", scale**-2), ("6", scale**2)):
        torch.testing.assert_close(after[name].costs, factor * before[name].costs, rtol=1e-3, atol=0)


def test_layers_that_no_gradient_reaches_get_as_many_bits_as_others(images):
    torch.manual_seed(0)
    original = Heads().eval()
    model = swap_convolutions(copy.deepcopy(original), {"other": (3, 3), "body": (3, 3)}, "cosine").eval()
    plan = RatePlan.of(model, measure_layers(model, OriginalPass.record(model, original, images)))
    counts = {name: stored_values(model.get_submodule(name)).numel() for name in plan.measurements}
    log_c = round(plan.log_c(list(counts), 6 * sum(counts.values())))
    per_value = {name: plan.bits(name, log_c) / count for name, count in counts.items()}
    assert sorted(per_value.values())[2] - 1 < per_value["other"] < sorted(per_value.values())[2] + 1
    assert 3 < per_value["gate"] < 9


def test_zeros_that_no_gradient_reaches_change_no_other_layer(images):
    """Their costs are those of outputs, which are large here, and the least cost follows from the largest."""
    torch.manual_seed(0)
    original, large = Heads().eval(), 1e4 * images
    with torch.no_grad():
        original.head.weight.div_(1e4)
    layers = {"other": (3, 3), "body": (3, 3)}

    def costs() -> dict[str, torch.Tensor]:
        model = swap_convolutions(copy.deepcopy(original), layers, "cosine").eval()
        found = measure_layers(model, OriginalPass.record(model, original, large))
        return {name: each.costs for name, each in found.items() if name != "other"}

    expected = costs()
    with torch.no_grad():
        original.other.weight.zero_()
    for name, found in costs().items():
        torch.testing.assert_close(found, expected[name])


def test_ranks_measure_alike(original, images):
    whole = measured(original, images)

    def work(mine: torch.Tensor, shard: CalibrationShard) -> dict[str, LayerMeasurement]:
        model, own = series(original), copy.deepcopy(original)
        return measure_layers(model, OriginalPass.record(model, own, mine, shard=shard))

    first, second = in_shares(2, images, work)
    assert list(first) == list(second) == list(whole)
    for name, each in whole.items():
        assert torch.equal(first[name].costs, second[name].costs)
        torch.testing.assert_close(first[name].costs.mean(), each.costs.mean(), rtol=0.5, atol=0)


class Routed(nn.Module):
    """A network with an expert that bright images alone reach."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expert = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.table = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps, bright = self.stem(x).relu(), x.mean((1, 2, 3)) > 1
        if bright.any():
            maps = maps.index_put((bright.nonzero()[:, 0],), self.expert(maps[bright]))
        rows = maps.mean((2, 3))
        if bright.any():
            rows = rows.index_put((bright.nonzero()[:, 0],), self.table(rows[bright]))
        return self.head(rows)


def test_layers_that_run_on_one_rank_alone_are_rounded_alike_on_all(images):
    torch.manual_seed(0)
    original = Routed().eval()
    shifted = images + 3 * (torch.arange(len(images)) >= len(images) / 2)[:, None, None, None]

    def rounded(mine: torch.Tensor, shard: CalibrationShard | None = None) -> RoundedNetwork:
        model, own = copy.deepcopy(original), copy.deepcopy(original)
        recorded = OriginalPass.record(model, own, mine, shard=shard)
        plan = RatePlan.of(model, measure_layers(model, recorded))
        assert set(plan.measurements) == {"stem", "expert", "table", "head"}
        return round_network(model, recorded, plan, 2000)  # every layer has integers other than zero

    whole, shares = rounded(shifted), in_shares(2, shifted, rounded)
    for name, values in whole.layers.items():
        first, second = (share.layers[name] for share in shares)
        assert torch.equal(first.integers, second.integers)
        assert torch.equal(first.exponents, second.exponents)
        assert (first.exponents - values.exponents).abs().max() <= 8, "half an octave"
        for share in shares:
            stored = stored_values(share.model.get_submodule(name))
            assert torch.equal(stored, first.dequantize())
