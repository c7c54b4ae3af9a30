import pytest
from scipy.stats import binomtest

from reports.intervals import wilson


@pytest.mark.parametrize(("right", "images"), [(0, 10), (10, 10), (355, 360), (9173, 10_000), (1, 3)])
def test_wilson_agrees_with_scipy(right: int, images: int) -> None:
    expected = binomtest(right, images).proportion_ci(method="wilson")
    assert wilson(100 * right / images, images) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-9)


@pytest.mark.parametrize(("top1", "images"), [(50.0, 0), (101.0, 10), (-1.0, 10)])
def test_wilson_refuses_what_is_no_share(top1: float, images: int) -> None:
    with pytest.raises(ValueError, match=r"wilson: got top1 .* 0 to 100 percent of 1 or more"):
        wilson(top1, images)
