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


def in_threes(monkeypatch):
    monkeypatch.setattr(pieces, "PIXELS", 3 * 12 * 12)
    monkeypatch.setattr(pieces, "LEAST_SHARE", 0)


@given(count=st.integers(1, 40), first=st.integers(0, 5), pixels=st.integers(1, 70), share=st.floats(0, 0.5))
def test_rows_come_in_the_order_of_the_images_each_once(count, first, pixels, share):
    images = torch.arange(count).view(-1, 1, 1, 1).expand(-1, 3, 2, 3)
    sizes = []

    def sampled(piece, part):
        assert (part.first, part.count, part.total) == (first + int(piece[0, 0, 0, 0]), len(piece), 60)
        sizes.append(len(piece))
        rows = piece[:, 0].reshape(-1, 2)  # three of an image
        return {"flat": rows, "grouped": torch.stack([rows, -rows])}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIXELS", pixels)
        patch.setattr(pieces, "LEAST_SHARE", share)
        found = in_pieces(images, Portion(first, count, 60, lambda tensor: tensor), sampled)
    assert sum(sizes) == count
    assert len(sizes) == 1 or sizes[-1] < sizes[0]
    expected = torch.arange(count).repeat_interleave(3)[:, None].expand(-1, 2)
    assert torch.equal(found["flat"], expected)
    assert torch.equal(found["grouped"], torch.stack([expected, -expected]))


DIFFERENT = {
    "another key in the last piece": lambda piece: {"last" if len(piece) < 3 else "first": piece[:, 0, 0, :1]},
    "rows that are no image's": lambda piece: {"constant": torch.ones(6, 2)},
    "another width in the last piece": lambda piece: {"rows": piece[:, 0, 0, : len(piece)]},
}


@pytest.mark.parametrize("give", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_pieces_that_differ_are_not_taken(monkeypatch, give):
    in_threes(monkeypatch)
    images, sizes = correlated(0, count=8), []

    def sampled(piece, part):
        sizes.append(len(piece))
        return give(piece)

    found = in_pieces(images, Portion.whole(8), sampled)
    assert sizes == [3, 3, 2, 8]
    assert {key: value.tolist() for key, value in found.items()} == {k: v.tolist() for k, v in give(images).items()}


class FromAConstant(nn.Module):
    """Adds what a convolution makes of a constant map, which it has for no image in particular."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.map = nn.Parameter(correlated(7, count=1))

    def forward(self, x):
        return self.first(x) + self.second(self.map)


def test_a_layer_that_does_not_see_the_images_is_fitted_as_before(monkeypatch):
    torch.manual_seed(0)
    original, images = FromAConstant(), correlated(0, count=31)

    def fitted():
        series = swap_convolutions(copy.deepcopy(original), {"first": (2, 2), "second": (2, 2)}, "cosine")
        return fit_activations(series, original, images)

    whole = fitted()
    in_threes(monkeypatch)
    assert fitted() == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("limit", [400, 2**16], ids=["a sample", "all positions"])
def test_the_fit_is_that_of_all_images_at_once(monkeypatch, limit):
    monkeypatch.setattr("basis.patches.POSITIONS", limit)
    original, images = residual_network(), correlated(0, count=31)

    def fitted():
        series = swap_convolutions(copy.deepcopy(original), PLAN, "cosine")
        return series.state_dict(), fit_activations(series, original, images)

    whole, errors = fitted()
    in_threes(monkeypatch)
    parts, errors_of_parts = fitted()
    assert errors_of_parts == pytest.approx(errors, rel=1e-5)
    for name, value in parts.items():
        torch.testing.assert_close(value, whole[name], rtol=1e-5, atol=1e-5)
