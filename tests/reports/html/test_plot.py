"""The content of the page's size plot, and its specification, without a browser."""

import json
import re
from pathlib import Path

import pytest

from reports.html import plot
from reports.html.chart import specification
from reports.html.plot import Axis, size_plot
from reports.model import Report
from reports.plots import style
from tests.support.reports import make_dataset, make_target_row

COS, CHEB = "cosine", "chebyshev"
SHEET = Path(plot.__file__).with_name("templates") / "page.css"


def layers(data: Report) -> dict[str, list[dict[str, object]]]:
    drawn = specification(size_plot(data))
    return {each["name"]: each["data"]["values"] for each in drawn["layer"]}


def entries(data: Report) -> list[str]:
    """The entries of the legend."""
    drawn = specification(size_plot(data))
    return next(each for each in drawn["layer"] if each["name"] == "points")["encoding"]["color"]["scale"]["domain"]


def test_equal_reports_have_equal_specifications(full) -> None:
    first = json.dumps(specification(size_plot(full)))
    assert json.dumps(specification(size_plot(Report.model_validate(full.model_dump())))) == first


def test_a_mark_has_the_words_and_figures_of_its_row(report, row) -> None:
    data = report([row(COS, "3,3", 4, 90.0, size_mb=2.0)], dataset=make_dataset("digits", 10, 360))
    file, original = layers(data)["points"]
    assert file["words"] == "CosConv 3,3 at 4 bits: 2.00 MB, Top-1 90.00 (86.47 to 92.69)"
    assert (file["row"], file["size"], file["top1"]) == (0, 2.0, 90.0)
    assert (round(file["low"], 2), round(file["high"], 2)) == (86.47, 92.69)
    assert original["words"].startswith("Original, float32: 44.7 MB, Top-1 99.17 (")


def test_nothing_is_drawn_of_what_was_not_measured(report, row) -> None:
    assert size_plot(report([row(COS, "3,3", 4, 90.0, top1_quant=None)])) is None
    data = report([row(COS, "3,3", 4, 90.0)], dataset=None)
    data.baseline.top1 = None
    found = layers(data)
    assert set(found) == {"whiskers", "points"}
    assert found["whiskers"] == []
    assert entries(data) == ["CosConv"]


@pytest.mark.parametrize(("sizes", "log"), [((2.0, 3.0), False), ((0.2, 3.0), True)])
def test_a_wide_range_of_sizes_has_a_logarithmic_axis(report, row, sizes, log) -> None:
    data = report([row(COS, "a", bits, 90.0, size_mb=size) for bits, size in zip((8, 4), sizes, strict=True)])
    data.baseline.size_mb = 4.0
    found = size_plot(data)
    assert found.size.log == log
    assert all(0 < found.size.place(file.size_mb) < 1 and 0 < found.top1.place(file.top1) < 1 for file in found.files)
    specification(found)


def test_an_axis_ends_little_above_100(report, row) -> None:
    assert size_plot(report([row(COS, "a", 4, 20.0)])).top1.high < 105
    assert Axis(1.0, 100.0, log=True).place(10.0) == pytest.approx(0.5)


def test_lines_join_frontiers_and_targets(report, row) -> None:
    fixed = [row(COS, "a", bits, top1, size_mb=bits) for bits, top1 in ((8, 95.0), (4, 90.0), (3, 80.0), (2, 85.0))]
    targets = [make_target_row(CHEB, 90 + size, target_mb=size, size_mb=size) for size in (0.9, 0.5)]
    found = size_plot(report([*fixed, *targets]))
    assert [(line.look.name, [file.row for file in line.files]) for line in found.lines] == [
        ("Frontier of bases", [3, 1, 0]),
        ("ChebConv auto, at a target", [5, 4]),
    ]
    assert [line.picked for line in found.lines] == [False, True]


def test_coinciding_marks_have_a_ring_each(report, row) -> None:
    apart = [row(COS, "a", 4, 90.0, size_mb=1.0), row(COS, "b", 4, 95.0, size_mb=2.0)]
    assert "rings" not in layers(report(apart))
    alike = report([*apart, *(row(COS, name, 4, 90.0, size_mb=1.0) for name in "cde")])
    found = layers(alike)["rings"]
    assert len({each["area"] for each in found}) == len(found) == 3
    assert "Ring: a further row there" in entries(alike)


def test_the_rows_of_frontiers_have_labels(report, row) -> None:
    rows = [
        row(COS, "a", 8, 95.0, size_mb=3.0),
        row(COS, "b", 4, 90.0, size_mb=4.0),
        row(COS, "dense", 4, 80.0, size_mb=9.0),
    ]
    assert size_plot(report(rows)).labels == {0: "a, 8 bits", 2: "dense, 4 bits"}


def test_every_colour_is_a_variable_of_the_sheet_for_light_and_dark(full) -> None:
    light, dark = re.findall(r":root \{(.*?)\}", SHEET.read_text(encoding="utf-8"), re.DOTALL)
    used = set(re.findall(r"var\((--\w+)\)", json.dumps(specification(size_plot(full)))))
    used |= {f"--{basis}" for basis in style.BASIS_COLORS}
    assert {"--ink", "--dense", "--baseline"} < used
    for sheet in (light, dark):
        assert used <= set(re.findall(r"(--\w+):", sheet))
    assert all(f"--{basis}: {color}" in light for basis, color in style.BASIS_COLORS.items())
