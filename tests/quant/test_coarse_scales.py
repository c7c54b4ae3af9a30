"""Coarse scales of batch normalizations, and shifts that are rounded while a network is rounded."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from basis.layers import stored_values
from basis.swap import swap_convolutions
from quant import coarse_scales
from quant.coarse_scales import LEVELS, ShiftRounding, with_coarse_scales
from quant.grid import grid_values, step_exponent
from quant.measurement import measure_layers
from quant.original_pass import OriginalPass
from quant.rate import RatePlan
from quant.rate_rounding import round_network


class Network(nn.Module):
    """A normalization after a series, one after a depthwise layer with a bias, and one whose input is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.second, self.second_norm = nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.BatchNorm2d(12)
        self.third, self.third_norm = nn.Conv2d(12, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second_norm(self.second(self.first_norm(self.first(x)).relu())).relu()
        y = self.third(x)
        return self.head((self.third_norm(y) + y).relu().mean((2, 3)))


@pytest.fixture
def original() -> nn.Module:
    torch.manual_seed(0)
    model = Network().eval()
    with torch.no_grad():
        for norm in (each for each in model.modules() if isinstance(each, nn.BatchNorm2d)):
            norm.weight.copy_(torch.randn(norm.num_features) + 0.5)
            norm.bias.normal_()
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.05, 3)
        model.first_norm.weight[3] = 0
        model.first_norm.running_var[4] = 0  # below epsilon
    return model


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def series_of(model: nn.Module) -> nn.Module:
    return swap_convolutions(copy.deepcopy(model), {"first": (3, 3)}, "cosine").eval()


def scale_of(norm: nn.Module) -> np.ndarray:
    values = (each.detach().double().numpy() for each in (norm.weight, norm.running_var))
    weight, var = values
    return weight / np.sqrt(var + norm.eps) * np.sqrt(1 + norm.eps)


