"""Warn of a baseline whose Top-1 is near chance, or far below the one that its source states."""

from typing import Final

from pipeline.models.claims import Claim
from reports.verdict import near_chance, wilson

SHORTFALL: Final = 5.0
"""Points of Top-1 below the stated one from which a warning is given; other resizing costs about one."""
_USUAL: Final = "this is nearly always the normalization (--mean, --std) or the order of the classes"


def baseline_warnings(
    top1: float, images: int, classes: int, *, trained: bool, claim: Claim | None = None
) -> tuple[str, ...]:
    """Return sentences about a Top-1 that a trained network should not have.

    It is near chance, as ``reports.verdict.near_chance`` defines it, or far below the stated one.

    Args:
        top1: Top-1 of the uncompressed network, in percent.
        images: Number of test images.
        classes: Number of classes.
        trained: True if this run trained the network; False if its weights were loaded.
        claim: Top-1 that the source of the weights states for such images; None if it is not known.
    """
    chance, (_, high) = 100 / classes, wilson(top1, images)
    if near_chance(top1, images, classes):
        where = "below chance" if high < chance else "near chance"
        cause = f"{_USUAL}, or the weights are not trained"
        if trained:
            cause = "this run trained it, for too few steps, or on images or labels that are not right"
        return (f"the baseline's Top-1 of {top1:.2f} is {where}, {chance:.4g} for {classes} classes: {cause}",)
    if claim is not None and high < claim.top1 - SHORTFALL:
        return (f"the baseline's Top-1 of {top1:.2f} is far below the {claim.top1:.2f} of {claim.source}: {_USUAL}",)
    return ()
