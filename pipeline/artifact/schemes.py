"""How a layer's values become codes and scales: a number format is one class and one entry in ``SCHEMES``."""

import math
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from basis.errors import CompressionError
from quant.formats import IntFormat, QuantizedTensor
from quant.packing import pack, packed_size, unpack


class Scheme(Protocol):
    """What the artifact needs of a number format; ``bits`` is the width as the user gives it."""

    def code_bytes(self, bits: int, shape: Sequence[int]) -> int:
        """Bytes that the codes of so many values take."""

    def scales(self, shape: Sequence[int]) -> int:
        """How many float32 scales go with them."""

    def encode(self, values: QuantizedTensor) -> tuple[Tensor, Tensor]:
        """Values -> codes, uint8, and scales, float32, both one-dimensional."""

    def decode(self, codes: Tensor, scales: Tensor, bits: int, shape: Sequence[int]) -> QuantizedTensor:
        """The inverse.

        Raises:
            CompressionError: A code or a scale is not allowed.
        """


class IntScheme:
    """Symmetric integers of ``bits`` bits and one scale per output channel."""

    def code_bytes(self, bits: int, shape: Sequence[int]) -> int:
        """See ``Scheme``."""
        return packed_size(math.prod(shape), bits)

    def scales(self, shape: Sequence[int]) -> int:
        """See ``Scheme``."""
        return shape[0]

    def encode(self, values: QuantizedTensor) -> tuple[Tensor, Tensor]:
        """See ``Scheme``."""
        return pack(values.integers, values.format.bits), values.scale

    def decode(self, codes: Tensor, scales: Tensor, bits: int, shape: Sequence[int]) -> QuantizedTensor:
        """See ``Scheme``."""
        return QuantizedTensor(unpack(codes, bits, shape), scales, IntFormat(bits))


SCHEMES: dict[str, Scheme] = {"int": IntScheme()}


def scheme_named(name: str) -> Scheme:
    """Find a number format.

    Raises:
        CompressionError: There is none of that name.
    """
    if name not in SCHEMES:
        raise CompressionError(f"its number format {name!r} is unknown; allowed: {', '.join(SCHEMES)}")
    return SCHEMES[name]


def scheme_of(values: QuantizedTensor) -> str:
    """The name of the number format that values are in."""
    return "int"
