"""The part of a set of images that one of several processes has, and how its sums become sums over all."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Portion:
    """Neighbouring images of a larger set, whose other images are with other processes.

    Attributes:
        first: Number of the first of these images in the whole set, from 0.
        count: How many these are, 1 or more.
        total: Images of the whole set.
        reduce: Gives a tensor's sum over all processes to each of them; every process calls it for the same tensors in
            the same order.
    """

    first: int
    count: int
    total: int
    reduce: Callable[[Tensor], Tensor]

    @classmethod
    def whole(cls, total: int) -> "Portion":
        """All images of the set: one process has them, and a sum is what it is."""
        return cls(0, total, total, lambda tensor: tensor)

    def rows(self, length: int) -> tuple[int, int]:
        """The number of the first, and how many there are in the whole set, of rows that these images are here.

        Args:
            length: Rows of a layer's input: the images, or a multiple where a network cuts them into pieces.
        """
        return self.first * length // self.count, self.total * length // self.count
