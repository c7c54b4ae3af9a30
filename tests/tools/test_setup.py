"""Setting up: the Makefile installs once, the checkers' versions agree, the wheel is whole."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PACKAGES = ("basis", "quant", "pipeline", "reports")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# A Python that makes "environments" which only write down what they are asked to do; pip fails while `broken`
# exists. There is no newer pip, and not all files of the packages can be compiled.
FAKE_PYTHON = """#!/bin/sh
case "$1 $2" in
  "-c "*) [ ! -e old ] ;;
  "--version "*) echo "Python 3.9.1" ;;
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip") [ "$6" = --upgrade ] && exit 1; echo pip >> log; [ ! -e broken ] ;;
  "-m compileall") false ;;
  *) echo "$*" >> log ;;
esac
"""

TEST = "-m pytest -n auto --maxprocesses 3 --dist loadfile --no-loadscope-reorder"


class Checkout:
    """A folder with the Makefile and a fake Python."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copy(ROOT / "Makefile", folder)
        (folder / "pyproject.toml").touch()
        (folder / "python").write_text(FAKE_PYTHON)
        (folder / "python").chmod(0o755)

    def make(self, *targets: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        return subprocess.run(
            ["make", f"PYTHON={self.folder / 'python'}", *targets],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
        )

    @property
    def log(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_run_and_test_share_one_installation(checkout: Checkout) -> None:
    assert checkout.make("run").returncode == 0
    assert checkout.make("test").returncode == 0
    assert checkout.log == ["pip", "run_pipeline.py --bits 4 --config 6,3,3,2,2", TEST]


def test_help_and_clean_need_no_environment(checkout: Checkout) -> None:
    for target in ("help", "clean"):
        assert checkout.make(target).returncode == 0
    assert not (checkout.folder / ".venv").exists()
    assert not (checkout.folder / "log").exists()
    words = " ".join((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split())
    assert "`make help` and `make clean` need no environment" in words


def test_a_changed_project_is_installed_again(checkout: Checkout) -> None:
    checkout.make("test")
    later = (checkout.folder / ".venv" / ".installed").stat().st_mtime + 10
    os.utime(checkout.folder / "pyproject.toml", (later, later))
    checkout.make("test")
    assert checkout.log == ["pip", TEST, "pip", TEST]


def test_a_failed_installation_is_tried_again(checkout: Checkout) -> None:
    (checkout.folder / "broken").touch()
    assert checkout.make("test").returncode != 0
    (checkout.folder / "broken").unlink()
    assert checkout.make("test").returncode == 0
    assert checkout.log == ["pip", "pip", TEST]


def test_an_old_python_is_refused(checkout: Checkout) -> None:
    (checkout.folder / "old").touch()
    result = checkout.make("run")
    assert result.returncode != 0
    assert "seriesquant needs Python 3.11 or newer" in result.stderr
    assert "is Python 3.9.1; choose another with: make PYTHON=" in result.stderr
    assert not (checkout.folder / ".venv").exists()


def test_make_alone_lists_the_targets(checkout: Checkout) -> None:
    printed = checkout.make().stdout
    for target in ("run", "test", "check", "format", "build", "clean"):
        assert f"make {target} " in printed


def test_the_checkers_are_pinned() -> None:
    dev = PROJECT["project"]["optional-dependencies"]["dev"]
    for tool in ("ruff", "mypy", "import-linter"):
        assert any(requirement.startswith(f"{tool}==") for requirement in dev), tool


def test_the_hooks_run_the_pinned_checkers() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    entries = [hook["entry"] for hook in config["repos"][0]["hooks"]]
    assert all(entry.startswith(".venv/bin/") for entry in entries)
    for command in ("ruff check", "ruff format", "mypy", "lint-imports", "python tools/check_docs.py"):
        assert any(entry.startswith(f".venv/bin/{command}") for entry in entries), command


def test_the_wheel_holds_the_packages_and_nothing_else(tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "seriesquant.py"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_x.py").touch()
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    [wheel] = (tmp_path / "dist").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"
    assert {name.split("/")[0] for name in names} == {*PACKAGES, "seriesquant.py", info}
    sources = {str(path.relative_to(tmp_path)) for package in PACKAGES for path in (tmp_path / package).rglob("*.py")}
    assert sources | {f"{package}/py.typed" for package in PACKAGES} <= names
    assert f"{info}/licenses/LICENSE" in names
