"""The installed program, in folders whose own modules have the names of the project's packages."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.networks import SOURCE, write_npz

ROOT = Path(__file__).parents[2]
PACKAGES = ("basis", "quant", "pipeline", "reports")
CONSOLE_SCRIPT = "import sys; from seriesquant import program; sys.exit(program())"
SMALL = ("--data", "colours.npz", "--config", "3,2,2", "--bits", "4", "--epochs", "0", "--cache-dir", "cache")
PATIENCE = 600


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the content of the wheel, as pip installs it."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "seriesquant.py"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    [wheel] = (source / "dist").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    assert "seriesquant = seriesquant:program" in next(site.glob("*.dist-info/entry_points.txt")).read_text()
    return site


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project that has modules of our names, which fail unless it is the user who imports them."""
    for name in ("pipeline.py", "basis.py"):
        (tmp_path / name).write_text("raise RuntimeError('the user has not imported this')\n")
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "__init__.py").write_text("CLASSES = 4\n")
    (tmp_path / "quant.py").write_text(f"{SOURCE}\nfrom reports import CLASSES\n")
    (tmp_path / "nets.py").write_text(SOURCE)
    write_npz(tmp_path / "colours.npz")
    return tmp_path


def start(
    project: Path, program: list[str], *words: str, path: str, python: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [python, *program, *words]
    return subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def programs(site: Path) -> dict[str, tuple[list[str], str]]:
    """Name -> (words after Python, PYTHONPATH) of every way to start it; the user's folder is before ours."""
    return {
        "wheel": (["-c", CONSOLE_SCRIPT], f".{os.pathsep}{site}"),
        "module": (["-m", "seriesquant"], f".{os.pathsep}{site}"),
        "checkout": ([str(ROOT / "run_pipeline.py")], "."),
    }


@pytest.mark.parametrize(("way", "model"), [("module", "nets:make"), ("checkout", "quant.py:make")])
def test_it_starts_and_finds_the_users_modules(site: Path, project: Path, way: str, model: str) -> None:
    program, path = programs(site)[way]
    done = start(project, program, "--model", model, *SMALL, "--dry-run", path=path)
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    assert f"{model} on colours" in done.stdout


def test_a_whole_run_and_its_child_process(site: Path, project: Path) -> None:
    program, path = programs(site)["wheel"]
    done = start(project, program, "--model", "quant:make", *SMALL, "--out", "out", path=path)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((project / "out" / "report.json").read_text())["rows"]
    assert row["reloaded_logits_max_abs_diff"] == 0
    assert list((project / "out" / "artifacts").glob("*.onnx"))
    shown = start(project, program, "verify", f"out/{row['artifact']}", "--allow-import", path=path)
    assert shown.returncode == 0, shown.stderr


def test_workers_of_a_cluster(site: Path, project: Path) -> None:
    """The environment's path has a space."""
    pytest.importorskip("ray")
    program, path = programs(site)["wheel"]
    (project / "my environment").symlink_to(sys.prefix)
    python = str(project / "my environment" / Path(sys.executable).relative_to(sys.prefix))
    words = ("--model", "quant:make", *SMALL, "--no-onnx", "--executor", "ray", "--out", "out")
    done = start(project, program, *words, path=path, python=python)
    assert done.returncode == 0, done.stderr
    assert json.loads((project / "out" / "report.json").read_text())["status"] == "done"


def test_the_library_has_the_programs_name_too(site: Path, project: Path) -> None:
    code = "import seriesquant; from seriesquant import Options, load, run; import pipeline; print(pipeline.run is run)"
    done = start(project, ["-c", code], path=f".{os.pathsep}{site}")
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr
