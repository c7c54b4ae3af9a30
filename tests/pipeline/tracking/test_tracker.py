"""The tracker of a run, by its options."""

import logging

import pytest

from pipeline.options.options import Options
from pipeline.tracking.tracker import tracking


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"tracking_uri": "sqlite:///runs.db"}, "--tracking-uri"),
        ({"experiment": "mine"}, "--experiment"),
        ({"tracking_uri": "sqlite:///runs.db", "experiment": "mine"}, "--tracking-uri and --experiment"),
    ],
)
def test_flags_of_mlflow_without_mlflow_are_a_warning(caplog, tmp_path, given, named) -> None:
    with caplog.at_level(logging.WARNING), tracking(Options(config="3,3,2,2", out=tmp_path, **given)):
        pass
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [named]
    assert "--track mlflow" in caplog.text


def test_a_run_without_trackers_warns_of_nothing(caplog, tmp_path) -> None:
    with caplog.at_level(logging.WARNING), tracking(Options(config="3,3,2,2", out=tmp_path)):
        pass
    assert not caplog.records
