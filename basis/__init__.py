"""Series approximation of convolution filters: bases, closed-form fits, the series convolution and its swapping."""

from basis.conv import SeriesConv2d
from basis.errors import CompressionError
from basis.fit import fit, reconstruct
from basis.series import BASES, basis_matrix
from basis.swap import swap_convolutions

__all__ = ["BASES", "CompressionError", "SeriesConv2d", "basis_matrix", "fit", "reconstruct", "swap_convolutions"]
