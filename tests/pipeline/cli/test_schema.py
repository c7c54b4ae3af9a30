import json
import subprocess
import sys

import pytest

from pipeline.cli import main
from tests.support.report_schema import SCHEMA


def test_it_prints_the_schema_and_nothing_else(capsys) -> None:
    assert main(["schema"]) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == (SCHEMA, "")


def test_it_does_not_load_torch() -> None:
    words = "import sys; from pipeline.cli import main; main(['schema']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], stdout=subprocess.DEVNULL, check=False).returncode == 0


@pytest.mark.parametrize("argv", [["schema", "3"], ["schema", "--out", "x"]])
def test_it_takes_no_words(capsys, argv) -> None:
    assert main(argv) == 2
    assert capsys.readouterr().err.count("\n") == 1
