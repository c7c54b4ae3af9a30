"""Test that ranks which share the images get the positions, and the fit, of a single rank."""

import copy
import itertools

import pytest
import torch
from torch import nn

from basis.activations import fit_activations, output_errors
from basis.patches import samples
from basis.sampling import SamplingConfig
from basis.shard import CalibrationShard
from basis.swap import swap_convolutions
from tests.basis.test_activations import PLAN, correlated, residual_network
from tests.support.lockstep import in_shares


def never(tensor):
    raise AssertionError("nothing is summed where positions are chosen")


def positions(found, first):
    """Image -> its positions."""
    return {first + i: s.positions.tolist() for s in found for i in range(s.images.start, s.images.stop)}


@pytest.mark.parametrize("limit", [200, 2**16], ids=["a sample", "all positions"])
@pytest.mark.parametrize("cuts", [(0, 35, 70), (0, 1, 2, 70), (0, 69, 70)])
def test_shards_together_have_the_positions_of_one_process(limit, cuts):
    sampling = SamplingConfig(positions=limit, batch_values=2**13)
    conv, x = nn.Conv2d(6, 8, 3), correlated(0, count=70)
    whole = samples(conv, x, seed=5, sampling=sampling)
    found = {}
    for first, stop in itertools.pairwise(cuts):
        shard = CalibrationShard(first, stop - first, 70, never)
        found |= positions(samples(conv, x[first:stop], seed=5, shard=shard, sampling=sampling), first)
    assert found == positions(whole, 0)
    assert list(found) == list(range(70))
    assert len(whole) > 2


def test_a_network_that_cuts_images_into_tiles_has_the_same_positions_too():
    sampling = SamplingConfig(positions=200)
    conv, x = nn.Conv2d(6, 8, 3), correlated(0, count=40)  # ten images in four tiles each
    found = {}
    for first, stop in ((0, 7), (7, 10)):
        shard = CalibrationShard(first, stop - first, 10, never)
        found |= positions(samples(conv, x[4 * first : 4 * stop], shard=shard, sampling=sampling), 4 * first)
    assert found == positions(samples(conv, x, sampling=sampling), 0)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("limit", [400, 2**16], ids=["a sample", "all positions"])
def test_shards_fit_what_one_process_fits(limit, count):
    sampling = SamplingConfig(positions=limit)
    original, images = residual_network(), correlated(0, count=31)
    alone = swap_convolutions(copy.deepcopy(original), PLAN, "cosine")
    expected = fit_activations(alone, original, images, sampling=sampling)

    def work(mine, shard):
        series = swap_convolutions(copy.deepcopy(original), PLAN, "cosine")
        return series, fit_activations(series, copy.deepcopy(original), mine, shard=shard, sampling=sampling)

    for series, errors in in_shares(count, images, work):
        assert errors == pytest.approx(expected, rel=1e-4)
        for name, value in series.state_dict().items():
            torch.testing.assert_close(value, alone.state_dict()[name], rtol=1e-4, atol=1e-4)


def test_errors_are_measured_over_all_shards():
    original, images = residual_network(), correlated(0, count=9)
    series = swap_convolutions(copy.deepcopy(original), PLAN, "cosine")
    expected = output_errors(series, original, images)

    def work(mine, shard):
        return output_errors(copy.deepcopy(series), copy.deepcopy(original), mine, shard=shard)

    for errors in in_shares(2, images, work):
        assert errors == pytest.approx(expected, rel=1e-5)
