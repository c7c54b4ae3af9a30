import math

import pytest

from reports.gate import gate_words, judge


@pytest.fixture
def rows(row):
    return [
        row("cosine", "3,3,3,2", 8, 91.5, size_mb=0.15),
        row("chebyshev", "3,2,2,2", 4, 89.25, size_mb=0.0625),
    ]


def test_without_limits_nothing_is_judged(rows) -> None:
    gate = judge(rows, 91.73)
    assert gate.model_dump() == {
        "max_drop": None,
        "max_size_mb": None,
        "targets": 0,
        "passed": None,
        "failures": [],
    }


def test_without_rows_nothing_is_judged() -> None:
    gate = judge([], 91.73, max_drop=1)
    assert gate.model_dump() == {"max_drop": 1, "max_size_mb": None, "targets": 0, "passed": None, "failures": []}


@pytest.mark.parametrize("limits", [{"max_drop": 2.48}, {"max_size_mb": 0.15}, {"max_drop": 3, "max_size_mb": 1}])
def test_rows_at_or_within_the_limits_pass(rows, limits: dict[str, float]) -> None:
    gate = judge(rows, 91.73, **limits)
    assert (gate.passed, gate.failures, gate.exit_code) == (True, [], 0)


def test_each_row_that_fails_has_the_amount_of_its_excess(rows) -> None:
    gate = judge(rows, 91.73, max_drop=1, max_size_mb=0.1)
    assert (gate.passed, gate.exit_code) == (False, 3)
    size, drop = gate.failures
    for words, sentence in (
        (("cosine 3,3,3,2 at 8 bits", "0.15 MB", "0.05 more", "--max-size-mb 0.1"), size),
        (("chebyshev 3,2,2,2 at 4 bits", "2.48 points of Top-1", "1.48 more", "--max-drop 1"), drop),
    ):
        assert all(word in sentence for word in words)


def test_a_dense_row_that_fails_is_one_sentence_for_all_bases(row) -> None:
    dense = [row(basis, "dense", 4, 90.0, size_mb=0.2) for basis in ("cosine", "chebyshev")]
    (failure,) = judge(dense, 91.73, max_size_mb=0.15).failures
    assert failure.startswith("dense at 4 bits takes 0.2 MB")


def test_a_row_that_exceeds_both_limits_is_one_sentence(rows) -> None:
    (failure,) = judge(rows[1:], 91.73, max_drop=2, max_size_mb=0.06).failures
    for words in ("2.48 points of Top-1", "--max-drop 2", " and takes 0.0625 MB", "--max-size-mb 0.06"):
        assert words in failure


def test_a_gain_passes_and_an_equal_top1_is_no_loss(rows) -> None:
    assert judge(rows, 80.0, max_drop=0).passed is True
    assert judge(rows[:1], 91.5, max_drop=0).passed is True


def test_a_figure_that_was_not_measured_fails(row, rows) -> None:
    unmeasured = row("cosine", "3,3,3,2", 8, 91.5, top1_quant=None, size_mb=None)
    (failure,) = judge([unmeasured], 91.73, max_drop=5, max_size_mb=5).failures
    for words in ("cosine 3,3,3,2 at 8 bits", "no measured change of Top-1", "no measured size"):
        assert words in failure
    assert judge(rows, None, max_drop=5).passed is False


@pytest.mark.parametrize("limits", [{}, {"max_drop": 5.0}, {"max_size_mb": 5.0}])
def test_a_reloaded_network_that_differs_fails_with_and_without_limits(row, rows, limits) -> None:
    other = row("cosine", "3,3,2,2", 4, 91.0, size_mb=0.1, reloaded_logits_max_abs_diff=0.00390625)
    gate = judge([*rows, other], 91.73, **limits)
    assert (gate.passed, gate.exit_code) == (False, 3)
    (failure,) = gate.failures
    assert "cosine 3,3,2,2 at 4 bits" in failure
    assert "0.00391" in failure


@pytest.mark.parametrize("difference", [math.nan, math.inf])
def test_logits_that_are_not_finite_fail(row, difference) -> None:
    assert judge([row("cosine", "a", 4, 91.0, reloaded_logits_max_abs_diff=difference)], 91.73).passed is False


@pytest.mark.parametrize("difference", [0.0, None])
def test_a_reloaded_network_that_does_not_differ_is_not_judged(row, difference) -> None:
    assert judge([row("cosine", "a", 4, 91.0, reloaded_logits_max_abs_diff=difference)], 91.73).passed is None


def test_summary_and_sentences_name_the_same_rows(report, row) -> None:
    """A loss above the limit by less than the tolerance is a failure in neither."""
    rows = [row("cosine", name, 4, 99.17 - loss) for name, loss in (("a", 0.5), ("b", 0.5 + 5e-10), ("c", 0.5 + 1e-8))]
    data = report(rows)
    data.gate = judge(rows, 99.17, max_drop=0.5)
    assert [failure.split(" at ")[0] for failure in data.gate.failures] == ["cosine c"]
    assert "CosConv c at 4 bits loses 0.50" in gate_words(data)
    assert "CosConv b" not in gate_words(data)
