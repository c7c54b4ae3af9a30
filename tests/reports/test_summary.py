import re

import pytest

from reports.gate import judge
from reports.summary import chosen_row, summarise
from tests.support.reports import make_dataset, make_gate


def cifar(report, rows, known: bool = True):
    dataset = make_dataset("cifar10", 10) if known else None
    data = report(rows, model="resnet20", dataset=dataset)
    data.baseline.top1, data.baseline.size_mb = 91.73, 1.09
    return data


def test_one_row_is_one_sentence(report, row) -> None:
    data = report([row("cosine", "6,3,3,2,2", 4, 98.61, size_mb=2.83)])
    assert summarise(data) == (
        "ResNet-18 went from 44.7 MB to 2.83 MB (15.8 times smaller), Top-1 99.17 to 98.61 (-0.56 points): "
        "CosConv 6,3,3,2,2 at 4 bits."
    )


def test_the_smallest_file_within_a_point_is_named(report, row) -> None:
    rows = [row("cosine", "a", 8, 99.0, size_mb=5.0), row("cosine", "b", 4, 98.17, size_mb=3.0)]
    rows.append(row("cosine", "c", 4, 98.16, size_mb=2.0))
    data = report(rows)
    assert chosen_row(data).row is rows[1]
    assert "Of 3 rows, this is the smallest file among those that lose at most 1 point of Top-1." in summarise(data)


def test_if_every_row_loses_more_the_best_is_named(report, row) -> None:
    rows = [row("cosine", "a", 8, 90.0), row("cosine", "b", 4, 95.0), row("cosine", "c", 4, 80.0)]
    text = summarise(report(rows))
    assert chosen_row(report(rows)).row is rows[1]
    assert "none is known to lose at most 1 point of Top-1; this is the one with the best Top-1." in text


def test_what_was_not_measured_is_not_invented(report, row) -> None:
    nothing = report([row("cosine", "a", 4, 90.0, top1_quant=None)])
    assert summarise(nothing) == "No row has both a written file and a measured Top-1."
    data = report([row("cosine", "a", 4, 90.0, size_mb=2.0)])
    data.baseline.top1 = data.baseline.size_mb = None
    assert summarise(data).startswith("ResNet-18 now takes 2.00 MB, Top-1 90.00 (no baseline measured): CosConv a")


def test_a_larger_file_and_an_unchanged_top1_are_described(report, row) -> None:
    text = summarise(report([row("cosine", "a", 4, 99.17, size_mb=89.38)]))
    assert "(2.0 times larger), Top-1 99.17 to 99.17 (unchanged)" in text


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ({"max_drop": 1.0, "passed": True}, "The gate passed: no row loses more than 1 point of Top-1."),
        (
            {"max_drop": 0.5, "passed": False},
            "The gate FAILED: at most 0.5 points of Top-1 may be lost; CosConv a at 4",
        ),
        ({"max_drop": 0.5, "passed": None}, "The gate (0.5 points allowed) was not checked."),
        (
            {"max_drop": None, "max_size_mb": 9.0, "passed": True},
            "The gate passed: no row takes more than 9 MB.",
        ),
        (
            {"max_drop": 1.0, "max_size_mb": 9.0, "passed": True},
            "The gate passed: no row loses more than 1 point of Top-1 or takes more than 9 MB.",
        ),
        (
            {"max_drop": 0.5, "max_size_mb": 2.5, "passed": False},
            "The gate FAILED: at most 0.5 points of Top-1 may be lost and a file may take at most 2.5 MB; CosConv a at "
            "4 bits loses 1.00 and takes 2.56 MB.",
        ),
        (
            {"max_drop": 1.0, "max_size_mb": 2.5, "passed": None},
            "The gate (1 point allowed and 2.5 MB allowed) was not checked.",
        ),
    ],
)
def test_the_gate_is_described(report, row, gate, words) -> None:
    assert words in summarise(report([row("cosine", "a", 4, 98.17)]).model_copy(update={"gate": make_gate(**gate)}))


def test_a_gate_that_failed_without_a_figure_names_it(report, row) -> None:
    data = report([row("cosine", "a", 4, 98.17, top1_quant=None)])
    data.gate = make_gate(False, "cosine a", max_drop=1.0)
    assert "CosConv a at 4 bits has no measured change of Top-1" in summarise(data)


def test_a_reloaded_network_that_differs_is_described_without_a_limit(report, row) -> None:
    data = report([row("cosine", "a", 4, 98.17, reloaded_logits_max_abs_diff=0.125)])
    data.gate = judge(data.rows, 99.17)
    assert "The gate FAILED: CosConv a at 4 bits differs by up to 0.125 in a logit" in summarise(data)


@pytest.mark.parametrize(
    ("size", "top1", "words"),
    [
        (
            0.078,
            91.2,
            "network: series wins at 0.0780 MB (CosConv 3,3,3,2 at 4 bits, 91.20; dense at 3 bits has 90.20 in",
        ),
        (0.078, 90.2, "series is smaller with Top-1 within the 95 % interval at 0.0780 MB"),
        (0.12, 90.4, "neither wins (a dense file no larger is within the 95 % interval) at 0.120 MB"),
        (
            0.12,
            85.0,
            "dense wins at 0.120 MB (CosConv 3,3,3,2 at 4 bits, 85.00; dense at 3 bits has 90.20 in 0.101 MB)",
        ),
        (0.05, 70.0, "neither wins (smaller than every dense file, and clearly worse) at 0.0500 MB"),
        (0.12, 99.0, "neither wins (larger than every dense file, and clearly better) at 0.120 MB"),
    ],
)
def test_series_is_compared_with_dense_in_every_outcome(report, row, size, top1, words) -> None:
    rows = [row("cosine", "3,3,3,2", 4, top1, size_mb=size), row("cosine", "dense", 3, 90.2, size_mb=0.101)]
    assert words in summarise(cifar(report, rows))


def test_a_row_between_two_dense_rows_matches_neither(report, row) -> None:
    dense = [
        row("cosine", "dense", bits, top1, size_mb=size) for bits, top1, size in ((3, 90.2, 0.101), (2, 60.0, 0.06))
    ]
    text = summarise(cifar(report, [row("cosine", "3,3,3,2", 4, 80.0, size_mb=0.08), *dense]))
    assert "neither wins (no dense row is matched in both size and Top-1) at 0.0800 MB" in text


def test_a_dense_row_may_be_the_one_named(report, row) -> None:
    rows = [row("cosine", "3,3,3,2", 4, 85.0, size_mb=0.2), row("cosine", "dense", 4, 91.4, size_mb=0.145)]
    assert "Top-1 91.73 to 91.40 (-0.33 points): dense at 4 bits, no series." in summarise(cifar(report, rows))


def test_many_rows_stay_short(report, many) -> None:
    text = summarise(report(many(["cosine", "chebyshev"])))
    assert len(text) < 600
    counts = re.search(r"Of 24 series rows against .* network: (.*?)\.$", text)[1]
    assert sum(int(part.split()[0]) for part in counts.split(", ")) == 24


def test_a_missing_interval_is_stated(report, row) -> None:
    rows = [row("cosine", "a", 4, 91.0, size_mb=0.078), row("cosine", "dense", 3, 90.2, size_mb=0.101)]
    data = cifar(report, rows, known=False)
    assert "The number of test images is not known, so no interval was applied." in summarise(data)
