"""A folder to run in, for tests of whole runs."""

import pytest

from tests.support.networks import write_module, write_npz


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with data and a user's module, which is the current folder of every run."""
    folder = tmp_path_factory.mktemp("work")
    write_npz(folder / "colours.npz", train=384)
    write_module(folder)
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SERIESQUANT_CACHE", str(folder / "cache"))
    return folder
