"""Round a weight with error compensation, so that the layer's outputs, not its weights, stay close to the original.

The error of a row w of the weight, stored as q, is ``(w - q) G (w - q)^T``, where G is the Gram matrix of the layer's
inputs. It is the squared change of that output channel over the calibration images.

The rounding is GPTQ (Frantar et al. 2023, arXiv 2210.17323). In addition, the scales are searched and refitted, and
coordinate descent on the integers follows. Each of these steps lowers the error by another 1 to 10 % on correlated
inputs. Minifloats have no scale: they are rounded to the nearest float column by column, with the same compensation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from basis.errors import CompressionError, NumericalError
from quant import minifloat
from quant.formats import IntFormat, QuantizedTensor, check_weight, nearest_scale
from quant.grid import MAX_EXPONENT, MIN_EXPONENT, grid_exponents, grid_values, nearest_on_grid
from quant.schemes import FixedTensor, Format, stored_tensor
from quant.sweeps import by_falling_diagonal, compensated_rounding, damped_hessian, descend

# Candidate scales, as exponents relative to the scale of rounding to nearest, 0.3 to 1.09 times it: clipping an outlier
# often costs less than a coarse step.
_CANDIDATES = range(2, -29, -1)
# Exponents relative to the candidate with the least estimated error, compared by the error of the rounding itself.
_NEIGHBOURS = (0, -1, 1, -2, 2)
_SWEEPS = 2  # most sweeps of coordinate descent after each choice of the scales
_REFITS = 1  # least-squares refits of the scales


def gptq(weight: Tensor, grams: Tensor, format: Format, *, damping: float = 0.01) -> FixedTensor:
    """Round a weight so that its Gram-weighted error is small, and in no row larger than with nearest rounding.

    All groups of a convolution are rounded at once: group k of the rows with Gram matrix k.

    Args:
        weight: (O, F), floating point. O is a multiple of the number of groups; rows of a group are neighbours.
        grams: (groups, F, F), sum or mean of ``x x^T`` over each group's inputs x; positive semi-definite, may be
            singular.
        format: Integers or minifloats.
        damping: Share of the mean diagonal that is added to the diagonal, against overfitting to few images.

    Returns:
        Integers (O, F) and scales (O,), or minifloats (O, F), on the weight's device.

    Raises:
        CompressionError: The shapes do not match, or a diagonal or the damping is negative.
        NumericalError: Values are not finite, or a Gram matrix is not positive semi-definite.

    Source:
        GPTQ (Frantar et al. 2023, arXiv 2210.17323).
    """
    values, grams = check_weight(weight), _check_grams(weight, grams, damping)
    nearest = _nearest(values, format)
    order, ordered = by_falling_diagonal(grams)
    columns = _grouped(values, len(grams)).mT.to(torch.float64)
    columns = columns.gather(1, order[:, :, None].expand_as(columns))
    hessian, root = damped_hessian(ordered, damping)
    rounded, scale = _round_columns(columns, hessian, root, nearest)
    back = order.argsort(dim=1)[:, :, None].expand_as(rounded)
    rows = rounded.gather(1, back).mT.reshape(values.shape)
    return _rows_of_smaller_error(values, grams, stored_tensor(rows.contiguous(), scale, format), nearest)


def weighted_error(weight: Tensor, grams: Tensor, quantized: FixedTensor) -> Tensor:
    """Compute the error ``(w - q) G (w - q)^T`` of every row.

    Args:
        weight: (O, F).
        grams: G, (groups, F, F).
        quantized: The stored values q, (O, F).

    Returns:
        float64, (O,).
    """
    error = _grouped(weight.to(torch.float64) - quantized.dequantize().to(torch.float64), len(grams))
    squared: Tensor = ((error @ grams.to(error)) * error).sum(2)
    return squared.flatten()


def _grouped(rows: Tensor, groups: int) -> Tensor:
    """(O, F) -> (groups, O / groups, F)."""
    split: Tensor = rows.unflatten(0, (groups, -1))
    return split


def _check_grams(weight: Tensor, grams: Tensor, damping: float) -> Tensor:
    """Return the Gram matrices as float64 on the weight's device, exactly symmetric."""
    fits = weight.ndim == 2 and grams.ndim == 3 and tuple(grams.shape[1:]) == (weight.shape[1],) * 2
    if not fits or len(grams) == 0 or len(weight) % len(grams):
        raise CompressionError(
            f"gptq got a weight of shape {tuple(weight.shape)} and Gram matrices of shape {tuple(grams.shape)}; "
            "allowed: (O, F) and (groups, F, F) with O a multiple of groups"
        )
    finite, negative = bool(torch.isfinite(grams).all()), bool((grams.diagonal(dim1=1, dim2=2) < 0).any())
    if not finite or negative or not damping >= 0:
        raise (CompressionError if finite else NumericalError)(
            f"gptq got Gram matrices with values from {float(grams.min())} to {float(grams.max())} and damping "
            f"{damping}; allowed: finite values, diagonals of zero or more and damping of zero or more"
        )
    grams = grams.detach().to(weight.device, torch.float64)
    return (grams + grams.mT) / 2


