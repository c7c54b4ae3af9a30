"""The slice of images, or of batches, that one rank computes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RankSlice:
    """Slice ``rank`` of ``count`` contiguous slices, whose lengths differ by one at most."""

    rank: int = 0
    count: int = 1

    def of(self, length: int) -> slice:
        """Return this rank's slice of ``length`` items; with fewer items than ranks, some slices are empty."""
        start, stop = (-(-length * rank // self.count) for rank in (self.rank, self.rank + 1))
        return slice(start, stop)

    def of_batch(self, length: int) -> slice:
        """Return this rank's slice of a training batch; every rank takes a batch of under two images a rank whole.

        No rank then trains on an empty slice, or normalizes by a single image. The mean gradient over the ranks is
        still the gradient of the batch.
        """
        return self.of(length) if self._divides(length) else slice(0, length)

    def weight(self, length: int) -> float:
        """Return the factor for this rank's mean loss, so that every image of the batch has the same weight.

        With slices of equal length it is 1.

        Example:
            >>> [RankSlice(rank, 2).weight(5) for rank in range(2)]
            [0.8, 1.2]
        """
        mine = self.of(length)
        return (mine.stop - mine.start) * self.count / length if self._divides(length) else 1.0

    def _divides(self, length: int) -> bool:
        return length >= 2 * self.count


WHOLE = RankSlice()
