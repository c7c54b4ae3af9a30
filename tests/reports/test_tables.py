import pytest

from reports.tables import pre_post_table, quantization_table, result_table

COS, CHEB = "cosine", "chebyshev"


def test_quantization_table_holds_the_figures_of_the_report(report, many, parse) -> None:
    data = report(many([COS, CHEB]))
    titles, lines = parse(quantization_table(data))
    assert titles[:6] == [
        "Bits",
        "Config",
        "CosConv Top1",
        "CosConv Quant. Top1",
        "CosConv Δ quant.",
        "CosConv Δ baseline",
    ]
    assert titles[6:] == [
        *["ChebConv Top1", "ChebConv Quant. Top1", "ChebConv Δ quant.", "ChebConv Δ baseline"],
        *["#Params", "Model size (MB)", "Times smaller", "Poster's formula (MB)"],
    ]
    assert lines[0] == [
        "32",
        "Conv2D",
        "99.17",
        "-",
        "-",
        "-",
        "99.17",
        "-",
        "-",
        "-",
        "11,172,032",
        "44.7",
        "1.00",
        "-",
    ]
    assert len(lines) == 1 + 16
    cells = {(line[0], line[1]): line for line in lines[1:]}
    for row in data.rows:
        line = cells[str(row.bits), row.config.replace("dense", "Conv2D")]
        start = 2 if row.basis == COS else 6
        assert float(line[start]) == pytest.approx(row.top1_post, abs=0.0051)
        assert float(line[start + 1]) == pytest.approx(row.top1_quant, abs=0.0051)
        assert float(line[start + 2]) == pytest.approx(row.delta_quant, abs=0.0051)
        assert float(line[start + 3]) == pytest.approx(row.delta_baseline, abs=0.0051)
        assert int(line[10].replace(",", "")) == row.params
        assert float(line[11]) == pytest.approx(row.size_mb, rel=0.005)
        assert float(line[12]) == pytest.approx(data.baseline.size_mb / row.size_mb, rel=0.01)
        assert float(line[13]) == pytest.approx(row.poster_size_mb, rel=0.005)


def test_lines_go_from_most_bits_to_fewest_with_dense_first(report, many, parse) -> None:
    _, lines = parse(quantization_table(report(many([COS]))))
    assert [line[0] for line in lines] == ["32", *["8"] * 4, *["4"] * 4, *["3"] * 4, *["2"] * 4]
    assert [line[1] for line in lines[1::4]] == ["Conv2D"] * 4


def test_one_basis_has_one_group_of_columns(report, row, parse) -> None:
    titles, lines = parse(quantization_table(report([row(CHEB, "3,3,3,2", 4, 90.2)])))
    assert [title for title in titles if "Conv" in title] == [
        "ChebConv Top1",
        "ChebConv Quant. Top1",
        "ChebConv Δ quant.",
        "ChebConv Δ baseline",
    ]
    assert lines[1][:6] == ["4", "3,3,3,2", "90.50", "90.20", "-0.30", "-8.97"]


def test_a_dense_only_report_names_no_basis(report, row, parse) -> None:
    titles, lines = parse(quantization_table(report([row(COS, "dense", 4, 91.4)])))
    assert titles[2:5] == ["Top1", "Quant. Top1", "Δ quant."]
    assert lines[1][:5] == ["4", "Conv2D", "99.17", "91.40", "-7.77"]


def test_what_was_not_measured_is_a_dash(report, row, parse) -> None:
    nothing = dict.fromkeys(
        ("top1_pre", "top1_post", "top1_quant", "delta_post", "delta_quant", "delta_baseline", "size_mb")
    )
    data = report([row(COS, "3,3,3,2", 4, 90.2, **nothing)])
    data.baseline.top1 = data.baseline.size_mb = None
    _, lines = parse(quantization_table(data))
    assert lines[0] == ["32", "Conv2D", "-", "-", "-", "-", "11,172,032", "-", "-", "-"]
    assert lines[1][2:6] == ["-", "-", "-", "-"]
    assert lines[1][7] == "-"
    assert parse(pre_post_table(data))[1][1] == ["3,3,3,2", "-", "-", "-", "6,502,123", "58.20"]


