import pytest

from pipeline.stages.plausibility import baseline_warnings
from reports.warnings import fallen_rows
from tests.support.reports import make_dataset

COS = "cosine"


@pytest.mark.parametrize(
    ("baseline", "top1", "words"),
    [
        (99.17, 89.16, ("CosConv a at 4 bits falls apart", "89.16", "10.01 points below")),
        (99.17, 12.0, ("near the 10.00", "10 classes")),
        (19.0, 11.0, ("near the 10.00",)),  # it lost less than ten points, but everything that it knew
    ],
)
def test_a_row_that_falls_apart_is_a_warning(report, row, baseline, top1, words) -> None:
    data = report([row(COS, "a", 4, top1)])
    data.baseline.top1 = baseline
    (warning,) = fallen_rows(data)
    assert all(word in warning for word in words)


@pytest.mark.parametrize("top1", [14.0, 16.0, 2.0])
@pytest.mark.parametrize("images", [30, 10_000])
def test_near_chance_means_the_same_for_rows_and_for_the_baseline(report, row, top1, images) -> None:
    """At 14.00 on 10,000 images of 10 classes the baseline was near chance, and a row was not."""
    data = report([row(COS, "a", 4, top1)], dataset=make_dataset("ten", 10, images))
    data.baseline.top1 = 24.0 if images > 30 else 60.0
    warned = any("guessing" in warning for warning in fallen_rows(data))
    assert warned == bool(baseline_warnings(top1, images, 10, trained=False))


@pytest.mark.parametrize(("baseline", "top1"), [(99.17, 89.17), (99.17, None), (12.0, 11.0), (None, 95.0)])
def test_other_rows_are_none(report, row, baseline, top1) -> None:
    data = report([row(COS, "a", 4, 50.0).model_copy(update={"top1_quant": top1})])
    data.baseline.top1 = baseline
    assert fallen_rows(data) == []


def test_a_row_is_compared_with_the_baseline_of_its_own_run(report, row) -> None:
    data = report([row(COS, "a", 4, 80.0, baseline_top1=85.0), row(COS, "b", 4, 80.0)])
    assert [warning.split()[1] for warning in fallen_rows(data)] == ["b"]


def test_without_data_chance_is_not_known(report, row) -> None:
    assert fallen_rows(report([row(COS, "a", 4, 95.0)], dataset=None)) == []
    data = report([row(COS, "a", 4, 50.0)], dataset=make_dataset("two", 2, 100))
    assert "2 classes" in fallen_rows(data)[0]
