"""Compare the basis matrices with numpy's cosine and Chebyshev functions and its QR decomposition."""

import numpy as np
import pytest
import torch
from numpy.polynomial import chebyshev

from basis import BASES, CompressionError, basis_matrix
from basis.series import portable_basis_matrix

SIZES = range(1, 10)


def sampled_terms(basis: str, size: int, order: int) -> np.ndarray:
    """By numpy: column i is the i-th function on the kernel's grid."""
    start, end = {"cosine": (0.2 * np.pi, 0.8 * np.pi), "chebyshev": (-1.0, 1.0)}[basis]
    grid = np.linspace(start, end, size) if size > 1 else np.array([(start + end) / 2])
    if basis == "cosine":
        return np.cos(grid[:, None] * np.arange(order))
    return chebyshev.chebvander(grid, order - 1)


def reference(basis: str, size: int, order: int) -> np.ndarray:
    """The sampled terms, orthonormalized by numpy's QR decomposition."""
    columns, triangle = np.linalg.qr(sampled_terms(basis, size, order))
    return columns * np.sign(triangle.diagonal())


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(("size", "order"), [(size, order) for size in SIZES for order in range(1, size + 1)])
def test_matrix_equals_numpy(basis: str, size: int, order: int) -> None:
    matrix = basis_matrix(basis, size, order)
    assert matrix.dtype == torch.float64
    assert matrix.shape == (size, order)
    np.testing.assert_allclose(matrix.numpy(), reference(basis, size, order), rtol=0, atol=1e-11)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("size", [*SIZES, 11, 31, 51])
def test_columns_are_orthonormal(basis: str, size: int) -> None:
    matrix = basis_matrix(basis, size, size)
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-14)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("size", [*SIZES, 11])
def test_each_term_is_a_combination_of_the_columns_up_to_its_own(basis: str, size: int) -> None:
    terms = sampled_terms(basis, size, size)
    triangle = basis_matrix(basis, size, size).numpy().T @ terms
    np.testing.assert_allclose(np.tril(triangle, -1), 0, atol=1e-13)
    assert (triangle.diagonal() > 0).all()


@pytest.mark.parametrize("basis", BASES)
def test_values_that_are_zero_by_symmetry_are_exactly_zero(basis: str) -> None:
    middle = basis_matrix(basis, 7, 7)[3, 1::2]
    assert torch.equal(middle, torch.zeros(3, dtype=torch.float64))
    assert not middle.signbit().any()


def test_chebyshev_columns_are_polynomials() -> None:
    """The poster's code has another T_6."""
    x = np.linspace(-1, 1, 7)
    lower = chebyshev.chebvander(x, 5)
    term = 32 * x**6 - 48 * x**4 + 18 * x**2 - 1
    rest = term - lower @ np.linalg.lstsq(lower, term, rcond=None)[0]
    np.testing.assert_allclose(basis_matrix("chebyshev", 7, 7)[:, 6].numpy(), rest / np.linalg.norm(rest), atol=1e-12)


def test_docstring_example() -> None:
    expected = torch.tensor([[1, -1], [1, 0], [1, 1]], dtype=torch.float64) / torch.tensor([3.0, 2.0]).double().sqrt()
    torch.testing.assert_close(basis_matrix("chebyshev", 3, 2), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("basis", BASES)
def test_lower_order_is_a_prefix(basis: str) -> None:
    assert torch.equal(basis_matrix(basis, 7, 3), basis_matrix(basis, 7, 7)[:, :3])


def test_unknown_basis_lists_the_known() -> None:
    with pytest.raises(CompressionError, match=r"legendre.*cosine, chebyshev"):
        basis_matrix("legendre", 3, 2)


@pytest.mark.parametrize(("size", "order"), [(3, 4), (3, 0), (3, -1), (0, 0), (0, 1), (-2, 1)])
def test_order_outside_the_kernel(size: int, order: int) -> None:
    with pytest.raises(CompressionError, match=f"order {order} .*{size} taps"):
        basis_matrix("cosine", size, order)


def test_errors_are_value_errors() -> None:
    assert issubclass(CompressionError, ValueError)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("size", SIZES)
def test_the_portable_matrix_is_the_nearest_on_its_grid(basis: str, size: int) -> None:
    matrix = portable_basis_matrix(basis, size, size).numpy()
    np.testing.assert_array_equal(matrix * 2.0**32, np.round(basis_matrix(basis, size, size).numpy() * 2.0**32))


def test_the_portable_matrix_has_the_same_errors() -> None:
    with pytest.raises(CompressionError, match=r"order 4 .*3 taps"):
        portable_basis_matrix("cosine", 3, 4)