def test_a_basis_that_lacks_a_config_has_dashes_there(report, row, parse) -> None:
    data = report([row(COS, "3,3,3,2", 4, 90.2), row(CHEB, "3,3,2,2", 4, 89.0)])
    _, lines = parse(quantization_table(data))
    assert lines[1][2:10] == ["90.50", "90.20", "-0.30", "-8.97", "-", "-", "-", "-"]
    assert lines[2][2:10] == ["-", "-", "-", "-", "89.30", "89.00", "-0.30", "-10.17"]


def test_sizes_that_differ_between_bases_are_both_shown(report, row, parse) -> None:
    data = report([row(COS, "3,3,3,2", 4, 90.2, size_mb=1.0), row(CHEB, "3,3,3,2", 4, 90.2, size_mb=2.0)])
    assert parse(quantization_table(data))[1][1][-3:-1] == ["1.00 / 2.00", "44.7 / 22.3"]


MINIFLOAT = {"scheme": "minifloat", "stored_bits": 12}


def test_minifloats_show_their_stored_bits_and_have_lines_of_their_own(report, row, parse) -> None:
    rows = [row(COS, "3,3,3,2", 4, 90.2), row(COS, "3,3,3,2", 4, 90.4, **MINIFLOAT)]
    rows += [row(CHEB, "3,3,3,2", 4, 90.5, **MINIFLOAT)]
    _, lines = parse(quantization_table(report(rows)))
    assert [(line[0], line[3], line[7]) for line in lines[1:]] == [
        ("4 (12 stored)", "90.40", "90.50"),
        ("4", "90.20", "-"),
    ]


def test_pre_post_table_has_a_line_a_config(report, row, parse) -> None:
    same = {"top1_pre": 51.43, "top1_post": 89.55, "delta_post": -2.18}
    data = report([row(COS, "3,3,2,2", bits, 89.0, **same) for bits in (8, 4)] + [row(COS, "dense", 4, 91.0)])
    titles, lines = parse(pre_post_table(data))
    assert titles == ["Config", "CosConv Pre Top1", "CosConv Post Top1", "CosConv Δ", "#Params", "%"]
    assert lines == [
        ["Conv2D", "-", "99.17", "-", "11,172,032", "100.00"],
        ["3,3,2,2", "51.43", "89.55", "-2.18", "5,317,887", "47.60"],
    ]


def test_without_fine_tuning_there_is_only_the_top1_after_the_fit(report, row, parse) -> None:
    rows = [row(COS, "3,3,2,2", 4, 51.0, epochs=0, top1_pre=51.43, top1_post=51.43, delta_post=-47.74)]
    titles, lines = parse(pre_post_table(report(rows)))
    assert titles == ["Config", "CosConv Fit Top1", "CosConv Δ", "#Params", "%"]
    assert [line[:3] for line in lines] == [["Conv2D", "99.17", "-"], ["3,3,2,2", "51.43", "-47.74"]]


def test_a_dense_row_that_was_trained_further_is_in_the_pre_post_table(report, row, parse) -> None:
    data = report([row(COS, "dense", 4, 91.0, top1_post=99.3, delta_post=0.13), row(COS, "3,3,2,2", 4, 89.0)])
    assert parse(pre_post_table(data))[1][1][:4] == ["Conv2D, fine-tuned", "-", "99.30", "+0.13"]


def test_compressible_params_are_shown_where_they_were_counted(report, row, parse) -> None:
    titles, lines = parse(pre_post_table(report([row(COS, "7x3,7x15", 4, 80.0, compressible_params=329_184)])))
    assert titles[-1] == "#Comp. params"
    assert lines[1][-1] == "329,184"


def test_the_result_table_is_plain_text(report, many) -> None:
    text = result_table(report(many([COS, CHEB])))
    assert "|" not in text
    assert len([line for line in text.splitlines() if "Conv2D" in line or ",3" in line or ",2" in line]) == 17
    assert max(map(len, text.splitlines())) < 160
