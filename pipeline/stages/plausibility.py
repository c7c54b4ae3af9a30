"""Warn of a baseline whose Top-1 is near chance, or far below the published one."""

from typing import Final

from reports.verdict import wilson

SHORTFALL: Final = 5.0
"""Points of Top-1 below the published one from which a warning is given; other resizing costs about one."""
_USUAL: Final = "this is nearly always the normalization (--mean, --std) or the order of the classes"


def baseline_warnings(
    top1: float, images: int, classes: int, *, trained: bool, published: float | None = None
) -> tuple[str, ...]:
    """Return sentences about a Top-1 that a trained network should not have.

    A Top-1 is near chance, 100 / classes, in two cases. Its 95 % interval reaches down to chance, or it is at most 1.5
    times chance (62.5 for two classes).

    Args:
        top1: Top-1 of the uncompressed network, in percent.
        images: Number of test images.
        classes: Number of classes.
        trained: True if this run trained the network; False if its weights were loaded.
        published: Top-1 in percent that the source of the weights publishes for these test images; None if not known.
    """
    chance = 100 / classes
    low, high = wilson(top1, images)
    if low <= chance or top1 <= chance + min(0.5 * chance, 0.25 * (100 - chance)):
        where = "below chance" if high < chance else "near chance"
        cause = f"{_USUAL}, or the weights are not trained"
        if trained:
            cause = "this run trained it, for too few steps, or on images or labels that are not right"
        return (f"the baseline's Top-1 of {top1:.2f} is {where}, {chance:.4g} for {classes} classes: {cause}",)
    if published is not None and high < published - SHORTFALL:
        return (f"the baseline's Top-1 of {top1:.2f} is far below the {published:.2f} of its publisher: {_USUAL}",)
    return ()
