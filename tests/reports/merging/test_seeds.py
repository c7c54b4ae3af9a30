import statistics

import pytest

from reports.merging.seeds import by_seed, seed_table, spread


def test_spread_is_mean_and_sample_deviation() -> None:
    values = [90.1, 90.4, 89.8]
    assert spread(values) == f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" == "90.10 ± 0.30"


@pytest.mark.parametrize("values", [[], [1.0], [1.0, None], [None, None]])
def test_what_was_not_measured_everywhere_has_no_spread(values) -> None:
    assert spread(values) == "-"


def test_only_keys_with_several_seeds_are_kept() -> None:
    rows = [("a", 0, {"n": 1}), ("a", 1, {"n": 2}), ("b", 0, {"n": 3}), ("a", 1, {"n": 4})]
    assert by_seed(rows) == {"a": {0: {"n": 1}, 1: {"n": 4}}}


def test_the_report_of_one_run_has_no_table(report, row) -> None:
    assert seed_table(report([row("cosine", "3,3,3,2", 4, 90.2)])) == ""
