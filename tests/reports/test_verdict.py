import pytest

from reports.verdict import Outcome, verdict_table, verdicts, wilson
from tests.support.reports import make_dataset

DENSE_3, DENSE_2 = (0.10, 90.2), (0.067, 83.1)


def judged(report, row, series: tuple[float, float], dense: list[tuple[float, float]], images: int | None = 10_000):
    rows = [row("cosine", "dense", 3, top1, size_mb=size) for size, top1 in dense]
    rows.append(row("cosine", "3,3,3,2", 4, series[1], size_mb=series[0]))
    data = report(rows, dataset=images and make_dataset("cifar10", 10, images))
    return verdicts(data)[0]


@pytest.mark.parametrize(
    ("series", "dense", "outcome"),
    [
        ((0.078, 91.2), [DENSE_3, DENSE_2], Outcome.WINS),
        ((0.078, 90.2), [DENSE_3, DENSE_2], Outcome.SMALLER),
        ((0.078, 90.7), [DENSE_3, DENSE_2], Outcome.SMALLER),
        ((0.120, 90.4), [DENSE_3, DENSE_2], Outcome.TIES),
        ((0.120, 90.0), [DENSE_3, DENSE_2], Outcome.TIES),
        ((0.120, 88.0), [DENSE_3, DENSE_2], Outcome.LOSES),
        ((0.078, 86.0), [DENSE_3, DENSE_2], Outcome.BETWEEN),
        ((0.120, 95.0), [DENSE_3, DENSE_2], Outcome.ABOVE),
        ((0.050, 80.0), [DENSE_3, DENSE_2], Outcome.BELOW),
        ((0.120, 95.0), [DENSE_3], Outcome.ABOVE),
        ((0.050, 80.0), [DENSE_3], Outcome.BELOW),
        ((0.050, 85.0), [DENSE_3, DENSE_2], Outcome.WINS),
        ((0.100, 91.2), [DENSE_3], Outcome.WINS),
        ((0.100, 90.2), [DENSE_3], Outcome.TIES),
        ((0.100, 88.0), [DENSE_3], Outcome.LOSES),
    ],
)
def test_outcome(report, row, series, dense, outcome) -> None:
    assert judged(report, row, series, dense).outcome is outcome


def test_few_test_images_take_the_win_away(report, row) -> None:
    assert judged(report, row, (0.078, 91.2), [DENSE_3], images=360).outcome is Outcome.SMALLER


def test_the_rows_on_either_side_are_named(report, row) -> None:
    verdict = judged(report, row, (0.078, 90.2), [DENSE_3, DENSE_2, (0.3, 92.0)])
    assert verdict.smaller is not None
    assert verdict.larger is not None
    assert (verdict.smaller.size_mb, verdict.larger.size_mb) == (0.067, 0.10)
    assert verdict.decisive is verdict.larger


def test_without_the_number_of_test_images_there_is_no_interval(report, row) -> None:
    assert judged(report, row, (0.078, 90.3), [DENSE_3], images=None).interval is None


def test_no_dense_rows_no_comparison(report, row) -> None:
    data = report([row("cosine", "3,3,3,2", 4, 90.2)])
    assert verdicts(data) == []
    assert verdict_table(data) == ""


def test_the_table_has_a_line_a_series_row(report, many, parse) -> None:
    titles, lines = parse(verdict_table(report(many(["cosine", "chebyshev"]))))
    assert len(lines) == 24
    assert len(titles) == len(lines[0])
    sizes = [float(line[1]) for line in lines]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(("right", "images"), [(0, 10), (10, 10), (355, 360), (9173, 10_000), (1, 3)])
def test_wilson_agrees_with_scipy(right: int, images: int) -> None:
    from scipy.stats import binomtest  # here, because it takes a second

    expected = binomtest(right, images).proportion_ci(method="wilson")
    assert wilson(100 * right / images, images) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-9)


@pytest.mark.parametrize(("top1", "images"), [(50.0, 0), (101.0, 10), (-1.0, 10)])
def test_wilson_refuses_impossible_proportions(top1: float, images: int) -> None:
    with pytest.raises(ValueError, match=rf"{top1} on {images} images.*allowed"):
        wilson(top1, images)
