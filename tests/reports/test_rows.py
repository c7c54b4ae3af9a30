from reports.rows import frontier, measured, side_by_side, unique_rows


def test_dense_counts_once_and_stands_in_every_column(report, row) -> None:
    rows = [row(basis, config, 4, 90.0) for basis in ("chebyshev", "cosine") for config in ("3,3,3,2", "dense")]
    data = report(rows)
    assert [each.config for each in unique_rows(data)] == ["3,3,3,2", "dense", "3,3,3,2"]
    lines = side_by_side(data)
    assert [next(iter(line.values())).config for line in lines] == ["dense", "3,3,3,2"]
    assert all(set(line) == {"cosine", "chebyshev"} for line in lines)


def test_a_dense_row_of_one_basis_fills_both_columns(report, row) -> None:
    data = report(
        [row("cosine", "dense", 4, 91.0), row("cosine", "2,2,2,2", 4, 90.0), row("chebyshev", "2,2,2,2", 4, 90.0)]
    )
    dense = side_by_side(data)[0]
    assert dense["chebyshev"].top1_quant == dense["cosine"].top1_quant == 91.0


def test_rows_with_the_same_bits_and_config_keep_a_line_each(report, row) -> None:
    data = report([row("cosine", "2,2,2,2", 4, 90.0), row("cosine", "2,2,2,2", 4, 91.0)])
    assert [line["cosine"].top1_quant for line in side_by_side(data)] == [90.0, 91.0]


def test_frontier_keeps_what_nothing_beats(row) -> None:
    rows = [
        row("cosine", "a", 4, top1, size_mb=size)
        for size, top1 in ((3, 90.0), (1, 80.0), (2, 79.0), (4, 90.0), (1, 70.0))
    ]
    assert [(each.size_mb, each.top1) for each in frontier(measured(rows))] == [(1, 80.0), (3, 90.0)]
