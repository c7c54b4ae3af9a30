"""Images that go through a network a few at a time give the rows, and the fit, of all at once."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from basis import pieces
from basis.activations import fit_activations
from basis.pieces import in_pieces
from basis.portion import Portion
from basis.swap import swap_convolutions
from tests.basis.test_activations import PLAN, correlated, residual_network


def in_fours(monkeypatch):
    monkeypatch.setattr(pieces, "PIXELS", 4 * 12 * 12)
    monkeypatch.setattr(pieces, "LEAST_SHARE", 0)


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

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIXELS", pixels)
        patch.setattr(pieces, "LEAST_SHARE", share)
        found = in_pieces(images, Portion(first, count, 60, lambda tensor: tensor), sampled)
    assert sizes == [count] or sizes[0] == 2 <= sizes[-1] <= sizes[1]
    assert len(sizes) == 1 or sum(sizes[1:]) == count
    expected = torch.arange(count).repeat_interleave(each)[:, None].expand(-1, 2)
    assert torch.equal(found["flat"], expected)
    assert torch.equal(found["grouped"], torch.stack([expected, -expected]))


DIFFERENT = {
    "another key in the last piece": lambda x: {"last" if len(x) == 3 else "first": x[:, 0, 0, :1]},
    "rows that are no image's": lambda x: {"constant": torch.ones(6, 2)},
    "another width in the last piece": lambda x: {"rows": x[:, 0, 0, : 2 if len(x) == 3 else 1]},
    "rows of pairs of images": lambda x: {"rows": x[: len(x) // 2, 0, 0]},
    "another order": lambda x: {"rows": torch.cat([x, x.flip(3)])[:, 0, 0]},
    "values of the batch": lambda x: {"rows": (x - x.mean(0))[:, 0, 0]},
}


@pytest.mark.parametrize("give", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_pieces_that_differ_are_not_taken(monkeypatch, give):
    in_fours(monkeypatch)
    images, sizes = correlated(0, count=11), []

    def sampled(piece, part):
        sizes.append(len(piece))
        return give(piece)

    found = in_pieces(images, Portion.whole(11), sampled)
    assert sizes[:2] == [2, 4]
    assert sizes[-1] == 11
    assert {key: value.tolist() for key, value in found.items()} == {k: v.tolist() for k, v in give(images).items()}


class Around(nn.Module):
    """Two convolutions, and what happens to the images around them."""

    def __init__(self, forward):
        super().__init__()
        self.first, self.second = nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.map = nn.Parameter(correlated(7, count=1))
        self.norm = nn.BatchNorm2d(6, track_running_stats=False)
        self.way = forward

    def forward(self, x):
        return self.way(self, x)


NETWORKS = {
    "images alone": (lambda net, x: net.first(x) + net.second(x.flip(-1)), True),
    "a constant": (lambda net, x: net.first(x) + net.second(net.map), False),
    "images and their mirrors": (lambda net, x: net.second(torch.cat([x, x.flip(-1)])), False),
    "statistics of the batch": (lambda net, x: net.first(net.norm(x)), False),
    "no axis where one image is alone": (lambda net, x: net.first(x.squeeze()), True),
}


@pytest.mark.parametrize(("forward", "split"), NETWORKS.values(), ids=NETWORKS.keys())
def test_the_fit_is_that_of_all_images_at_once(monkeypatch, forward, split):
    torch.manual_seed(0)
    original, images, sizes = Around(forward), correlated(0, count=33), []

    def fitted():
        series = swap_convolutions(copy.deepcopy(original), {"first": (2, 2), "second": (2, 2)}, "cosine")
        return fit_activations(series, original, images)

    whole = fitted()
    in_fours(monkeypatch)
    original.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    assert fitted() == pytest.approx(whole, rel=1e-5)
    assert sizes.count(33) == (1 if split else 2)  # one is of the series, whose copy has the hook too


@pytest.mark.parametrize("limit", [400, 2**16], ids=["a sample", "all positions"])
def test_a_residual_network_is_fitted_as_by_all_images_at_once(monkeypatch, limit):
    monkeypatch.setattr("basis.patches.POSITIONS", limit)
    original, images, sizes = residual_network(), correlated(0, count=31), []

    def fitted():
        series = swap_convolutions(copy.deepcopy(original), PLAN, "cosine")
        return series.state_dict(), fit_activations(series, original, images)

    whole, errors = fitted()
    in_fours(monkeypatch)
    original.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    parts, errors_of_parts = fitted()
    assert errors_of_parts == pytest.approx(errors, rel=1e-5)
    for name, value in parts.items():
        torch.testing.assert_close(value, whole[name], rtol=1e-5, atol=1e-5)
    assert sizes == [2, *[4] * 7, 3, 31]
