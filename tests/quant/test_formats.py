"""The number format and the tensor that is stored in it."""

import numpy as np
import pytest
import torch

from basis.errors import CompressionError
from quant.formats import IntFormat, QuantizedTensor
from quant.grid import nearest_on_grid


@pytest.mark.parametrize(("bits", "qmax"), [(2, 1), (3, 3), (4, 7), (5, 15), (6, 31), (7, 63), (8, 127)])
def test_range_is_symmetric_and_narrow(bits: int, qmax: int) -> None:
    assert (IntFormat(bits).qmin, IntFormat(bits).qmax) == (-qmax, qmax)


@pytest.mark.parametrize("bits", [1, 9, 0, -4, 4.0, "4", True])
def test_width_out_of_range_is_refused(bits: object) -> None:
    with pytest.raises(CompressionError, match="allowed: integers 2 to 8"):
        IntFormat(bits)  # type: ignore[arg-type]


def test_dequantize_is_integer_times_channel_scale() -> None:
    integers = torch.randint(-7, 8, (5, 3, 2, 2), dtype=torch.int8)
    scale = nearest_on_grid(torch.rand(5) + 0.01)
    expected = integers.numpy().astype(np.float32) * scale.numpy()[:, None, None, None]
    np.testing.assert_array_equal(QuantizedTensor(integers, scale, IntFormat(4)).dequantize().numpy(), expected)


@pytest.mark.parametrize(
    ("integers", "scale", "words"),
    [
        (torch.zeros(2, 3), torch.ones(2), "non-empty int8"),
        (torch.zeros(0, 3, dtype=torch.int8), torch.ones(0), "non-empty int8"),
        (torch.full((2, 3), -8, dtype=torch.int8), torch.ones(2), "4 bits: -7..7"),
        (torch.zeros(2, 3, dtype=torch.int8), torch.ones(3), "one value per output channel"),
        (torch.zeros(2, 3, dtype=torch.int8), torch.ones(2, dtype=torch.float64), "allowed: float32"),
        (torch.zeros(2, 3, dtype=torch.int8), torch.tensor([1.0, 0.0]), "finite values of at least"),
        (torch.zeros(2, 3, dtype=torch.int8), torch.tensor([1.0, -1.0]), "finite values of at least"),
        (torch.zeros(2, 3, dtype=torch.int8), torch.tensor([1.0, torch.nan]), "finite values of at least"),
        (torch.zeros(2, 3, dtype=torch.int8), torch.tensor([1.0, torch.inf]), "finite values of at least"),
        (
            torch.zeros(2, 3, dtype=torch.int8),
            torch.tensor([1.0, 1.05]),
            "1 values off the grid",
        ),
        (torch.zeros(2, 3, dtype=torch.int8), torch.tensor([1.0, 2.0**101]), "off the grid"),
    ],
)
def test_inconsistent_parts_are_refused(integers: torch.Tensor, scale: torch.Tensor, words: str) -> None:
    with pytest.raises(CompressionError, match=words):
        QuantizedTensor(integers, scale, IntFormat(4))
