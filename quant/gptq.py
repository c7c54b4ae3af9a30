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
from quant.sweeps import compensated_rounding, descend, inverse_root

# Scales as shares of absolute maximum / qmax: a clipped outlier often costs less than a coarse step.
_SHARES = torch.linspace(0.30, 1.05, 51, dtype=torch.float64).flip(0)
# Around the share that a cheap estimate prefers, these multiples are compared by the error of the rounding itself.
_MULTIPLES = (1.0, 0.85, 0.92, 1.08, 1.16)
_SWEEPS = 2
_REFITS = 1


def gptq(weight: Tensor, gram: Tensor, format: Format, *, damping: float = 0.01) -> StoredTensor:
    """Rounds a weight so that its Gram-weighted error is small; in no row is it larger than that of nearest rounding.

    Args:
        weight: (O, F) floating point.
        gram: (F, F), sum or mean of x x^T over the layer's inputs x; positive semi-definite,
            may be singular.
        format: integers or minifloats.
        damping: share of the mean diagonal that is added to the diagonal, so that few images are not overfitted.

    Returns:
        integers (O, F) and scales (O,), or minifloats (O, F), on the weight's device.

    Raises:
        CompressionError: if the shapes do not match, values are not finite, or the Gram matrix or the damping is
            negative.
    """
    values, gram = check_weight(weight), _check_gram(weight, gram, damping)
    nearest = _nearest(values, format)
    order = gram.diagonal().argsort(descending=True, stable=True)
    columns = values.t().to(torch.float64)[order]
    hessian, root = _damped(gram[order][:, order], damping)
    integers, scale = _chosen(columns, hessian, root, nearest)
    chosen = stored_tensor(integers[order.argsort()].t().contiguous(), scale, format)
    return _better_rows(values, gram, chosen, nearest)


def grouped_gptq(weight: Tensor, grams: Tensor, format: Format, *, damping: float = 0.01) -> StoredTensor:
    """Rounds the weight of a grouped or depthwise convolution: group k of the rows with Gram matrix k.

    Args:
        weight: (O, F); O is a multiple of the number of groups, rows of a group are neighbours.
        grams: (groups, F, F).
        format: integers or minifloats.
        damping: as in `gptq`.

    Returns:
        integers (O, F) and scales (O,), or minifloats (O, F).

    Raises:
        CompressionError: as `gptq`, or if the rows cannot be split evenly.
    """
    if grams.ndim != 3 or len(grams) == 0 or weight.ndim != 2 or len(weight) % len(grams):
        raise CompressionError(
            f"grouped_gptq got a weight of shape {tuple(weight.shape)} and Gram matrices of shape "
            f"{tuple(grams.shape)}; allowed are (O, F) and (groups, F, F) with O a multiple of groups."
        )
    pairs = zip(weight.chunk(len(grams)), grams, strict=True)
    parts = [gptq(rows, gram, format, damping=damping) for rows, gram in pairs]
    scales = [part.scale for part in parts if part.scale is not None]
    return stored_tensor(torch.cat([p.integers for p in parts]), torch.cat(scales) if scales else None, format)


def weighted_error(weight: Tensor, gram: Tensor, quantized: StoredTensor) -> Tensor:
    """(w - q) G (w - q)^T of every row: float64, shape (O,); weight (O, F), gram (F, F)."""
    error = weight.to(torch.float64) - quantized.dequantize().to(torch.float64)
    return ((error @ gram.to(error)) * error).sum(1)


def _check_gram(weight: Tensor, gram: Tensor, damping: float) -> Tensor:
    """The Gram matrix as float64 on the weight's device, exactly symmetric."""
    if weight.ndim != 2 or tuple(gram.shape) != (weight.shape[1], weight.shape[1]):
        raise CompressionError(
            f"gptq got a weight of shape {tuple(weight.shape)} and a Gram matrix of shape {tuple(gram.shape)}; "
            "allowed are (O, F) and (F, F)."
        )
    if not bool(torch.isfinite(gram).all()) or bool((gram.diagonal() < 0).any()) or not damping >= 0:
        raise CompressionError(
            f"gptq got a Gram matrix with values from {float(gram.min())} to {float(gram.max())} and damping "
            f"{damping}; allowed are finite values, a diagonal of zero or more and damping of zero or more."
        )
    gram = gram.detach().to(weight.device, torch.float64)
    return (gram + gram.t()) / 2


def _nearest(values: Tensor, format: Format) -> StoredTensor:
    """Nearest rounding, with absolute-maximum scales: where the search starts and what it may not lose against."""
    if not isinstance(format, IntFormat):
        return minifloat.MinifloatTensor(minifloat.encode(values, format), format)
    scale = (values.abs().amax(1) / format.qmax).clamp_min(SMALLEST_SCALE)
    integers = (values / scale[:, None]).round().clamp(format.qmin, format.qmax)
    return QuantizedTensor(integers.to(torch.int8), scale, format)


