"""Images that go through a network a few at a time give the rows, and the fit, of all at once."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from basis import pieces
from basis.activations import fit_activations
from basis.pieces import in_pieces
from basis.portion import Portion
from basis.swap import swap_convolutions
from tests.basis.test_activations import PLAN, correlated, residual_network


def in_threes(monkeypatch):
    monkeypatch.setattr(pieces, "PIXELS", 3 * 12 * 12)
    monkeypatch.setattr(pieces, "LEAST_SHARE", 0)


@given(count=st.integers(1, 40), first=st.integers(0, 5), pixels=st.integers(1, 70), share=st.floats(0, 1))
def test_rows_come_in_the_order_of_the_images_each_once(count, first, pixels, share):
    images = torch.arange(count).view(-1, 1, 1, 1).expand(-1, 3, 2, 3)
    seen = []

    def sampled(piece, part):
        assert (part.first, part.count, part.total) == (first + int(piece[0, 0, 0, 0]), len(piece), 60)
        seen.append(len(piece))
        rows = piece[:, 0].reshape(-1, 2)  # three of an image
        return {"flat": rows, "grouped": torch.stack([rows, -rows])}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIXELS", pixels)
        patch.setattr(pieces, "LEAST_SHARE", share)
        found = in_pieces(images, Portion(first, count, 60, lambda tensor: tensor), sampled)
    assert sum(seen) == count
    assert max(seen) <= max(1, pixels // 6, round(share * count))
    expected = torch.arange(count).repeat_interleave(3)[:, None].expand(-1, 2)
    assert torch.equal(found["flat"], expected)
    assert torch.equal(found["grouped"], torch.stack([expected, -expected]))


def test_what_a_piece_does_not_give_is_left_out(monkeypatch):
    in_threes(monkeypatch)

    def sampled(piece, part):
        rows = {"always": piece[:, 0, 0, :1], "first": piece[:, 0, 0, :1], "later": piece[:, 0, 0, :1]}
        del rows["later" if part.first == 0 else "first"]
        return rows

    found = in_pieces(correlated(0, count=7), Portion.whole(7), sampled)
    assert list(found) == ["always"]


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
