"""The 95 % interval of a Top-1 measured on a finite number of test images."""

import math

Z_95 = 1.959963984540054


def wilson(top1: float, images: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a binomial proportion (Wilson 1927), in percent.

    Unlike the normal interval it stays inside 0 to 100 and keeps its coverage near the ends, where Top-1 often is.

    Args:
        top1: Measured Top-1, in percent.
        images: Number of test images it was measured on.
        z: Quantile of the normal distribution; the default gives 95 %.

    Returns:
        The lower and the upper end, in percent.

    Raises:
        ValueError: `images` is not positive, or `top1` is not between 0 and 100.
    """
    if images < 1 or not 0 <= top1 <= 100:
        raise ValueError(f"wilson: got top1 {top1} on {images} images; 0 to 100 percent of 1 or more are allowed.")
    share = top1 / 100
    scale = 1 + z * z / images
    centre = (share + z * z / (2 * images)) / scale
    half = z * math.sqrt(share * (1 - share) / images + z * z / (4 * images * images)) / scale
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)