def _damped(gram: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """The Gram matrix with a mean diagonal of one and damping, and `inverse_root` of it.

    Inputs that are always zero are left with the damping alone: they are rounded to nearest. A matrix that is not
    positive definite in float64 gets ten times the damping until it is.
    """
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    mean = gram.diagonal().mean()
    unit = gram / mean if float(mean) > 0 else identity
    while damping <= 1:
        hessian = unit + damping * identity
        root = inverse_root(hessian)
        if root is not None:
            return hessian, root
        damping = max(10 * damping, 1e-6)
    raise CompressionError(
        f"gptq got a Gram matrix with eigenvalues from {float(torch.linalg.eigvalsh(unit)[0]):.1e} times the mean "
        "diagonal; allowed is a positive semi-definite matrix."
    )


def _chosen(columns: Tensor, hessian: Tensor, root: Tensor, start: StoredTensor) -> tuple[Tensor, Tensor | None]:
    """What is stored of the columns, (F, O), and the scales (O,) of integers."""
    if isinstance(start, QuantizedTensor):
        qmax = start.format.qmax
        integers, scale = _search(columns, hessian, root, start.scale.to(torch.float64), qmax)
        integers, scale = _polish(columns, integers, scale, hessian, qmax)
        return integers.to(torch.int8), scale.float()
    format = start.format
    values, _ = compensated_rounding(columns, lambda column: minifloat.nearest(column, format), root)
    return minifloat.encode(values, format), None


def _search(columns: Tensor, hessian: Tensor, root: Tensor, base: Tensor, qmax: int) -> tuple[Tensor, Tensor]:
    """Integers (F, O) and scales (O,): per row the best of a few scales, by the error after compensated rounding."""
    # With feedback, the error of column j counts 1 / root_jj**2: an estimate of the result without running the sweep.
    share = _best_share(columns, base, root.diagonal() ** -2, qmax)
    scales = torch.stack([_storable(base * share * multiple) for multiple in _MULTIPLES])
    repeated = columns.repeat(1, len(scales))
    steps = scales.flatten()
    values, error = compensated_rounding(repeated, lambda x: (x / steps).round_().clamp_(-qmax, qmax).mul_(steps), root)
    integers = values.div_(steps).round_()
    best = error.reshape(scales.shape).argmin(0)
    rows = torch.arange(len(base), device=base.device)
    return integers.reshape(len(columns), *scales.shape)[:, best, rows], scales[best, rows]


def _best_share(columns: Tensor, base: Tensor, importance: Tensor, qmax: int) -> Tensor:
    """Per row the share of `base` with the least error of plain rounding, columns weighted by `importance` (F,)."""
    best_error = torch.full_like(base, torch.inf)
    best_share = torch.ones_like(base)
    for share in _SHARES.tolist():
        scale = base * share
        error = importance @ (columns - (columns / scale).round_().clamp_(-qmax, qmax) * scale).square_()
        best_share = torch.where(error < best_error, share, best_share)
        best_error = torch.minimum(error, best_error)
    return best_share


def _polish(columns: Tensor, integers: Tensor, scale: Tensor, hessian: Tensor, qmax: int) -> tuple[Tensor, Tensor]:
    """Coordinate descent on the integers and least-squares scales in turn; a row keeps a new scale only if it gains."""
    target = hessian @ columns
    integers, slope = descend(integers, target - hessian @ integers * scale, scale, hessian, qmax, _SWEEPS)
    error = ((columns - integers * scale) * slope).sum(0)
    for _ in range(_REFITS):
        weighted = (target - slope) / scale
        new_scale = _refitted(columns, integers, weighted, scale)
        new_integers, new_slope = descend(integers, target - weighted * new_scale, new_scale, hessian, qmax, _SWEEPS)
        new_error = ((columns - new_integers * new_scale) * new_slope).sum(0)
        gains = new_error < error
        integers, slope = torch.where(gains, new_integers, integers), torch.where(gains, new_slope, slope)
        scale, error = torch.where(gains, new_scale, scale), torch.minimum(error, new_error)
    return integers, scale


def _refitted(columns: Tensor, integers: Tensor, weighted: Tensor, scale: Tensor) -> Tensor:
    """The scale with the least error for given integers, (q H w) / (q H q), or the old one; `weighted` is H q."""
    fitted = (weighted * columns).sum(0) / (weighted * integers).sum(0)
    return _storable(torch.where(torch.isfinite(fitted) & (fitted > 0), fitted, scale))


def _storable(scale: Tensor) -> Tensor:
    """Rounds float64 scales to the float32 that is stored, so that the search sees the error of what is written."""
    return scale.float().clamp_min(SMALLEST_SCALE).to(torch.float64)


def _better_rows(weight: Tensor, gram: Tensor, first: StoredTensor, second: StoredTensor) -> StoredTensor:
    """Row by row the one with the smaller error, without damping; the second if they are equal."""
    take = weighted_error(weight, gram, first) < weighted_error(weight, gram, second)
    integers = torch.where(take[:, None], first.integers, second.integers)
    if first.scale is None or second.scale is None:
        return stored_tensor(integers, None, first.format)
    return stored_tensor(integers, torch.where(take, first.scale, second.scale), first.format)