@torch.no_grad()
def test_the_scales_become_few_multiples_of_a_step_and_the_network_computes_the_same(original, images):
    series = series_of(original)
    recorded = OriginalPass.record(series, original, images)
    before = {name: rows.clone() for name, rows in recorded.outputs.outputs.items()}
    changed = with_coarse_scales(series, recorded)
    torch.testing.assert_close(changed(images), original(images), rtol=1e-4, atol=1e-4)
    for name in ("first", "second"):
        norm, old = changed.get_submodule(f"{name}_norm"), scale_of(original.get_submodule(f"{name}_norm"))
        scale = scale_of(norm)
        lower_median = np.sort(np.abs(old[old != 0]))[(np.count_nonzero(old) - 1) // 2]
        levels = scale / 2 ** (np.rint(16 * np.log2(lower_median / LEVELS)) / 16)
        np.testing.assert_allclose(levels, np.rint(levels), rtol=1e-5)
        assert np.abs(levels).min() >= 1 - 1e-5
        np.testing.assert_array_less(np.abs(old - scale) / np.abs(scale) * np.abs(levels), 1)
        factor = old / scale
        expected = stored_values(series.get_submodule(name)).numpy() * factor[:, None, None, None]
        np.testing.assert_allclose(stored_values(changed.get_submodule(name)).numpy(), expected, rtol=1e-4, atol=1e-6)
        rows = before[name].numpy() * factor.reshape(len(before[name]), 1, -1)
        np.testing.assert_allclose(recorded.outputs.outputs[name].numpy(), rows, rtol=1e-4, atol=1e-6)
    assert not stored_values(changed.first)[3].any(), "its scale is zero"
    assert torch.equal(changed.third.weight, original.third.weight), "the sum reads its output, too"
    assert torch.equal(recorded.outputs.outputs["third"], before["third"])
    assert torch.equal(series.first.coefficients, series_of(original).first.coefficients), "the network is not changed"


def test_a_network_that_reads_its_scales_elsewhere_stays_as_it_is(original, images):
    class Reading(Network):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + self.second.weight.abs().sum()

    reading = Reading().eval()
    reading.load_state_dict(original.state_dict())
    series = series_of(reading)
    recorded = OriginalPass.record(series, reading, images)
    before = recorded.outputs.outputs["first"].clone()
    assert with_coarse_scales(series, recorded) is series
    assert torch.equal(recorded.outputs.outputs["first"], before)


def test_a_layer_whose_output_the_network_returns_stays_also_if_a_hook_selects_another_output(original, images):
    class Returning(Network):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            maps = self.first(x)
            x = self.second_norm(self.second(self.first_norm(maps).relu())).relu()
            return self.head(x[:, :8].mean((2, 3))), maps

    returning = Returning().eval()
    returning.load_state_dict(original.state_dict())
    returning.register_forward_hook(lambda module, inputs, outputs: outputs[0])
    recorded = OriginalPass.record(returning, returning, images)
    assert recorded.outputs.norms == {"second": "second_norm"}
    changed = with_coarse_scales(returning, recorded)
    assert torch.equal(changed.first.weight, returning.first.weight)
    assert not torch.equal(changed.second.weight, returning.second.weight)


class Gated(nn.Module):
    """A normalized expert that some of the images reach."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.expert, self.expert_norm = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = x.mean((1, 2, 3)) > 0.03
        x = self.stem_norm(self.stem(x)).relu()
        if bright.any():
            x = x.index_put((bright.nonzero()[:, 0],), self.expert_norm(self.expert(x[bright])).relu())
        return self.head(x.mean((2, 3)))


@torch.no_grad()
def test_the_normalization_of_an_expert_stays_as_it_is(images):
    torch.manual_seed(0)
    gated = Gated().eval()
    for norm in (gated.stem_norm, gated.expert_norm):
        norm.weight.uniform_(0.5, 2)
    recorded = OriginalPass.record(gated, gated, images)
    assert recorded.outputs.norms == {"stem": "stem_norm"}
    changed = with_coarse_scales(gated, recorded)
    assert not torch.equal(changed.stem_norm.running_var, gated.stem_norm.running_var)
    assert torch.equal(changed.expert_norm.running_var, gated.expert_norm.running_var)
    assert torch.equal(changed.expert.weight, gated.expert.weight)
    plan = RatePlan.of(changed, measure_layers(changed, recorded))
    rounded = round_network(changed, recorded, plan, 500, shift_error=2.0**-8)
    assert rounded.layers["expert"].integers.any()


def test_rounded_factors_of_another_device_are_no_other_network(original, images, monkeypatch):
    """CUDA rounds the factors of convolutions to 10 bits of a mantissa.

    In so small a network, outputs that are rounded to 6 bits do as much.
    """

    class Tf32(Network):
        def __init__(self) -> None:
            super().__init__()
            for layer in (self.first, self.second, self.third):
                layer.register_forward_hook(lambda module, inputs, output: self.rounded(output))

        @staticmethod
        def rounded(output: torch.Tensor) -> torch.Tensor:
            return ((output.view(torch.int32) + 2**16) & -(2**17)).view(torch.float32)

    rounding = Tf32().eval()
    rounding.load_state_dict(original.state_dict())
    series = series_of(rounding)
    recorded = OriginalPass.record(series, rounding, images)
    with torch.no_grad():
        assert with_coarse_scales(series, recorded) is series
        monkeypatch.setattr(coarse_scales, "_TOLERANCE", coarse_scales._TF32_TOLERANCE)
        assert with_coarse_scales(series, recorded) is not series


@torch.no_grad()
def test_shifts_are_multiples_of_their_step_after_the_rounding(original, images):
    series = series_of(original)
    recorded = OriginalPass.record(series, original, images)
    changed = with_coarse_scales(series, recorded)
    plan, error = RatePlan.of(changed, measure_layers(changed, recorded)), 2.0**-5
    rounded = round_network(changed, recorded, plan, 2000, shift_error=error).model.first_norm
    scale = rounded.weight.double() / (rounded.running_var.double() + rounded.eps).sqrt()
    shift = rounded.bias.double() - rounded.running_mean.double() * scale
    allowed = error * float((rounded.weight.abs() + rounded.bias.abs()).max())
    step = float(grid_values(torch.tensor(step_exponent(2 * allowed))))
    levels = (shift / step).numpy()
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    assert np.abs(levels).max() > 2


def test_constants_of_layers_with_a_bias_or_without_a_normalization_stay(original):
    rounding = ShiftRounding(original, {"first": "first_norm", "second": "second_norm"}, 0.1)
    columns = torch.randn(12, 10, 1, dtype=torch.float64)
    assert rounding.rounded("second", columns) is columns
    assert rounding.rounded("head", columns) is columns
