"""Parse the options that describe images: their normalization and their size."""

import math
import re
from typing import Final

from pipeline.errors import OptionsError
from pipeline.options.values import items, shown

MOST_PIXELS: Final = 16384
"""Largest height and width of images."""
_LEAST_STD: Final = 1e-6
"""Least standard deviation: images are divided by it in float32."""


def parse_mean(value: object) -> tuple[float, ...]:
    """Parse the mean per channel, for values in 0..1; an empty list selects the network's.

    Raises:
        OptionsError: A value is not a number of 0 to 1.
    """
    return _parse("--mean", value, least=0.0)


def parse_std(value: object) -> tuple[float, ...]:
    """Parse the standard deviation per channel, for values in 0..1; an empty list selects the network's.

    Raises:
        OptionsError: A value is not a number from ``_LEAST_STD`` to 1.
    """
    return _parse("--std", value, least=_LEAST_STD)


def parse_image_size(value: object) -> tuple[int, int]:
    """Parse a height and a width in pixels; one number is both.

    Raises:
        OptionsError: They are not one or two whole numbers of 1 to ``MOST_PIXELS``.
    """
    tokens = items(value)
    if len(tokens) not in (1, 2) or not all(
        re.fullmatch(r"[0-9]{1,6}", t) and 1 <= int(t) <= MOST_PIXELS for t in tokens
    ):
        raise OptionsError(
            f"--image-size: got {shown(value)}; allowed: a side of 1 to {MOST_PIXELS} pixels, or height and width with "
            "a comma as in 224,160"
        )
    return int(tokens[0]), int(tokens[-1])


def _parse(flag: str, value: object, least: float) -> tuple[float, ...]:
    if value in ((), []):
        return ()
    numbers = [_number(token) for token in items(value)]
    if not all(least <= number <= 1 for number in numbers):
        raise OptionsError(
            f"{flag}: got {shown(value)}; allowed: one number for each channel or one for all, with commas, each "
            f"{least:g} to 1, for pixel values of 0 to 1"
        )
    return tuple(numbers)


def _number(token: str) -> float:
    try:
        return float(token)
    except ValueError:
        return math.nan
