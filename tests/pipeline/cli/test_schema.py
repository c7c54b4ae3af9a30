import json
from importlib import resources

import pytest

from pipeline.cli import main
from tests.support.report_schema import SCHEMA


def test_it_prints_the_schema_and_nothing_else(capsys) -> None:
    assert main(["schema"]) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == (SCHEMA, "")


def test_the_schema_is_part_of_the_package() -> None:
    assert resources.files("reports").joinpath("schema.json").is_file()


@pytest.mark.parametrize("argv", [["schema", "3"], ["schema", "--out", "x"]])
def test_it_takes_no_words(capsys, argv) -> None:
    assert main(argv) == 2
    assert capsys.readouterr().err.count("\n") == 1
