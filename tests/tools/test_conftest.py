"""The tests on real data: skipped where there is none, and never skipped where the data is incomplete."""

from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"


@pytest.fixture
def real_test(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(CONFTEST.read_text(encoding="utf-8"))
    pytester.makeini("[pytest]\nmarkers = real: needs data\n")
    pytester.makepyfile("import pytest\n@pytest.mark.real\ndef test_nothing(): pass\n")
    return pytester


@pytest.mark.parametrize("value", [None, ""])
def test_without_data_they_are_skipped(
    real_test: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is None:
        monkeypatch.delenv("SERIESQUANT_DATA", raising=False)
    else:
        monkeypatch.setenv("SERIESQUANT_DATA", value)
    result = real_test.runpytest("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*SERIESQUANT_DATA is not set*"])


def test_an_incomplete_folder_fails(real_test: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    (real_test.path / "cifar10.npz").touch()
    monkeypatch.setenv("SERIESQUANT_DATA", str(real_test.path))
    result = real_test.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*which lacks resnet20-12fca82f.th, resnet32-d509ac18.th, poster_tables.json*"])


def test_with_data_they_run(real_test: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cifar10.npz", "resnet20-12fca82f.th", "resnet32-d509ac18.th", "poster_tables.json"):
        (real_test.path / name).touch()
    monkeypatch.setenv("SERIESQUANT_DATA", str(real_test.path))
    real_test.runpytest().assert_outcomes(passed=1)
