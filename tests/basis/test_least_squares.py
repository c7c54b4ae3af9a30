"""The closed-form fit against numpy's least squares, and its round trip with `reconstruct`."""

from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from basis import BASES, CompressionError, basis_matrix, fit, reconstruct
from basis.errors import NumericalError
from basis.series import portable_basis_matrix

KERNELS = [(1, 1), (1, 3), (3, 1), (2, 2), (3, 3), (4, 4), (5, 5), (3, 5), (4, 7), (7, 7), (6, 3)]


def kronecker(basis: str, kernel: tuple[int, int], order: tuple[int, int]) -> np.ndarray:
    """The design matrix of one slice, by numpy: (kh kw, nh nw)."""
    left, right = (basis_matrix(basis, k, n).numpy() for k, n in zip(kernel, order, strict=True))
    return np.kron(left, right)


def draw_weight(kernel: tuple[int, int], seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(4, 3, *kernel, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def squared_error(weight: torch.Tensor, coefficients: torch.Tensor, basis: str) -> float:
    return float((weight - reconstruct(coefficients, basis, tuple(weight.shape[-2:]))).square().sum())


@st.composite
def kernels_and_orders(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[int, int]]:
    kernel = (draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    return kernel, (draw(st.integers(1, kernel[0])), draw(st.integers(1, kernel[1])))


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_full_order_is_exact(basis: str, kernel: tuple[int, int]) -> None:
    weight = draw_weight(kernel)
    torch.testing.assert_close(reconstruct(fit(weight, basis, kernel), basis, kernel), weight, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_full_order_in_float32(basis: str, kernel: tuple[int, int]) -> None:
    weight = draw_weight(kernel, dtype=torch.float32)
    torch.testing.assert_close(reconstruct(fit(weight, basis, kernel), basis, kernel), weight, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("kernel", [*KERNELS, (11, 11)])
def test_coefficients_have_the_sum_of_squares_of_the_filter(basis: str, kernel: tuple[int, int]) -> None:
    """The basis is orthonormal; a lower order leaves out the rest of the filter."""
    weight = draw_weight(kernel)
    torch.testing.assert_close(fit(weight, basis, kernel).square().sum(), weight.square().sum())
    order = (max(kernel[0] - 1, 1), kernel[1])
    coefficients = fit(weight, basis, order)
    lost = squared_error(weight, coefficients, basis)
    assert float(coefficients.square().sum()) + lost == pytest.approx(float(weight.square().sum()))


@settings(max_examples=25)
@given(basis=st.sampled_from(sorted(BASES)), sizes=kernels_and_orders(), seed=st.integers(0, 10**6))
def test_fit_of_a_reconstruction_is_the_identity(
    basis: str, sizes: tuple[tuple[int, int], tuple[int, int]], seed: int
) -> None:
    kernel, order = sizes
    coefficients = draw_weight(order, seed)
    torch.testing.assert_close(
        fit(reconstruct(coefficients, basis, kernel), basis, order), coefficients, rtol=1e-13, atol=1e-13
    )


@settings(max_examples=25)
@given(basis=st.sampled_from(sorted(BASES)), sizes=kernels_and_orders(), seed=st.integers(0, 10**6))
def test_equals_numpy_least_squares(basis: str, sizes: tuple[tuple[int, int], tuple[int, int]], seed: int) -> None:
    kernel, order = sizes
    weight = draw_weight(kernel, seed)
    slices = weight.reshape(-1, kernel[0] * kernel[1]).numpy().T
    expected = np.linalg.lstsq(kronecker(basis, kernel, order), slices, rcond=None)[0].T.reshape(4, 3, *order)
    np.testing.assert_allclose(fit(weight, basis, order).numpy(), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(("kernel", "order"), [((3, 3), (2, 2)), ((5, 3), (2, 3)), ((7, 7), (4, 4)), ((4, 4), (3, 1))])
def test_any_perturbation_raises_the_error(basis: str, kernel: tuple[int, int], order: tuple[int, int]) -> None:
    weight = draw_weight(kernel)
    best = fit(weight, basis, order)
    least = squared_error(weight, best, basis)
    assert least > 0
    for seed in range(5):
        assert squared_error(weight, best + 1e-3 * draw_weight(order, seed + 1), basis) > least


@pytest.mark.parametrize("basis", BASES)
def test_more_terms_never_fit_worse(basis: str) -> None:
    weight = draw_weight((7, 7))
    errors = [squared_error(weight, fit(weight, basis, (n, n)), basis) for n in range(1, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-18


@pytest.mark.parametrize("basis", BASES)
def test_reconstruction_equals_the_definition(basis: str) -> None:
    coefficients = draw_weight((2, 3))
    left, right = basis_matrix(basis, 4, 2).numpy(), basis_matrix(basis, 5, 3).numpy()
    expected = np.einsum("ti,ocij,sj->octs", left, coefficients.numpy(), right)
    np.testing.assert_allclose(reconstruct(coefficients, basis, (4, 5)).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("leading", [(), (5,), (4, 3), (2, 4, 3), (0, 3)])
def test_dtype_and_leading_shape_are_kept(dtype: torch.dtype, leading: tuple[int, ...]) -> None:
    coefficients = fit(torch.ones(*leading, 3, 5, dtype=dtype), "cosine", (2, 4))
    assert (coefficients.shape, coefficients.dtype) == ((*leading, 2, 4), dtype)
    kernels = reconstruct(coefficients, "cosine", (3, 5))
    assert (kernels.shape, kernels.dtype) == ((*leading, 3, 5), dtype)
    assert kernels.device == coefficients.device == torch.device("cpu")


def test_layout_and_gradient_of_the_weight_do_not_matter() -> None:
    weight = draw_weight((3, 3)).requires_grad_()
    expected = fit(weight, "cosine", (2, 2))
    assert expected.is_contiguous()
    assert not expected.requires_grad
    assert torch.equal(fit(weight.to(memory_format=torch.channels_last), "cosine", (2, 2)), expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_refused(bad: float) -> None:
    weight = draw_weight((3, 3))
    weight[2, 1, 0, 2] = bad
    with pytest.raises(NumericalError, match="NaN or infinite"):
        fit(weight, "cosine", (2, 2))


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_a_weight_that_is_not_real_floating_point_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(CompressionError, match=f"{dtype}; allowed: .*floating-point"):
        fit(torch.ones(2, 2, 3, 3, dtype=dtype), "cosine", (2, 2))


def test_a_weight_without_a_kernel_is_refused() -> None:
    with pytest.raises(CompressionError, match=r"weight of shape \(3,\); allowed: \(\.\.\., kh, kw\)"):
        fit(torch.ones(3), "cosine", (1, 1))


@pytest.mark.parametrize("order", [(4, 3), (3, 4), (0, 1), (1, -1)])
def test_an_order_outside_the_kernel_is_refused(order: tuple[int, int]) -> None:
    with pytest.raises(CompressionError, match=r"\b3 taps; allowed: 1 to "):
        fit(torch.ones(2, 2, 3, 3), "chebyshev", order)


def test_a_kernel_smaller_than_the_order_is_refused() -> None:
    with pytest.raises(CompressionError, match=r"order 3 .* 2 taps"):
        reconstruct(torch.ones(2, 2, 3, 3), "chebyshev", (3, 2))


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(("order", "kernel"), [((2, 2), (3, 3)), ((6, 5), (7, 7)), ((1, 3), (1, 5))])
def test_a_portable_reconstruction_is_its_sum_in_order_bit_for_bit(
    basis: str, order: tuple[int, int], kernel: tuple[int, int]
) -> None:
    """More slices than are evaluated at once; every product and every sum rounded on its own, as numpy does it."""
    coefficients = torch.randn(70, 60, *order, generator=torch.Generator().manual_seed(0))
    rows, columns = (portable_basis_matrix(basis, k, n).numpy() for k, n in zip(kernel, order, strict=True))
    a = coefficients.numpy().astype(np.float64)
    expected = np.empty((70, 60, *kernel), np.float32)
    for s in range(kernel[0]):
        v = [reduce(np.add, [rows[s, i] * a[:, :, i, b] for i in range(order[0])]) for b in range(order[1])]
        for t in range(kernel[1]):
            expected[:, :, s, t] = reduce(np.add, [v[b] * columns[t, b] for b in range(order[1])])
    result = reconstruct(coefficients, basis, kernel, portable=True)
    np.testing.assert_array_equal(result.numpy(), expected, strict=True)
    torch.testing.assert_close(result, reconstruct(coefficients, basis, kernel), rtol=1e-6, atol=1e-6)
