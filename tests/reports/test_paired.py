import pytest

from reports.paired import mcnemar


@pytest.mark.parametrize(("lost", "gained"), [(0, 1), (3, 0), (6, 2), (2, 6), (5, 5), (40, 71), (2_000, 2_150)])
def test_it_agrees_with_the_binomial_test_of_scipy(lost: int, gained: int) -> None:
    from scipy.stats import binomtest  # here, because it takes a second

    expected = binomtest(lost, lost + gained, 0.5).pvalue
    assert mcnemar(lost, gained) == pytest.approx(expected, rel=1e-8)


def test_equal_predictions_are_no_difference() -> None:
    assert mcnemar(0, 0) == 1.0


def test_large_counts_neither_overflow_nor_leave_the_range() -> None:
    assert 0.0 <= mcnemar(50_000, 0) < 1e-300
    assert mcnemar(25_000, 25_000) == 1.0


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match=r"-1 lost and 2 gained.*allowed"):
        mcnemar(-1, 2)
