"""Error-compensating rounding: stored values that keep a layer's outputs, not its weights, close to the original.

The error of a row w of the weight, stored as q, is (w - q) G (w - q)^T, where G is the Gram matrix of the layer's
inputs: the squared change of that output channel over the calibration images.
Source: GPTQ (Frantar et al. 2023, arXiv 2210.17323) for the rounding. The scales are searched and refitted here, and
coordinate descent on the integers follows; each of these steps lowers the error by 1 to 10 % more on correlated inputs.
Minifloats, which have no scale, are rounded to the nearest float column by column, with the same compensation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from basis.errors import CompressionError
from quant import minifloat
from quant.formats import SMALLEST_SCALE, IntFormat, QuantizedTensor, check_weight
from quant.schemes import Format, StoredTensor, stored_tensor
from quant.sweeps import compensated_rounding, damped, descend

# Scales as shares of absolute maximum / qmax: a clipped outlier often costs less than a coarse step.
_SHARES = torch.linspace(0.30, 1.05, 51, dtype=torch.float64).flip(0)
# Around the share that a cheap estimate prefers, these multiples are compared by the error of the rounding itself.
_MULTIPLES = (1.0, 0.85, 0.92, 1.08, 1.16)
_SWEEPS = 2
_REFITS = 1


def gptq(weight: Tensor, grams: Tensor, format: Format, *, damping: float = 0.01) -> StoredTensor:
    """Rounds a weight so that its Gram-weighted error is small; in no row is it larger than that of nearest rounding.

    All groups of a convolution are rounded at once, group k of the rows with Gram matrix k.

    Args:
        weight: (O, F) floating point; O is a multiple of the number of groups, rows of a group are neighbours.
        grams: (groups, F, F), sum or mean of x x^T over each group's inputs x; positive semi-definite, may be singular.
        format: integers or minifloats.
        damping: share of the mean diagonal that is added to the diagonal, so that few images are not overfitted.

    Returns:
        integers (O, F) and scales (O,), or minifloats (O, F), on the weight's device.

    Raises:
        CompressionError: if the shapes do not match, values are not finite, or a Gram matrix or the damping is
            negative.
    """
    values, grams = check_weight(weight), _check_grams(weight, grams, damping)
    nearest = _nearest(values, format)
    order = grams.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    columns = _grouped(values, len(grams)).mT.to(torch.float64)
    columns = columns.gather(1, order[:, :, None].expand_as(columns))
    hessian, root = damped(_reordered(grams, order), damping)
    chosen, scale = _chosen(columns, hessian, root, nearest)
    back = order.argsort(dim=1)[:, :, None].expand_as(chosen)
    rows = chosen.gather(1, back).mT.reshape(values.shape)
    return _better_rows(values, grams, stored_tensor(rows.contiguous(), scale, format), nearest)


def weighted_error(weight: Tensor, grams: Tensor, quantized: StoredTensor) -> Tensor:
    """(w - q) G (w - q)^T of every row: float64, shape (O,); weight (O, F), grams (groups, F, F)."""
    error = _grouped(weight.to(torch.float64) - quantized.dequantize().to(torch.float64), len(grams))
    squared: Tensor = ((error @ grams.to(error)) * error).sum(2)
    return squared.flatten()


def _grouped(rows: Tensor, groups: int) -> Tensor:
    """(O, F) -> (groups, O / groups, F)."""
    split: Tensor = rows.unflatten(0, (groups, -1))
    return split


def _reordered(grams: Tensor, order: Tensor) -> Tensor:
    """Rows and columns of every matrix in the group's order, (groups, F)."""
    rows = grams.gather(1, order[:, :, None].expand_as(grams))
    return rows.gather(2, order[:, None].expand_as(grams))


def _check_grams(weight: Tensor, grams: Tensor, damping: float) -> Tensor:
    """The Gram matrices as float64 on the weight's device, exactly symmetric."""
    fits = weight.ndim == 2 and grams.ndim == 3 and tuple(grams.shape[1:]) == (weight.shape[1],) * 2
    if not fits or len(grams) == 0 or len(weight) % len(grams):
        raise CompressionError(
            f"gptq got a weight of shape {tuple(weight.shape)} and Gram matrices of shape {tuple(grams.shape)}; "
            "allowed are (O, F) and (groups, F, F) with O a multiple of groups."
        )
    negative = bool((grams.diagonal(dim1=1, dim2=2) < 0).any())
    if not bool(torch.isfinite(grams).all()) or negative or not damping >= 0:
        raise CompressionError(
            f"gptq got Gram matrices with values from {float(grams.min())} to {float(grams.max())} and damping "
            f"{damping}; allowed are finite values, diagonals of zero or more and damping of zero or more."
        )
    grams = grams.detach().to(weight.device, torch.float64)
    return (grams + grams.mT) / 2


