"""Rows of a target: gate, table, summary, plots, layers, schema and merging."""

from dataclasses import replace

import pytest

from reports.gate import gate_words, judge
from reports.layers import layer_tables
from reports.markdown import render
from reports.merging.merge import merge
from reports.merging.seeds import seed_table
from reports.model import Layer, Report
from reports.plots import write_plots
from reports.plots.size import size_figure
from reports.poster import poster_table
from reports.rows import side_by_side
from reports.summary import summarise
from reports.tables import pre_post_table, quantization_table
from reports.text import row_name
from tests.support.merging import make_run
from tests.support.report_schema import mistakes
from tests.support.reports import make_target_row

COS, CHEB = "cosine", "chebyshev"


@pytest.fixture
def mixed(report, row) -> Report:
    """Targets of two sizes and a loss beside a fixed width and a dense row."""
    targets = [make_target_row(COS, top1, target_mb=size) for size, top1 in ((0.02, 97.0), (0.04, 98.5))]
    lossy = make_target_row(COS, 98.0, target_drop=0.5, size_mb=0.03)
    fixed = [row(COS, "3,3,2,2", 4, 97.5, size_mb=0.06), row(COS, "dense", 4, 99.0, size_mb=0.11)]
    data = report([*targets, lossy, *fixed])
    data.gate = judge(data.rows, 99.17)
    return data


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size_mb": 0.041}, ("cosine auto at 0.04 MB", "takes 0.041 MB", "--target-mb 0.04", "0.0388 to 0.04 MB")),
        ({"size_mb": 0.0387}, ("takes 0.0387 MB", "--target-mb 0.04")),
        ({"target_met": False}, ("takes 0.0396 MB", "--target-mb 0.04")),
        ({"size_mb": None}, ("no measured size",)),
        (
            {"target_drop": 0.5, "target_met": False},
            ("cosine auto at 0.5 points", "held-out training images", "--target-drop 0.5"),
        ),
    ],
)
def test_a_row_that_misses_its_target_fails_the_gate(changes, words) -> None:
    gate = judge([make_target_row(COS, 98.0), make_target_row(COS, 98.0, **changes)], 99.17)
    assert (gate.passed, gate.exit_code, gate.targets) == (False, 3, 2)
    (failure,) = gate.failures
    assert all(word in failure for word in words)


@pytest.mark.parametrize("changes", [{}, {"size_mb": 0.04}, {"size_mb": 0.0388}, {"target_drop": 1.0}])
def test_a_row_at_its_target_passes_the_gate(changes, report) -> None:
    data = report([make_target_row(COS, 98.0, **changes)])
    data.gate = judge(data.rows, 99.17)
    assert (data.gate.passed, data.gate.targets) == (True, 1)
    assert mistakes(data.model_dump()) == []
    assert "every row meets its target" in gate_words(data)


def test_limits_hold_for_rows_of_a_target_too(mixed) -> None:
    gate = judge(mixed.rows, 99.17, max_drop=2, max_size_mb=0.1)
    assert [failure.split(" at ")[1].split(" takes")[0].split(" loses")[0] for failure in gate.failures] == [
        "0.02 MB",
        "4 bits",
    ]
    mixed.gate = judge(mixed.rows, 99.17, max_drop=3)
    assert gate_words(mixed) == "The gate passed: no row loses more than 3 points of Top-1, and every target is met."


def test_the_report_keeps_to_the_schema(mixed) -> None:
    content = mixed.model_dump()
    assert mistakes(content) == []
    assert Report.model_validate(content).model_dump() == content
    assert content["rows"][0]["bits"] is None


def test_the_table_has_targets_after_widths_the_largest_first(mixed, parse) -> None:
    titles, lines = parse(quantization_table(mixed))
    assert titles[0] == "Bits or target"
    assert [line[0] for line in lines] == ["32", "4", "4", "0.04 MB", "0.02 MB", "0.5 points"]
    place = titles.index("CosConv Δ baseline")
    assert [line[place] for line in lines[3:]] == ["-0.67", "-2.17", "-1.17"]
    assert lines[3][titles.index("Poster's formula (MB)")] == "-"


def test_bases_of_one_target_share_a_line(report) -> None:
    data = report([make_target_row(basis, 98.0) for basis in (COS, CHEB)])
    assert [set(line) for line in side_by_side(data)] == [{COS, CHEB}]


def test_tables_of_float_networks_leave_targets_out(report, row) -> None:
    capped = make_target_row(COS, 98.0, config="3,3,2,2")
    data = report(
        [capped], model="resnet20", dataset={"name": "cifar10", "train_images": 1, "test_images": 1, "classes": 10}
    )
    assert poster_table(data) == ""
    assert "3,3,2,2" not in pre_post_table(data)


