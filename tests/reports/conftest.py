"""Fixtures of made-up reports."""

from collections.abc import Callable, Sequence

import pytest

from reports.model import Report, Row
from tests.support.reports import Parse, make_report, make_row, many_rows, parse_table


@pytest.fixture
def row() -> Callable[..., Row]:
    """`make_row`."""
    return make_row


@pytest.fixture
def report() -> Callable[..., Report]:
    """`make_report`."""
    return make_report


@pytest.fixture
def many() -> Callable[[Sequence[str]], list[Row]]:
    """`many_rows`."""
    return many_rows


@pytest.fixture
def parse() -> Parse:
    """`parse_table`."""
    return parse_table


@pytest.fixture(scope="module", autouse=True)
def _drawn(plots_drawn: None) -> None:
    """Reports of these tests have their plots."""
