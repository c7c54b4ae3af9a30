"""The part of images, or of batches, that one of several processes takes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """Number ``rank`` of ``count`` parts, which are neighbours and differ in size by one at the most."""

    rank: int = 0
    count: int = 1

    def of(self, length: int) -> slice:
        """This part of so many things; where there are fewer than parts, the last ones are empty."""
        start, stop = (-(-length * rank // self.count) for rank in (self.rank, self.rank + 1))
        return slice(start, stop)

    def of_batch(self, length: int) -> slice:
        """This part of a training batch; a batch with fewer images than parts is taken whole for each of them.

        So no process has to train on nothing, and the mean of the gradients is still that of the batch.
        """
        return slice(0, length) if length < self.count else self.of(length)

    def weight(self, length: int) -> float:
        """What the mean over this part of a batch counts in the mean over all parts, so that every image counts alike.

        With parts of equal size it is 1.
        """
        mine = self.of_batch(length)
        return 1.0 if length < self.count else (mine.stop - mine.start) * self.count / length


WHOLE = Share()