def test_the_summary_lists_which_row_to_take_at_which_size(mixed) -> None:
    text = summarise(mixed)
    assert "By size, take CosConv auto at its target from 0.0198 to 0.0396 MB (97.00 to 98.50)" in text
    assert "dense at 4 bits from 0.110 MB on (99.00)." in text
    assert "3,3,2,2 at 4 bits from" not in text  # beaten in both size and Top-1


def test_a_row_that_is_best_at_every_size_is_not_listed_by_size(report, row) -> None:
    target = make_target_row(COS, 98.5, target_mb=0.02, size_mb=0.0198)
    assert "By size" not in summarise(report([target]))
    assert "By size" not in summarise(report([target, row(COS, "dense", 4, 98.0, size_mb=0.11)]))


def test_without_targets_the_summary_lists_no_sizes(report, row) -> None:
    assert "By size" not in summarise(report([row(COS, "a", 4, 98.0), row(COS, "dense", 4, 99.0)]))


def test_targets_are_a_line_of_their_own_in_the_plot(mixed, tmp_path) -> None:
    figure = size_figure(mixed)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "CosConv auto, at a target" in names
    (axis,) = figure.axes
    line = next(each for each in axis.lines if len(each.get_xdata()) == 3)
    assert list(line.get_xdata()) == [0.0198, 0.03, 0.0396]
    assert line.get_linestyle() == "-"
    assert sum(each.get_marker() == "P" for each in axis.lines) == 3
    assert {"0.02 MB", "0.04 MB", "0.5 points"} <= {text.get_text() for text in axis.texts}
    assert write_plots(mixed, tmp_path)


def kept_layer(size: float, name: str, **changes) -> Layer:
    about = {"basis": COS, "config": "auto", "target_mb": size, "name": name, "kernel": [3, 3], "order": [3, 3]}
    about |= {"terms": 9, "status": "full", "reason": "why", "rounding_error": {"coded": 0.02}}
    return Layer.model_validate(about | changes)


def test_each_target_has_its_own_table_of_layers(mixed, parse) -> None:
    odd = {"order": [3, 2], "terms": 5, "status": "compressed"}
    mixed.layers = [kept_layer(0.04, "a"), kept_layer(0.02, "a", **odd), kept_layer(0.02, "b", order=None, terms=0)]
    tables = layer_tables(mixed)
    assert list(tables) == ["auto at 0.04 MB", "auto at 0.02 MB"]
    titles, lines = parse(tables["auto at 0.02 MB"])
    assert [line[titles.index("Order")] for line in lines] == ["3x2 (5 terms)", "-"]
    assert lines[0][titles.index("rounding error")] == "0.02"
    assert "auto at 0.04 MB" in render(mixed)


def test_the_table_of_seeds_names_targets(parse) -> None:
    runs = {}
    for seed in (0, 1):
        name = f"s{seed}"
        (run,) = make_run(name, (COS, "3,3,2,2", 4, 97.5), seed=seed).values()
        own = make_target_row(COS, 97.0 + seed).model_copy(update={"sha256": f"{seed}" * 64})
        runs[name] = replace(run, rows=[own])
    headers, lines = parse(seed_table(merge(runs, "merge")))
    assert [line[headers.index("Bits or target")] for line in lines] == ["0.04 MB"]


def test_merged_runs_of_other_targets_keep_their_rows_and_layers(mixed) -> None:
    runs = make_run("w", (COS, "3,3,2,2", 4, 97.5))
    layers = [kept_layer(0.04, "a"), kept_layer(0.02, "a")]
    targets = replace(runs["w"], rows=mixed.rows[:2], layers=layers, gate=judge(mixed.rows[:2], 99.17))
    merged = merge(runs | {"t": targets}, "merge w t")
    assert [row_name(each) for each in merged.rows] == [
        "CosConv 3,3,2,2 at 4 bits",
        "CosConv auto at 0.02 MB",
        "CosConv auto at 0.04 MB",
    ]
    assert [each.target_mb for each in merged.layers if each.config == "auto"] == [0.04, 0.02]
    together = judge([*runs["w"].rows, *targets.rows], 99.17)  # as in one run of all rows
    assert (merged.gate.targets, merged.gate.passed) == (together.targets, together.passed) == (2, True)
    assert mistakes(merged.model_dump()) == []


def test_training_for_a_target_was_rolled_back_for_the_reason_that_it_gives(report) -> None:
    figures = {"finetune_undone": True, "finetune_epoch": 0, "finetune_fault": "lost too much"}
    text = render(report([make_target_row(COS, 98.61, **figures)]))
    (line,) = (line for line in text.splitlines() if "rolled back" in line and line.startswith("- "))
    assert "training through the rounding lost too much" in line
    assert "fine-tuning" not in line
