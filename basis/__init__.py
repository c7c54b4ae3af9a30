"""Series approximation of convolution filters: bases, closed-form fits, the series convolution and its swapping.

The names below load when first asked for, so that ``basis.errors`` and ``basis.families`` cost no import of torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from basis.errors import CompressionError
from basis.families import BASES

if TYPE_CHECKING:
    from basis.conv import SeriesConv2d
    from basis.fit import fit, reconstruct
    from basis.series import basis_matrix
    from basis.swap import swap_convolutions

__all__ = ["BASES", "CompressionError", "SeriesConv2d", "basis_matrix", "fit", "reconstruct", "swap_convolutions"]

_HOMES = {
    "SeriesConv2d": "basis.conv",
    "basis_matrix": "basis.series",
    "fit": "basis.fit",
    "reconstruct": "basis.fit",
    "swap_convolutions": "basis.swap",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


class _Package(ModuleType):
    """Keeps the name ``fit`` for the function, which the import of the module ``basis.fit`` would otherwise take."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value.fit if name == "fit" and isinstance(value, ModuleType) else value)


sys.modules[__name__].__class__ = _Package