def _nearest(values: Tensor, format: Format) -> FixedTensor:
    """Round to nearest with absolute-maximum scales: the start of the search, and the bound on its error."""
    if not isinstance(format, IntFormat):
        return minifloat.MinifloatTensor(minifloat.encode(values, format), format)
    scale = nearest_scale(values, values.abs().amax(1) / format.qmax, format)
    integers = (values / scale[:, None]).round().clamp(format.qmin, format.qmax)
    return QuantizedTensor(integers.to(torch.int8), scale, format)


def _round_columns(columns: Tensor, hessian: Tensor, root: Tensor, start: FixedTensor) -> tuple[Tensor, Tensor | None]:
    """Round the columns: integers or bit patterns, (G, F, O), and the scales of integers, (G O,)."""
    if isinstance(start, QuantizedTensor):
        qmax, exponents = start.format.qmax, _grouped(grid_exponents(start.scale), len(columns))
        integers, scale = _search_scales(columns, root, exponents, qmax)
        integers, scale = _refine(columns, integers, scale, hessian, qmax)
        return integers.to(torch.int8), scale.float().flatten()
    format = start.format
    values, _ = compensated_rounding(columns, lambda column: minifloat.nearest(column, format), root)
    return minifloat.encode(values, format), None


def _search_scales(columns: Tensor, root: Tensor, exponents: Tensor, qmax: int) -> tuple[Tensor, Tensor]:
    """Choose per row the scale of least error after compensated rounding: integers (G, F, O), scales (G, O)."""
    # With compensation, the error of column j has the weight 1 / root_jj**2: an estimate without running the sweep.
    best = _best_candidate(columns, exponents, root.diagonal(dim1=1, dim2=2) ** -2, qmax)
    scales = torch.stack([_scale(exponents + best + shift) for shift in _NEIGHBOURS], dim=1)
    repeated, steps = columns.repeat(1, 1, scales.shape[1]), scales.flatten(1)
    values, error = compensated_rounding(repeated, lambda x: (x / steps).round_().clamp_(-qmax, qmax).mul_(steps), root)
    integers = values.div_(steps[:, None]).round_().unflatten(2, scales.shape[1:])
    least = error.view_as(scales).argmin(1, keepdim=True)
    chosen = least[:, None].expand(-1, columns.shape[1], -1, -1)
    return integers.gather(2, chosen).squeeze(2), scales.gather(1, least).squeeze(1)


def _best_candidate(columns: Tensor, exponents: Tensor, importance: Tensor, qmax: int) -> Tensor:
    """Return per row the candidate with the least plain rounding error, columns weighted by ``importance``."""
    best_error = torch.full_like(exponents, torch.inf, dtype=torch.float64)
    best = torch.zeros_like(exponents)
    for candidate in _CANDIDATES:
        scale = _scale(exponents + candidate)[:, None]
        rounded = (columns / scale).round_().clamp_(-qmax, qmax).mul_(scale)
        error = (importance[:, None] @ rounded.sub_(columns).square_()).squeeze(1)
        best = torch.where(error < best_error, candidate, best)
        best_error = torch.minimum(error, best_error)
    return best


def _scale(exponents: Tensor) -> Tensor:
    """Return float64 grid values; exponents outside the grid get its first or last value."""
    return grid_values(exponents.clamp(MIN_EXPONENT, MAX_EXPONENT)).to(torch.float64)


def _refine(columns: Tensor, integers: Tensor, scale: Tensor, hessian: Tensor, qmax: int) -> tuple[Tensor, Tensor]:
    """Alternate coordinate descent and least-squares scales; a row keeps a new scale only if its error falls."""
    target = hessian @ columns
    integers, slope = descend(integers, target - hessian @ integers * scale[:, None], scale, hessian, qmax, _SWEEPS)
    error = ((columns - integers * scale[:, None]) * slope).sum(1)
    for _ in range(_REFITS):
        weighted = (target - slope) / scale[:, None]
        new_scale = _refitted(columns, integers, weighted, scale)
        start = target - weighted * new_scale[:, None]
        new_integers, new_slope = descend(integers, start, new_scale, hessian, qmax, _SWEEPS)
        new_error = ((columns - new_integers * new_scale[:, None]) * new_slope).sum(1)
        gains = new_error < error
        integers = torch.where(gains[:, None], new_integers, integers)
        slope = torch.where(gains[:, None], new_slope, slope)
        scale, error = torch.where(gains, new_scale, scale), torch.minimum(error, new_error)
    return integers, scale


def _refitted(columns: Tensor, integers: Tensor, weighted: Tensor, scale: Tensor) -> Tensor:
    """Return the grid value nearest to the least-squares scale ``(q H w) / (q H q)``, or the old scale.

    The q are the integers, and ``weighted`` is H q.
    """
    fitted = (weighted * columns).sum(1) / (weighted * integers).sum(1)
    return nearest_on_grid(torch.where(torch.isfinite(fitted) & (fitted > 0), fitted, scale)).to(torch.float64)


def _rows_of_smaller_error(weight: Tensor, grams: Tensor, first: FixedTensor, second: FixedTensor) -> FixedTensor:
    """Select each row from the tensor with the smaller undamped error; from the second if the errors are equal."""
    use_first = weighted_error(weight, grams, first) < weighted_error(weight, grams, second)
    integers = torch.where(use_first[:, None], first.integers, second.integers)
    if first.scale is None or second.scale is None:
        return stored_tensor(integers, None, first.format)
    return stored_tensor(integers, torch.where(use_first, first.scale, second.scale), first.format)
