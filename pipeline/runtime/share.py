"""The part of images, or of batches, that one of several processes takes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RankSlice:
    """Number ``rank`` of ``count`` parts, which are neighbours and differ in size by one at the most."""

    rank: int = 0
    count: int = 1

    def of(self, length: int) -> slice:
        """This part of so many things; where there are fewer than parts, the last ones are empty."""
        start, stop = (-(-length * rank // self.count) for rank in (self.rank, self.rank + 1))
        return slice(start, stop)

    def of_batch(self, length: int) -> slice:
        """This part of a training batch; one with fewer than two images for each part is taken whole by all of them.

        So no process trains on nothing, or normalizes by a single image, and the mean of the gradients is still that of
        the batch.
        """
        return self.of(length) if self._divides(length) else slice(0, length)

    def weight(self, length: int) -> float:
        """What the mean over this part of a batch counts in the mean over all parts, so that every image counts alike.

        With parts of equal size it is 1.
        """
        mine = self.of(length)
        return (mine.stop - mine.start) * self.count / length if self._divides(length) else 1.0

    def _divides(self, length: int) -> bool:
        return length >= 2 * self.count


WHOLE = RankSlice()
