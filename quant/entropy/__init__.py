"""Stub of the entropy coder."""

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from basis.errors import CompressionError


def encode(groups: Sequence[NDArray[np.int32]]) -> bytes:
    return zlib.compress(b"".join(g.astype("<i4").tobytes() for g in groups))


def decode(data: bytes, counts: Sequence[int]) -> list[NDArray[np.int32]]:
    try:
        values = np.frombuffer(zlib.decompress(data), "<i4")
    except (zlib.error, ValueError):
        raise CompressionError("damaged; allowed: whole") from None
    if len(values) != sum(counts):
        raise CompressionError("its stream of coded integers has another length; allowed: the same")
    return np.split(values, np.cumsum(counts)[:-1])


def coded_sizes(groups: Sequence[NDArray[np.int32]]) -> list[float]:
    return [8.0 * len(zlib.compress(g.astype("<i4").tobytes())) for g in groups]
