"""The basis matrices against numpy's own cosine and Chebyshev functions."""

import numpy as np
import pytest
import torch
from numpy.polynomial import chebyshev

from basis import BASES, CompressionError, basis_matrix
from basis.series import portable_basis_matrix

SIZES = range(1, 10)


def reference(basis: str, size: int, order: int) -> np.ndarray:
    """The definition, by numpy: column i is the i-th function on the kernel's grid."""
    start, end = {"cosine": (0.2 * np.pi, 0.8 * np.pi), "chebyshev": (-1.0, 1.0)}[basis]
    grid = np.linspace(start, end, size) if size > 1 else np.array([(start + end) / 2])
    if basis == "cosine":
        return np.cos(grid[:, None] * np.arange(order))
    return chebyshev.chebvander(grid, order - 1)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(("size", "order"), [(size, order) for size in SIZES for order in range(1, size + 1)])
def test_matrix_equals_numpy(basis: str, size: int, order: int) -> None:
    matrix = basis_matrix(basis, size, order)
    assert matrix.dtype == torch.float64
    assert matrix.shape == (size, order)
    np.testing.assert_allclose(matrix.numpy(), reference(basis, size, order), rtol=0, atol=1e-12)


def test_chebyshev_t6_is_the_polynomial() -> None:
    """The poster's code has another T_6."""
    x = np.linspace(-1, 1, 7)
    expected = 32 * x**6 - 48 * x**4 + 18 * x**2 - 1
    np.testing.assert_allclose(basis_matrix("chebyshev", 7, 7)[:, 6].numpy(), expected, atol=1e-13)


def test_docstring_example_exactly() -> None:
    expected = torch.tensor([[1, -1], [1, 0], [1, 1]], dtype=torch.float64)
    assert torch.equal(basis_matrix("chebyshev", 3, 2), expected)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("size", SIZES)
def test_full_order_has_full_rank(basis: str, size: int) -> None:
    assert np.linalg.matrix_rank(basis_matrix(basis, size, size).numpy()) == size


@pytest.mark.parametrize("basis", BASES)
def test_lower_order_is_a_prefix(basis: str) -> None:
    assert torch.equal(basis_matrix(basis, 7, 3), basis_matrix(basis, 7, 7)[:, :3])


def test_unknown_basis_lists_the_known() -> None:
    with pytest.raises(CompressionError, match="basis 'legendre' is unknown; allowed: cosine, chebyshev"):
        basis_matrix("legendre", 3, 2)


@pytest.mark.parametrize(("size", "order"), [(3, 4), (3, 0), (3, -1), (0, 0), (0, 1), (-2, 1)])
def test_order_outside_the_kernel(size: int, order: int) -> None:
    with pytest.raises(CompressionError, match=f"order {order} for a kernel of {size} taps; allowed: 1 to the kernel"):
        basis_matrix("cosine", size, order)


def test_errors_are_value_errors() -> None:
    assert issubclass(CompressionError, ValueError)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("size", SIZES)
def test_the_portable_matrix_is_the_nearest_on_its_grid(basis: str, size: int) -> None:
    matrix = portable_basis_matrix(basis, size, size).numpy()
    np.testing.assert_array_equal(matrix * 2.0**32, np.round(reference(basis, size, size) * 2.0**32))


def test_the_portable_matrix_has_the_same_errors() -> None:
    with pytest.raises(CompressionError, match="order 4 for a kernel of 3 taps"):
        portable_basis_matrix("cosine", 3, 4)
