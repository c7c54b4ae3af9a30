"""The list of the project's loggers."""

import tomllib
from pathlib import Path

from pipeline.runtime.loggers import LOGGERS

PROJECT = Path(__file__).parents[3] / "pyproject.toml"


def test_every_package_has_its_logger_in_the_list():
    """The command and the Ray workers send only the loggers of the list to their output."""
    find = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]["find"]
    assert {name.partition(".")[0] for name in find["include"]} == set(LOGGERS)
