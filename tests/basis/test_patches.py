"""Compare sampled patches with the convolution: a patch times the filters is the output at its position."""

import pytest
import torch
from torch import nn

from basis.conv import SeriesConv2d
from basis.gram_statistics import GramStatistics, reordered, self_products
from basis.patches import by_sample, feature_order, patch_batches, samples
from basis.sampling import SamplingConfig

CONVS = [
    nn.Conv2d(6, 8, 3, padding=1),
    nn.Conv2d(6, 12, (3, 5), stride=(2, 1), groups=6, padding="valid"),
    nn.Conv2d(6, 4, 3, padding="same", dilation=2, groups=2, padding_mode="reflect"),
    nn.Conv2d(6, 4, 2, stride=2, padding=(1, 0), padding_mode="circular", bias=False),
    nn.Conv2d(6, 4, 4, padding="same", padding_mode="replicate"),
]


@pytest.mark.parametrize("conv", CONVS)
@pytest.mark.parametrize("positions", [40, 10**6])
def test_patches_times_stored_values_are_the_outputs(conv, positions):
    layer = SeriesConv2d(conv, "cosine", tuple(min(2, k) for k in conv.kernel_size))
    x = torch.randn(7, 6, 11, 9)
    chosen = samples(layer, x, seed=3, sampling=SamplingConfig(positions=positions))
    with torch.no_grad():
        outputs = layer(x) - (0 if layer.bias is None else layer.bias[:, None, None])
    columns = layer.coefficients.detach().flatten(1).unflatten(0, (layer.groups, -1)).mT
    order = feature_order(layer, layer.operator)
    rows = 0
    for sample, gathered in zip(chosen, patch_batches(layer, x, chosen, layer.operator), strict=True):
        patches = reordered(gathered, order, 2)
        torch.testing.assert_close(patches @ columns, sample.of(outputs, layer.groups), rtol=1e-4, atol=1e-5)
        rows += patches.shape[1]
    in_all = outputs[:, 0].numel()
    assert rows == in_all if positions > in_all else 40 <= rows < 40 + 7


def test_every_image_is_sampled_and_the_positions_differ_between_batches():
    sampling = SamplingConfig(positions=640)
    chosen = samples(nn.Conv2d(3, 4, 3), torch.empty(64, 3, 30, 30), seed=1, sampling=sampling)
    covered = [index for sample in chosen for index in range(64)[sample.images]]
    assert covered == list(range(64))
    assert len({tuple(sample.positions.tolist()) for sample in chosen}) == len(chosen) == 32
    assert all(len(sample.positions) == 10 for sample in chosen)


@pytest.mark.parametrize("conv", CONVS)
def test_the_rows_of_a_group_are_contiguous(conv):
    """Each product of other rows would copy them first: of depthwise kernels, several times slower."""
    x = torch.randn(3, 6, 11, 9)
    for layer, operator in ((conv, None), (series := SeriesConv2d(conv, "cosine", (2, 2)), series.operator)):
        chosen = samples(layer, x)
        for patches in patch_batches(layer, x, chosen, operator):
            assert all(rows.is_contiguous() for rows in patches)
            torch.testing.assert_close(self_products(patches), patches.mT @ patches, rtol=1e-4, atol=1e-3)


def test_reordered_sums_are_those_of_unfolded_images():
    conv, x = nn.Conv2d(6, 8, 3, padding=1, stride=2, dilation=2), torch.randn(5, 6, 11, 9)
    unfolded = nn.functional.unfold(x, 3, dilation=2, padding=1, stride=2).mT.flatten(0, 1).double()  # (rows, C kh kw)
    chosen, targets = samples(conv, x), torch.randn(1, len(unfolded), 8)
    order = feature_order(conv)
    batches = patch_batches(conv, x, chosen)
    sums = GramStatistics.accumulate(batches, by_sample(targets, chosen), constant=True).reordered(order)
    rows = torch.cat([unfolded, torch.ones(len(unfolded), 1)], dim=1)
    torch.testing.assert_close(sums.gram[0], rows.T @ rows, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(sums.cross[0], rows.T @ targets[0].double(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("conv", [nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 3, groups=2)])
def test_features_of_one_tap_or_of_groups_are_in_the_stored_order(conv):
    assert feature_order(conv) is None
