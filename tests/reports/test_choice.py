from reports.choice import choice_table, inference_table
from reports.summary import summarise
from tests.support.reports import PAIRED, make_dataset

COS, CHEB = "cosine", "chebyshev"
SIZES = ["File of", "Size (MB)", "Times smaller", "Top1", "95 % interval", "Δ baseline"]


def test_a_row_that_lost_much_shows_its_loss_against_the_baseline(report, row, parse) -> None:
    """The change against its own float network is 0; it lost before."""
    data = report([row(COS, "2,2,2,2,2", 8, 65.0, top1_post=65.0, delta_quant=0.0, size_mb=4.469)])
    titles, (original, line) = parse(choice_table(data))
    assert titles == SIZES
    assert original == ["Original, float32", "44.7", "1.00", "99.17", "97.58 to 99.72", "-"]
    assert line == ["CosConv 2,2,2,2,2 at 8 bits", "4.47", "10.0", "65.00", "59.94 to 69.75", "-34.17"]


def test_files_are_listed_from_the_largest_down(report, many, parse) -> None:
    _, (_, *lines) = parse(choice_table(report(many([COS, CHEB]))))
    sizes = [float(line[1]) for line in lines]
    assert sizes == sorted(sizes, reverse=True)
    assert len(lines) == 4 + 2 * 12


def test_paired_figures_and_top5_are_shown_where_there_are_any(report, row, parse) -> None:
    rows = [row(COS, "a", 4, 98.0, top5_quant=99.5, **PAIRED), row(COS, "b", 4, 97.0)]
    data = report(rows, dataset=make_dataset("pets", 37))
    data.baseline.top5 = 99.75
    titles, (original, *lines) = parse(choice_table(data))
    assert titles[6:] == ["Top5", "Same predictions (%)", "Images lost", "Images gained", "McNemar p"]
    assert original[6:] == ["99.75", "-", "-", "-", "-"]
    assert [line[6:] for line in lines] == [["99.50", "97.50", "6", "2", "0.29"], ["-"] * 5]


def test_the_summary_does_not_let_a_few_images_decide(report, row) -> None:
    text = summarise(report([row(COS, "a", 4, 98.0, **PAIRED)]))
    assert "On 360 test images it loses 6 and gains 2 against the original: no clear difference" in text
    assert "(p = 0.29)" in text
    clear = PAIRED | {"images_lost": 60, "mcnemar_p": 1e-9}
    text = summarise(report([row(COS, "a", 4, 82.0, **clear)]))
    assert "it loses 60 and gains 2 against the original: a difference" in text
    assert "(p < 0.0001)" in text
    one = summarise(report([row(COS, "a", 4, 100.0, **PAIRED)], dataset=make_dataset("digits", 10, 1)))
    assert "On 1 test image it loses" in one


def test_what_was_not_measured_is_a_dash(report, row, parse) -> None:
    data = report([row(COS, "a", 4, 98.0, size_mb=None, top1_quant=None)], dataset=None)
    data.baseline.size_mb = data.baseline.top1 = None
    assert parse(choice_table(data))[1] == [["Original, float32", *"-----"], ["CosConv a at 4 bits", *"-----"]]
    assert choice_table(report([])) == ""


def test_inference_times_stand_beside_the_originals(report, row, parse) -> None:
    times = {"inference_ms": 0.41234, "original_inference_ms": 1534.2, "onnx_inference_ms": 12.345}
    data = report([row(COS, "a", 4, 98.0, **times), row(COS, "b", 4, 98.0)])
    titles, lines = parse(inference_table(data))
    assert len(titles) == 4
    assert lines == [["CosConv a at 4 bits", "1530", "0.412", "12.3"]]
    assert inference_table(report([row(COS, "b", 4, 98.0)])) == ""
