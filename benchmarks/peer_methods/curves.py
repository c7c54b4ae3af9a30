"""Bytes of a method at a given Top-1, along the upper envelope of its rows."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

LEVELS = (88.0, 89.0, 90.0, 90.5, 91.0, 91.3)


class Point(NamedTuple):
    """Size of a file in bytes, and Top-1 in percent."""

    bytes: int
    top1: float


class Level(NamedTuple):
    """Bytes of both methods at one Top-1; None if the rows of a method do not enclose it.

    Attributes:
        top1: In percent.
        peer: Bytes of the peer.
        ours: Bytes of this project.
    """

    top1: float
    peer: float | None
    ours: float | None

    @property
    def ratio(self) -> float | None:
        """Our bytes divided by the peer's."""
        return None if self.peer is None or self.ours is None else self.ours / self.peer


def envelope(points: Iterable[Point]) -> list[Point]:
    """Return the points that no point of equal or smaller size reaches in Top-1, in order of size."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.bytes, -point.top1)):
        if not best or point.top1 > best[-1].top1:
            best.append(point)
    return best


def bytes_at(top1: float, points: Iterable[Point]) -> float | None:
    """Interpolate the logarithm of bytes linearly in Top-1 along the envelope.

    Args:
        top1: In percent.
        points: All rows of a method.

    Returns:
        Bytes; None if no two points of the envelope enclose `top1`.
    """
    for low, high in itertools.pairwise(envelope(points)):
        if low.top1 <= top1 <= high.top1:
            share = (top1 - low.top1) / (high.top1 - low.top1)
            return math.exp((1 - share) * math.log(low.bytes) + share * math.log(high.bytes))
    return None


def levels(peer: Sequence[Point], ours: Sequence[Point], wanted: Sequence[float] = LEVELS) -> list[Level]:
    """Compare two methods at each Top-1."""
    return [Level(top1, bytes_at(top1, peer), bytes_at(top1, ours)) for top1 in wanted]
