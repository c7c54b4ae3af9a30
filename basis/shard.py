"""The calibration shard of one rank, and how its sums become sums over all ranks."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class CalibrationShard:
    """Neighbouring images of a larger set, whose other images are on other ranks.

    Attributes:
        first: Index of the first image in the whole set, from 0.
        count: Number of images, 1 or more.
        total: Number of images of the whole set.
        reduce: Returns the sum of a tensor over all ranks. Every rank calls it for the same tensors in the same order.
    """

    first: int
    count: int
    total: int
    reduce: Callable[[Tensor], Tensor]

    @classmethod
    def whole(cls, total: int) -> "CalibrationShard":
        """Return the shard of a single rank that holds all images; a sum is then the tensor itself."""
        return cls(0, total, total, lambda tensor: tensor)

    def rows(self, length: int) -> tuple[int, int]:
        """Return the index of the first row of this shard and the number of rows of the whole set.

        Args:
            length: Rows of a layer's input on this rank: the images, or a multiple if the network cuts them into tiles.
        """
        return self.first * length // self.count, self.total * length // self.count
