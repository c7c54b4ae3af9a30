"""Linear layers as 1x1 convolutions: the same geometry, maps and recorded outputs."""

import pytest
import torch
from torch import nn

from basis.conv import SeriesConv2d
from basis.layers import as_maps, geometry, layer_operator, stored_tensor_name, stored_values
from basis.original_outputs import original_outputs
from basis.sampling import SamplingConfig
from basis.shard import CalibrationShard

CONV = nn.Conv2d(4, 6, 3, padding=1)
SERIES = SeriesConv2d(CONV, "cosine", (2, 2))
LINEAR = nn.Linear(4, 6)


def test_each_layer_has_its_stored_tensor():
    assert [stored_tensor_name(each) for each in (CONV, SERIES, LINEAR, nn.BatchNorm2d(3))] == [
        "weight",
        "coefficients",
        "weight",
        None,
    ]
    assert stored_values(SERIES) is SERIES.coefficients
    assert stored_values(LINEAR) is LINEAR.weight
    assert layer_operator(SERIES) is SERIES.operator
    assert layer_operator(CONV) is layer_operator(LINEAR) is None
    assert geometry(CONV) is CONV


@pytest.mark.parametrize("axes", [(), (7,), (3, 5), (2, 3, 4)])
def test_a_linear_layer_is_a_convolution_of_its_maps(axes):
    x = torch.randn(5, *axes, 4)
    maps, conv = as_maps(LINEAR, x), geometry(LINEAR)
    assert (conv.in_channels, conv.out_channels, conv.kernel_size, conv.bias) == (4, 6, (1, 1), None)
    assert maps.shape == (5, 4, int(torch.tensor(axes).prod()) if axes else 1, 1)
    outputs = nn.functional.conv2d(maps, LINEAR.weight[:, :, None, None], LINEAR.bias)
    torch.testing.assert_close(outputs, as_maps(LINEAR, LINEAR(x)))


def test_inputs_of_convolutions_are_maps_already():
    x = torch.randn(2, 4, 5, 5)
    assert as_maps(CONV, x) is x


class Rows(nn.Module):
    """A linear layer on all pixels, and a 1x1 convolution with the same values."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.conv = nn.Linear(4, 6), nn.Conv2d(4, 6, 1)
        self.conv.weight.data.copy_(self.linear.weight[:, :, None, None])
        self.conv.bias.data.copy_(self.linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) + self.conv(x)


@pytest.mark.parametrize("positions", [2**16, 60])
@torch.no_grad()
def test_outputs_of_linear_layers_and_of_1x1_convolutions_are_recorded_alike(positions):
    images = torch.randn(6, 4, 5, 7)
    seeds, shard = {"linear": 3, "conv": 3}, CalibrationShard.whole(6)
    found = original_outputs(Rows().eval(), seeds, images, shard, SamplingConfig(positions=positions), additions=False)
    rows = min(positions, 6 * 5 * 7)
    assert found.outputs["linear"].shape == found.outputs["conv"].shape == (1, rows, 6)
    torch.testing.assert_close(found.outputs["linear"], found.outputs["conv"])
