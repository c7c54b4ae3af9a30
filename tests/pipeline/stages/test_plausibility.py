"""Warnings of a baseline that its normalization or its classes have spoiled."""

import pytest

from pipeline.models.claims import Claim
from pipeline.stages.plausibility import baseline_warnings


@pytest.mark.parametrize(
    ("top1", "images", "classes", "words"),
    [
        (33.33, 60, 3, "near chance"),
        (0.0, 18, 3, "below chance"),
        (50.0, 30, 3, "near chance"),
        (0.14, 50_000, 1000, "near chance"),
        (62.0, 10_000, 2, "near chance"),
        (14.0, 10_000, 10, "near chance"),
        (2.0, 10_000, 10, "below chance"),
    ],
)
@pytest.mark.parametrize("trained", [False, True])
def test_a_top1_near_chance_is_a_warning(top1, images, classes, words, trained):
    (warning,) = baseline_warnings(top1, images, classes, trained=trained)
    assert words in warning
    assert f"{top1:.2f}" in warning
    assert ("--mean" in warning) is not trained


@pytest.mark.parametrize(
    ("top1", "images", "classes"),
    [(91.7, 10_000, 10), (60.0, 60, 3), (70.0, 200, 2), (1.0, 50_000, 1000), (100.0, 1, 3), (100.0, 2, 2)],
)
def test_a_top1_clearly_above_chance_is_none(top1, images, classes):
    assert baseline_warnings(top1, images, classes, trained=False) == ()


CLAIM = Claim(69.758, "torchvision's V1")


def test_a_top1_far_below_the_stated_one_is_a_warning():
    (warning,) = baseline_warnings(41.0, 50_000, 1000, trained=False, claim=CLAIM)
    assert "69.76" in warning
    assert "--mean" in warning
    assert baseline_warnings(66.0, 50_000, 1000, trained=False, claim=CLAIM) == ()
    assert baseline_warnings(55.0, 40, 1000, trained=False, claim=CLAIM) == ()
