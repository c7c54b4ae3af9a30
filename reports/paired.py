"""McNemar's exact test of two networks on the same images."""

import math


def mcnemar(lost: int, gained: int) -> float:
    """Return the two-sided p-value of McNemar's exact test (McNemar 1947).

    If both networks are equally good, the images that only one of them classifies correctly are split like tosses of a
    fair coin. The p-value is the probability of a split at least as uneven.

    Args:
        lost: Number of images that only the first network classifies correctly.
        gained: Number of images that only the second network classifies correctly.

    Raises:
        ValueError: A number is negative.
    """
    if min(lost, gained) < 0:
        raise ValueError(f"mcnemar: got {lost} lost and {gained} gained images; allowed: 0 or more")
    tosses = lost + gained
    tail = math.fsum(math.exp(_log_probability(heads, tosses)) for heads in range(min(lost, gained) + 1))
    return min(1.0, 2 * tail)


def _log_probability(heads: int, tosses: int) -> float:
    """Return the logarithm of the probability of so many heads; factorials themselves would overflow."""
    ways = math.lgamma(tosses + 1) - math.lgamma(heads + 1) - math.lgamma(tosses - heads + 1)
    return ways - tosses * math.log(2)
