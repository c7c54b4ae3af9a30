import pytest

from pipeline.gate import judge

ROWS = [
    {"basis": "cosine", "config": "3,3,3,2", "bits": 8, "top1_quant": 91.5, "size_mb": 0.15},
    {"basis": "chebyshev", "config": "3,2,2,2", "bits": 4, "top1_quant": 89.25, "size_mb": 0.0625},
]


def test_without_limits_nothing_is_judged() -> None:
    assert judge(ROWS, 91.73) == {"max_drop": None, "max_size_mb": None, "passed": None, "failures": []}


def test_without_rows_nothing_is_judged() -> None:
    assert judge([], 91.73, max_drop=1) == {"max_drop": 1, "max_size_mb": None, "passed": None, "failures": []}


@pytest.mark.parametrize("limits", [{"max_drop": 2.48}, {"max_size_mb": 0.15}, {"max_drop": 3, "max_size_mb": 1}])
def test_rows_at_or_within_the_limits_pass(limits: dict[str, float]) -> None:
    gate = judge(ROWS, 91.73, **limits)
    assert (gate["passed"], gate["failures"]) == (True, [])


def test_each_row_that_misses_says_by_how_much() -> None:
    gate = judge(ROWS, 91.73, max_drop=1, max_size_mb=0.1)
    assert gate["passed"] is False
    assert gate["failures"] == [
        "cosine 3,3,3,2 at 8 bits takes 0.15 MB, 0.05 more than --max-size-mb 0.1 allows",
        "chebyshev 3,2,2,2 at 4 bits loses 2.48 points of Top-1, 1.48 more than --max-drop 1 allows",
    ]


def test_a_row_that_misses_both_is_one_sentence() -> None:
    (failure,) = judge(ROWS[1:], 91.73, max_drop=2, max_size_mb=0.06)["failures"]
    assert failure == (
        "chebyshev 3,2,2,2 at 4 bits loses 2.48 points of Top-1, 0.48 more than --max-drop 2 allows and takes "
        "0.0625 MB, 0.0025 more than --max-size-mb 0.06 allows"
    )


def test_a_gain_passes_and_an_equal_top1_is_no_loss() -> None:
    assert judge(ROWS, 80.0, max_drop=0)["passed"] is True
    assert judge(ROWS[:1], 91.5, max_drop=0)["passed"] is True


def test_what_was_not_measured_misses() -> None:
    row = ROWS[0] | {"top1_quant": None, "size_mb": None}
    (failure,) = judge([row], 91.73, max_drop=5, max_size_mb=5)["failures"]
    assert failure == "cosine 3,3,3,2 at 8 bits has no measured change of Top-1 and has no measured size"
    assert judge(ROWS, None, max_drop=5)["passed"] is False
