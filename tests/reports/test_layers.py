from reports.layers import layer_tables


def test_layers_are_shown_with_kernel_order_status_and_reason(report, row, parse) -> None:
    data = report([row("cosine", "6,3,3,2,2", 4, 98.0)])
    data.layers[1].reason = "shared | wrapped\nby *two*"
    (title, table), *others = layer_tables(data).items()
    titles, lines = parse(table)
    assert (title, others) == ("6,3,3,2,2", [])
    assert titles == ["Layer", "Kernel", "Order", "Status", "Why"]
    assert lines[0] == ["conv1", "7x7", "6x6", "compressed", "order below kernel"]
    assert lines[1][-1] == "shared | wrapped by *two*"
    assert lines[-1] == ["fc", "-", "-", "kept", "linear"]
    assert len(lines) == len(data.layers)


def test_configs_and_bases_treated_alike_share_a_table(report, row) -> None:
    data = report([row(basis, config, 4, 98.0) for basis in ("cosine", "chebyshev") for config in ("a", "b")])
    assert list(layer_tables(data)) == ["a; b"]


def test_bases_that_differ_in_structure_have_a_table_each(report, row) -> None:
    data = report([row(basis, "a", 4, 98.0) for basis in ("cosine", "chebyshev")])
    data.layers[0].status = "kept"
    assert list(layer_tables(data)) == ["CosConv a", "ChebConv a"]


def test_errors_have_a_column_each_where_one_was_measured(report, row, parse) -> None:
    data = report([row("cosine", "a", 4, 98.0)], errors=True)
    data.layers[0].rounding_error = None
    titles, lines = parse(layer_tables(data)["a"])
    assert titles[5:] == ["fit error", "8-bit error", "4-bit error"]
    assert lines[0][5:] == ["1e-09", "-", "-"]
    assert lines[9][5:] == ["0.117", "0.0019", "0.038"]
    assert lines[-1][5:] == ["-", "-", "0.01"]


def test_bases_with_other_errors_have_columns_of_their_own(report, row, parse) -> None:
    data = report([row(basis, "a", 4, 98.0) for basis in ("cosine", "chebyshev")], errors=True)
    data.layers[0].fit_error = 0.5
    titles, lines = parse(layer_tables(data)["a"])
    assert titles[5:7] == ["CosConv fit error", "CosConv 8-bit error"]
    assert titles[8:] == ["ChebConv fit error", "ChebConv 8-bit error", "ChebConv 4-bit error"]
    assert (lines[0][5], lines[0][8]) == ("0.5", "1e-09")


def test_no_layers_no_tables(report) -> None:
    assert layer_tables(report([])) == {}
