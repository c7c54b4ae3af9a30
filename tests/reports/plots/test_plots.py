import matplotlib.image
import numpy as np
import pytest

from reports.model import Kernels
from reports.plots import plot_names, write_plots
from tests.support.reports import make_kernels, make_target_row

COS, CHEB = "cosine", "chebyshev"
ALL = ["size_top1.png", "kernels.png", "layer_errors.png"]


@pytest.mark.parametrize("bases", [[COS], [COS, CHEB]])
def test_plots_open_and_are_not_blank(report, many, tmp_path, bases) -> None:
    paths = write_plots(report(many(bases), errors=True), tmp_path / "plots")
    assert [path.name for path in paths] == ALL
    for path in paths:
        image = matplotlib.image.imread(path)
        assert min(image.shape[:2]) > 300
        assert len(np.unique(image[::2, ::2, :3] @ [1.0, 300.0, 90_000.0])) > 20


def test_equal_reports_have_equal_bytes(report, many, tmp_path) -> None:
    data = report(many([COS, CHEB]), errors=True)
    first, second = (write_plots(data, tmp_path / name) for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_only_plots_with_figures_are_drawn(report, row, tmp_path) -> None:
    data = report([row(COS, "3,3,3,2", 4, 90.0)], errors=True)
    write_plots(data, tmp_path)
    bare = report([row(COS, "3,3,3,2", 4, 90.0, top1_quant=None)])
    bare.kernels = None
    assert plot_names(bare) == []
    assert write_plots(bare, tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_awkward_figures_are_drawn(report, row, tmp_path) -> None:
    rows = [row(COS, "7x3,7x3,7x9,6x3", 4, 0.0), row(COS, "7x3,7x3,7x9,6x3", 4, 0.0), row(CHEB, "a", 5, 100.0)]
    data = report(rows, errors=True, dataset=None)
    data.baseline.top1 = None
    data.kernels = Kernels(layer="conv1", original=[[0.0, 0.0]], fits={}, orders=[1, 2])
    data.layers[0].fit_error, data.layers[0].rounding_error = 0.0, {"5": None, "3": 0.0}
    assert [path.name for path in write_plots(data, tmp_path)] == ALL


def test_a_config_of_many_stages_leaves_room_for_the_plots(report, row, tmp_path) -> None:
    """matplotlib warned that no room was left, and drew the label beyond both sides."""
    configs = [",".join(["2"] * 300), ",".join(["2"] * 299 + ["3"])]
    rows = [row(COS, text, 4, top1) for text, top1 in zip(configs, (90.0, 95.0), strict=True)]
    data = report([*rows, make_target_row(COS, 92.0, config=configs[0])], errors=True)
    assert [path.name for path in write_plots(data, tmp_path)] == ALL


def test_a_weight_that_rounds_to_zero_has_no_sign(report, row) -> None:
    from reports.plots.kernels import kernel_figure

    data = report([row(COS, "a", 4, 90.0)])
    data.kernels = make_kernels([COS]).model_copy(update={"original": [[-0.001, 0.5], [0.0, -0.5]], "fits": {}})
    texts = [text.get_text() for text in kernel_figure(data).axes[0].texts]
    assert texts == ["0.00", "0.50", "0.00", "-0.50"]


@pytest.mark.parametrize(
    ("bases", "orders", "titles", "lines"),
    [
        ([COS, CHEB], [6, 6], ["CosConv, order 6×6", "ChebConv, order 6×6"], 1),
        (["fracsrf", "fractional"], None, ["FracSRF", "Fractional"], 1),
        ([COS, CHEB, "fractional"], [6, 6], ["CosConv, order 6×6", "ChebConv, order 6×6", "Fractional"], 2),
        (
            [COS, CHEB, "fracsrf", "fractional"],
            [6, 6],
            ["CosConv, order 6×6", "ChebConv, order 6×6", "FracSRF", "Fractional"],
            2,
        ),
    ],
)
def test_a_filter_is_shown_beside_its_series_and_its_families(report, row, bases, orders, titles, lines) -> None:
    from reports.plots.kernels import kernel_figure

    data = report([row(COS, "a", 4, 90.0)])
    data.kernels = make_kernels(bases).model_copy(update={"orders": orders})
    figure = kernel_figure(data)
    figure.draw_without_rendering()
    drawn = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title().split("\n")[0] for axis in drawn] == ["Original", *titles]
    assert all("error" in axis.get_title() for axis in drawn[1:])
    assert len({round(axis.get_position().y0, 3) for axis in drawn}) == lines
    boxes = [axis.title.get_window_extent() for axis in drawn]
    assert not any(box.overlaps(other) for place, box in enumerate(boxes) for other in boxes[:place])


@pytest.mark.parametrize("errors", [(0.0138, 0.386), (0.021, 0.029), (0.1, 0.1), (0.0, 0.4), (1e-7, 1e-6), (2.0, 3.0)])
def test_errors_of_any_range_have_labels_that_stay_apart(report, row, errors) -> None:
    from reports.plots.layers import layer_figure

    data = report([row(COS, "6,3,3,2,2", 4, 90.0)], errors=True)
    for place, layer in enumerate(data.layers):
        layer.fit_error, layer.rounding_error = None, {"4": errors[place % 2]}
    figure = layer_figure(data)
    figure.draw_without_rendering()
    (axis,) = figure.axes
    boxes = [text.get_window_extent() for text in axis.get_xticklabels(which="both") if text.get_text()]
    low, high = axis.get_xlim()
    assert sum(low <= place <= high for place in axis.get_xticks()) >= 2
    assert not any(box.overlaps(other) for place, box in enumerate(boxes) for other in boxes[:place])
    assert all(low <= max(error, 1e-5) <= high for error in errors)
    assert ("below" in figure.get_supxlabel()) == (min(errors) < 1e-5)


def rings(figure) -> list[float]:
    (axis,) = figure.axes
    drawn = [line for line in axis.lines if line.get_markerfacecolor() == "none" and len(line.get_xdata())]
    return [line.get_markersize() for line in drawn]


def test_coinciding_marks_have_a_ring_each(report, row) -> None:
    from reports.plots.size import size_figure

    apart = [row(COS, "a", 4, 90.0, size_mb=1.0), row(COS, "b", 4, 95.0, size_mb=2.0)]
    assert rings(size_figure(report(apart))) == []
    alike = [row(COS, name, 4, 90.0, size_mb=1.0) for name in "cde"]
    found = rings(size_figure(report([*apart, *alike])))
    assert len(set(found)) == len(found) == 3  # the fourth of them, drawn last, is visible
    figure = size_figure(report([*apart, *alike]))
    assert any("Ring" in text.get_text() for text in figure.legends[0].get_texts())


def test_a_smaller_mark_on_a_larger_one_needs_no_ring(report, row) -> None:
    from reports.plots.size import size_figure

    assert rings(size_figure(report([row(basis, "a", 4, 90.0, size_mb=1.0) for basis in (COS, CHEB)]))) == []


def test_the_baseline_has_its_interval(report, row) -> None:
    from reports.plots.size import size_figure

    data = report([row(COS, "a", 4, 90.0)])
    (axis,) = size_figure(data).axes
    low, high = axis.patches[0].get_extents().transformed(axis.transData.inverted()).get_points()[:, 1]
    assert (low, high) == pytest.approx((97.58, 99.72), abs=0.01)
    data.run.dataset = None
    assert not size_figure(data).axes[0].patches


def test_labels_stay_inside_and_apart(report, many) -> None:
    from matplotlib.text import Text

    from reports.plots.size import size_figure

    figure = size_figure(report(many([COS])))
    figure.draw_without_rendering()
    (axis,) = figure.axes
    frame = axis.get_window_extent().padded(1)
    boxes = [Text.get_window_extent(text) for text in axis.texts]
    assert len(boxes) == 16
    assert all(frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1) for box in boxes)
    assert not any(box.overlaps(other) for place, box in enumerate(boxes) for other in boxes[:place])
