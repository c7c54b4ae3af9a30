"""Kernels of parametric families, written from docs/artifact.md alone: numpy and the standard library."""

import decimal
import math

import numpy as np

FAMILIES = ("fracsrf", "fractional")


def filters(values: np.ndarray, basis: str, kernel: list[int]) -> np.ndarray:
    """Kernels (O, I, kh, kw) of stored values (O, I, 1, P)."""
    slices = values.astype(np.float64)[:, :, 0]
    rows, columns = (fracsrf if basis == "fracsrf" else fractional)(slices, *kernel)
    scaled = slices[..., 0, None] * rows
    return (scaled[..., :, None] * columns[..., None, :]).astype(np.float32)


def parameter(slices: np.ndarray, place: int, middle: float, half: float) -> np.ndarray:
    return np.minimum(np.maximum(slices[..., place], -half), half) + middle


def fracsrf(slices: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    vx, vy = (parameter(slices, place, 4.5, 4.5) for place in (1, 2))
    return interpolated(vy, height), interpolated(vx, width)


def interpolated(orders: np.ndarray, taps: int) -> np.ndarray:
    table, n = gaussian_derivatives(taps), np.minimum(np.floor(orders), 8).astype(int)
    return table[n] + (orders - n)[..., None] * (table[n + 1] - table[n])


def gaussian_derivatives(taps: int) -> np.ndarray:
    """By the coefficients of the Hermite polynomials: another way to the same values."""
    if taps == 1:
        return np.ones((10, 1))
    rows = []
    with decimal.localcontext(decimal.Context(prec=120)):
        places = [decimal.Decimal(4 * i) / (taps - 1) - 2 for i in range(taps)]
        for n in range(10):
            values = [(-1) ** n * hermite(n, x) * (-x * x / 2).exp() for x in places]
            norm = sum(value * value for value in values).sqrt()
            rows.append([int((value / norm * 2**32).to_integral_value()) for value in values])
    return np.array(rows, np.float64) / 2.0**32


def hermite(n: int, x: decimal.Decimal) -> decimal.Decimal:
    total = decimal.Decimal(0)
    for m in range(n // 2 + 1):
        count = math.factorial(n) // (math.factorial(m) * math.factorial(n - 2 * m) * 2**m)
        total += (-1) ** m * count * math.prod([x] * (n - 2 * m))
    return total


def fractional(slices: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    a, x0, y0, u = (
        parameter(slices, place, middle, half)
        for place, (middle, half) in enumerate(((1.0, 1.0), (0.0, 3.0), (0.0, 3.0), (2.125, 2.0)), start=1)
    )
    rows = np.stack([gaussian(s - (height - 1) / 2 - y0, u) for s in range(height)], axis=-1)
    columns = []
    for t in range(width):
        weight = np.ones_like(a)
        total = weight * gaussian(t - (width - 1) / 2 - x0, u)
        for j in range(1, 15):
            weight = (weight * ((j - 1) - a)) / j
            total = total + weight * gaussian((t - (width - 1) / 2 - j / 2) - x0, u)
        columns.append(total)
    return normalized(rows), normalized(np.stack(columns, axis=-1))


def normalized(values: np.ndarray) -> np.ndarray:
    total = values[..., 0] * values[..., 0]
    for tap in range(1, values.shape[-1]):
        total = total + values[..., tap] * values[..., tap]
    return values / np.sqrt(total + 2.0**-200)[..., None]


def gaussian(distance: np.ndarray, u: np.ndarray) -> np.ndarray:
    z = np.maximum(-(distance * distance) * u, -700.0)
    n = np.rint(z * float.fromhex("0x1.71547652b82fep+0"))
    t = (z - n * float.fromhex("0x1.62e42feep-1")) - n * float.fromhex("0x1.a39ef35793c76p-33")
    polynomial = np.full_like(t, 1 / math.factorial(13))
    for k in range(12, -1, -1):
        polynomial = polynomial * t
        polynomial = polynomial + 1 / math.factorial(k)
    return np.ldexp(polynomial, n.astype(int))
