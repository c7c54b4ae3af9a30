"""A user's modules with the names of the project's packages."""

import importlib
import sys
import tomllib

import pytest

import quant
from pipeline.runtime.packages import FINDER, PACKAGES, ROOT, clashing, hidden_for, install


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_no_module_of_our_names_is_no_clash(folder):
    (folder / "nets.py").touch()
    (folder / "reports").mkdir()
    (folder / "reports" / "first.html").touch()
    assert clashing(folder) == {}
    assert clashing(ROOT) == {}


def test_modules_and_packages_clash(folder):
    (folder / "quant.py").touch()
    (folder / "basis").mkdir()
    (folder / "basis" / "__init__.py").touch()
    (folder / "reports").mkdir()
    (folder / "reports" / "plot.py").touch()
    assert set(clashing(folder)) == {"quant", "basis", "reports"}


def test_ours_are_hidden_and_come_back(folder):
    (folder / "quant.py").write_text("here = True\n")
    with hidden_for(folder):
        first = importlib.import_module("quant")
        assert first.here
    assert sys.modules["quant"] is quant
    assert importlib.import_module("quant.packing").__file__.startswith(str(ROOT))
    with hidden_for(folder):
        assert importlib.import_module("quant") is first, "it is loaded once"


def test_another_folder_has_another_module(tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "quant.py").write_text(f"name = {name!r}\n")
        monkeypatch.syspath_prepend(str(tmp_path / name))
        with hidden_for(tmp_path / name):
            assert importlib.import_module("quant").name == name


def test_they_come_back_after_an_error(folder):
    (folder / "quant.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError), hidden_for(folder):
        importlib.import_module("quant")
    assert sys.modules["quant"] is quant
    assert FINDER.hidden == frozenset()


def test_the_finder_ignores_the_search_path(folder, monkeypatch):
    (folder / "quant.py").touch()
    monkeypatch.setattr(sys, "meta_path", sys.meta_path[:])
    install()
    install()
    assert sys.meta_path.count(FINDER) == 1
    assert FINDER.find_spec("quant").origin == str(ROOT / "quant" / "__init__.py")
    assert FINDER.find_spec("json") is None
    assert FINDER.find_spec("quant.packing", ["anywhere"]) is None


def test_every_package_is_in_the_list():
    """The command and the Ray workers also send only the loggers of these names to their output."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    include = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.partition(".")[0] for name in include} == set(PACKAGES)
