"""Test that a pass in chunks of images gives the rows, and the fit, of one pass over all images."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from basis.activations import fit_activations
from basis.chunks import in_chunks
from basis.sampling import SamplingConfig
from basis.shard import CalibrationShard
from basis.swap import swap_convolutions
from tests.basis.test_activations import PLAN, correlated, residual_network

IN_FOURS = SamplingConfig(chunk_pixels=4 * 12 * 12, min_chunk_share=0)


@given(
    count=st.integers(1, 40),
    first=st.integers(0, 5),
    pixels=st.integers(1, 70),
    share=st.floats(0, 0.5),
    each=st.integers(1, 3),
)
def test_rows_come_in_the_order_of_the_images_each_once(count, first, pixels, share, each):
    images = torch.arange(count).view(-1, 1, 1, 1).expand(-1, 3, each, 2)
    sizes = []

    def sampled(piece, part):
        assert (part.first, part.count, part.total) == (first + int(piece[0, 0, 0, 0]), len(piece), 60)
        sizes.append(len(piece))
        rows = piece[:, 0].reshape(-1, 2)
        return {"flat": rows, "grouped": torch.stack([rows, -rows])}

    sampling = SamplingConfig(chunk_pixels=pixels, min_chunk_share=share)
    found = in_chunks(images, CalibrationShard(first, count, 60, lambda tensor: tensor), sampled, sampling)
    assert sizes == [count] or sizes[0] == 2 <= sizes[-1] <= sizes[1]
    assert len(sizes) == 1 or sum(sizes[1:]) == count
    expected = torch.arange(count).repeat_interleave(each)[:, None].expand(-1, 2)
    assert torch.equal(found["flat"], expected)
    assert torch.equal(found["grouped"], torch.stack([expected, -expected]))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_rows_that_are_not_finite_are_collected_like_others(value):
    images, sizes = correlated(0, count=12), []
    images[0, 0, 0, 0] = value
    sampling = SamplingConfig(chunk_pixels=4 * images[0, 0].numel(), min_chunk_share=0)

    def compute(piece, part):
        sizes.append(len(piece))
        return {"rows": piece[:, 0, 0]}

    found = in_chunks(images, CalibrationShard.whole(12), compute, sampling)
    assert sizes == [2, 4, 4, 4]
    torch.testing.assert_close(found["rows"], images[:, 0, 0], rtol=0, atol=0, equal_nan=True)


DIFFERENT = {
    "another key in the last piece": lambda x: {"last" if len(x) == 3 else "first": x[:, 0, 0, :1]},
    "rows that are no image's": lambda x: {"constant": torch.ones(6, 2)},
    "another width in the last piece": lambda x: {"rows": x[:, 0, 0, : 2 if len(x) == 3 else 1]},
    "rows of pairs of images": lambda x: {"rows": x[: len(x) // 2, 0, 0]},
    "another order": lambda x: {"rows": torch.cat([x, x.flip(3)])[:, 0, 0]},
    "values of the batch": lambda x: {"rows": (x - x.mean(0))[:, 0, 0]},
}


@pytest.mark.parametrize("give", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_chunks_that_differ_trigger_one_pass_over_all_images(give):
    images, sizes = correlated(0, count=11), []

    def sampled(piece, part):
        sizes.append(len(piece))
        return give(piece)

    found = in_chunks(images, CalibrationShard.whole(11), sampled, IN_FOURS)
    assert sizes[:2] == [2, 4]
    assert sizes[-1] == 11
    assert {key: value.tolist() for key, value in found.items()} == {k: v.tolist() for k, v in give(images).items()}


@pytest.mark.parametrize("count", [5, 6, 8, 13])
@pytest.mark.parametrize("give", [DIFFERENT["another order"], DIFFERENT["values of the batch"]], ids=["order", "batch"])
def test_networks_that_mix_images_are_found_among_few_large_images(give, count):
    images = correlated(0, count=count)
    sampling = SamplingConfig(chunk_pixels=1)  # every image has more pixels
    found = in_chunks(images, CalibrationShard.whole(count), lambda piece, part: give(piece), sampling)
    torch.testing.assert_close(found, give(images), rtol=0, atol=0)


class Around(nn.Module):
    """Two convolutions, used by a given forward function."""

    def __init__(self, forward):
        super().__init__()
        self.first, self.second = nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.map = nn.Parameter(correlated(7, count=1))
        self.norm = nn.BatchNorm2d(6, track_running_stats=False)
        self.way = forward

    def forward(self, x):
        return self.way(self, x)


NETWORKS = {
    "images alone": (lambda net, x: net.first(x) + net.second(x.flip(-1)), 1),
    "a constant": (lambda net, x: net.first(x) + net.second(net.map), 3),
    "images and their mirrors": (lambda net, x: net.second(torch.cat([x, x.flip(-1)])), 2),
    "statistics of the batch": (lambda net, x: net.first(net.norm(x)), 2),
    "no axis where one image is alone": (lambda net, x: net.first(x.squeeze()), 1),
}


@pytest.mark.parametrize(("forward", "passes"), NETWORKS.values(), ids=NETWORKS.keys())
def test_the_fit_equals_the_fit_of_all_images_at_once(forward, passes):
    torch.manual_seed(0)
    original, images, sizes = Around(forward), correlated(0, count=33), []

    def fitted(**options):
        series = swap_convolutions(copy.deepcopy(original), {"first": (2, 2), "second": (2, 2)}, "cosine")
        return fit_activations(series, original, images, **options)

    whole = fitted()
    original.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    assert fitted(sampling=IN_FOURS) == pytest.approx(whole, rel=1e-5)
    assert sizes.count(33) == passes  # one is of the series, whose copy has the hook too; one looks for parts


@pytest.mark.parametrize("limit", [400, 2**16], ids=["a sample", "all positions"])
def test_a_residual_network_is_fitted_as_by_all_images_at_once(limit):
    original, images, sizes = residual_network(), correlated(0, count=31), []

    def fitted(sampling):
        series = swap_convolutions(copy.deepcopy(original), PLAN, "cosine")
        return series.state_dict(), fit_activations(series, original, images, sampling=sampling)

    whole, errors = fitted(SamplingConfig(positions=limit))
    original.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    parts, errors_of_parts = fitted(replace(IN_FOURS, positions=limit))
    assert errors_of_parts == pytest.approx(errors, rel=1e-5)
    for name, value in parts.items():
        torch.testing.assert_close(value, whole[name], rtol=1e-5, atol=1e-5)
    assert sizes == [2, *[4] * 7, 3, 31]
