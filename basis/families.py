"""The bases of the series, in decimal arithmetic of ``DIGITS`` digits: the same values on every machine.

A new basis is one entry in ``BASES``. The parametric families are in ``basis.parametric.families``.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Final, NamedTuple

DIGITS: Final = 100
PI: Final = Decimal(
    "3.14159265358979323846264338327950288419716939937510"
    "58209749445923078164062862089986280348253421170679821480865132823"
)


class Basis(NamedTuple):
    """A sequence of functions, and the interval over which the taps of a kernel are spread.

    Attributes:
        start: The first tap's place.
        end: The last tap's place.
        terms: (place, order) -> the first ``order`` functions at that place. Called with a precision of ``DIGITS``.
    """

    start: Decimal
    end: Decimal
    terms: Callable[[Decimal, int], list[Decimal]]


def cosine_terms(x: Decimal, order: int) -> list[Decimal]:
    """Return cos(i pi x) = T_i(cos(pi x)) for i = 0..order-1."""
    return chebyshev_terms(_cosine(PI * x), order)


def chebyshev_terms(x: Decimal, order: int) -> list[Decimal]:
    """Return T_i(x) for i = 0..order-1, by the recurrence T_i = 2 x T_{i-1} - T_{i-2}."""
    terms = [Decimal(1), x]
    while len(terms) < order:
        terms.append(2 * x * terms[-1] - terms[-2])
    return terms[:order]


def _cosine(x: Decimal) -> Decimal:
    """Sum the Taylor series of cos(x) until a term no longer changes the sum."""
    total, term, n = Decimal(0), Decimal(1), 0
    while total + term != total:
        total += term
        n += 2
        term *= -x * x / (n * (n - 1))
    return total


BASES: Final[dict[str, Basis]] = {
    # The places, in units of pi, stay clear of 0 and pi, where every cosine is flat.
    "cosine": Basis(Decimal("0.2"), Decimal("0.8"), cosine_terms),
    "chebyshev": Basis(Decimal(-1), Decimal(1), chebyshev_terms),
}