def _nearest(values: Tensor, format: Format) -> StoredTensor:
    """Nearest rounding, with absolute-maximum scales: where the search starts and what it may not lose against."""
    if not isinstance(format, IntFormat):
        return minifloat.MinifloatTensor(minifloat.encode(values, format), format)
    scale = (values.abs().amax(1) / format.qmax).clamp_min(SMALLEST_SCALE)
    integers = (values / scale[:, None]).round().clamp(format.qmin, format.qmax)
    return QuantizedTensor(integers.to(torch.int8), scale, format)


def _chosen(columns: Tensor, hessian: Tensor, root: Tensor, start: StoredTensor) -> tuple[Tensor, Tensor | None]:
    """What is stored of the columns, (G, F, O), and the scales of integers, (G O,)."""
    if isinstance(start, QuantizedTensor):
        qmax, base = start.format.qmax, _grouped(start.scale.to(torch.float64), len(columns))
        integers, scale = _search(columns, hessian, root, base, qmax)
        integers, scale = _polish(columns, integers, scale, hessian, qmax)
        return integers.to(torch.int8), scale.float().flatten()
    format = start.format
    values, _ = compensated_rounding(columns, lambda column: minifloat.nearest(column, format), root)
    return minifloat.encode(values, format), None


def _search(columns: Tensor, hessian: Tensor, root: Tensor, base: Tensor, qmax: int) -> tuple[Tensor, Tensor]:
    """Integers (G, F, O) and scales (G, O): per row the best of a few scales, by the error of compensated rounding."""
    # With feedback, the error of column j counts 1 / root_jj**2: an estimate of the result without running the sweep.
    share = _best_share(columns, base, root.diagonal(dim1=1, dim2=2) ** -2, qmax)
    scales = torch.stack([_storable(base * share * multiple) for multiple in _MULTIPLES], dim=1)
    repeated, steps = columns.repeat(1, 1, scales.shape[1]), scales.flatten(1)
    values, error = compensated_rounding(repeated, lambda x: (x / steps).round_().clamp_(-qmax, qmax).mul_(steps), root)
    integers = values.div_(steps[:, None]).round_().unflatten(2, scales.shape[1:])
    best = error.view_as(scales).argmin(1, keepdim=True)
    chosen = best[:, None].expand(-1, columns.shape[1], -1, -1)
    return integers.gather(2, chosen).squeeze(2), scales.gather(1, best).squeeze(1)


def _best_share(columns: Tensor, base: Tensor, importance: Tensor, qmax: int) -> Tensor:
    """Per row the share of `base` with the least error of plain rounding, columns weighted by `importance` (G, F)."""
    best_error = torch.full_like(base, torch.inf)
    best_share = torch.ones_like(base)
    for share in _SHARES.tolist():
        scale = (base * share)[:, None]
        rounded = (columns / scale).round_().clamp_(-qmax, qmax).mul_(scale)
        error = (importance[:, None] @ rounded.sub_(columns).square_()).squeeze(1)
        best_share = torch.where(error < best_error, share, best_share)
        best_error = torch.minimum(error, best_error)
    return best_share


def _polish(columns: Tensor, integers: Tensor, scale: Tensor, hessian: Tensor, qmax: int) -> tuple[Tensor, Tensor]:
    """Coordinate descent on the integers and least-squares scales in turn; a row keeps a new scale only if it gains."""
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
    """The scale with the least error for given integers, (q H w) / (q H q), or the old one; `weighted` is H q."""
    fitted = (weighted * columns).sum(1) / (weighted * integers).sum(1)
    return _storable(torch.where(torch.isfinite(fitted) & (fitted > 0), fitted, scale))


def _storable(scale: Tensor) -> Tensor:
    """Rounds float64 scales to the float32 that is stored, so that the search sees the error of what is written."""
    return scale.float().clamp_min(SMALLEST_SCALE).to(torch.float64)


def _better_rows(weight: Tensor, grams: Tensor, first: StoredTensor, second: StoredTensor) -> StoredTensor:
    """Row by row the one with the smaller error, without damping; the second if they are equal."""
    take = weighted_error(weight, grams, first) < weighted_error(weight, grams, second)
    integers = torch.where(take[:, None], first.integers, second.integers)
    if first.scale is None or second.scale is None:
        return stored_tensor(integers, None, first.format)
    return stored_tensor(integers, torch.where(take, first.scale, second.scale), first.format)
