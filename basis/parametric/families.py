"""The parametric families by name, and the ranges of their parameters; imports nothing heavy.

A new family is one entry in ``FAMILIES`` and the module that it names.
"""

from typing import Final, NamedTuple

LARGEST_ORDER: Final = 9
"""Largest order of a FracSRF derivative. The authors' code has the Hermite polynomials 0 to 9."""


class Parameter(NamedTuple):
    """A parameter of a slice, and its closed range. The limits and their middle are exact in float32.

    Attributes:
        name: The symbol in docs/method.md.
        low: Least value.
        high: Largest value.
    """

    name: str
    low: float
    high: float

    @property
    def middle(self) -> float:
        """Return the middle of the range; a stored value is the parameter minus it."""
        return (self.low + self.high) / 2


class Family(NamedTuple):
    """A family of kernels ``a p(y) q(x)``: the amplitude ``a`` times two profiles with more parameters.

    Attributes:
        shape: The parameters of the profiles. A slice stores the amplitude and then these.
        home: A module with the functions of ``basis.parametric.evaluation.Profiles``.
    """

    shape: tuple[Parameter, ...]
    home: str

    @property
    def values(self) -> int:
        """Return the number of values that a slice stores."""
        return 1 + len(self.shape)


FAMILIES: Final[dict[str, Family]] = {
    "fracsrf": Family(
        (Parameter("vx", 0.0, float(LARGEST_ORDER)), Parameter("vy", 0.0, float(LARGEST_ORDER))),
        "basis.parametric.fracsrf",
    ),
    "fractional": Family(
        (
            Parameter("a", 0.0, 2.0),
            Parameter("x0", -3.0, 3.0),
            Parameter("y0", -3.0, 3.0),
            Parameter("u", 0.125, 4.125),
        ),
        "basis.parametric.fractional",
    ),
}


def is_parametric(basis: str) -> bool:
    """Return True if a choice of ``--basis`` is a parametric family, and False if it is a series."""
    return basis in FAMILIES
