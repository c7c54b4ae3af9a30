"""Series approximation of convolution filters: bases, closed-form fits, the series convolution and its swapping.

The names below load on first use, so that ``basis.errors`` and ``basis.families`` cost no import of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from basis.errors import CompressionError
from basis.families import BASES

if TYPE_CHECKING:
    from basis.conv import SeriesConv2d
    from basis.least_squares import fit, reconstruct
    from basis.series import basis_matrix
    from basis.swap import swap_convolutions

__all__ = ["BASES", "CompressionError", "SeriesConv2d", "basis_matrix", "fit", "reconstruct", "swap_convolutions"]

_HOMES = {
    "SeriesConv2d": "basis.conv",
    "basis_matrix": "basis.series",
    "fit": "basis.least_squares",
    "reconstruct": "basis.least_squares",
    "swap_convolutions": "basis.swap",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
