"""Load quantization backends by name; each imports its library at its first use."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from torch import Tensor

from basis.errors import CompressionError
from quant.fake_quantizer import FakeQuantizer
from quant.registry import BACKENDS
from quant.schemes import FixedTensor, Format


class Backend(Protocol):
    """Functions of a backend module: symmetric integers with one scale per output channel (axis 0).

    Brevitas also has minifloats, which have no scale.
    """

    def quantize(self, weight: Tensor, format: Format, scale: Tensor | None = None) -> FixedTensor:
        """Round a weight to the nearest values of a number format.

        Args:
            weight: Floating point, shape (out_channels, ...).
            format: Integers or, with Brevitas, minifloats.
            scale: Of integers: (out_channels,), values of ``quant.grid``, used unchanged; None takes each channel's
                absolute maximum / qmax on the grid, see ``quant.formats.nearest_scale``.

        Raises:
            CompressionError: The backend lacks the format. The weight or the scale has a wrong shape, or a scale is
                not on the grid.
            NumericalError: A value of the weight or the scale is not finite.
        """

    def fake_quantizer(self, weight: Tensor, format: Format, scale: Tensor | None = None) -> FakeQuantizer:
        """Create a trainable fake quantizer for this weight, on its device; it starts from the scales of ``quantize``.

        Arguments and errors are those of ``quantize``.
        """


def get_backend(name: str) -> Backend:
    """Load a backend.

    Raises:
        CompressionError: There is none of that name.
    """
    if name not in BACKENDS:
        raise CompressionError(f"There is no backend named {name!r}; allowed: {', '.join(BACKENDS)}")
    return cast(Backend, import_module(BACKENDS[name]))
