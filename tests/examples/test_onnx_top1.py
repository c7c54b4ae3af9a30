"""The example that needs onnxruntime and numpy alone, in environments that have nothing else."""

import os
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from pipeline.options.options import Options
from pipeline.runner import run
from tests.support.networks import write_module, write_npz

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_top1.py"
REFUSING = """
import runpy, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "basis", "quant", "pipeline", "reports", "onnx", "safetensors"}:
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    """A run's folder, its data, and the Top-1 that its report states for the ONNX file."""
    folder, patch = tmp_path_factory.mktemp("example"), pytest.MonkeyPatch()
    with patch.context() as at:
        at.chdir(folder)
        at.setenv("SERIESQUANT_CACHE", str(folder / "cache"))
        data, model = write_npz(folder / "colours.npz"), write_module(folder)
        options = {"config": ("3,2,2",), "bits": (4,), "basis": ("cosine",), "model": model, "epochs": 0}
        row = run(Options(**options, data=str(data), out=folder / "out")).report["rows"][0]
    return folder / "out" / row["onnx"], data, row["onnx_top1"]


def output_of(python: Path | str, *arguments: object) -> str:
    words = [str(python), "-I", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_prints_the_top1_of_the_report_without_torch_and_this_project(compressed):
    network, data, top1 = compressed
    refused = output_of(sys.executable, "-c", REFUSING, EXAMPLE, network, data)
    assert refused == f"Top-1 {top1:.2f} on 61 images\n"


def test_it_takes_the_first_images_only_when_asked(compressed):
    network, data, _ = compressed
    assert output_of(sys.executable, EXAMPLE, network, data, 7).endswith("on 7 images\n")


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory):
    """A Python with onnxruntime and numpy, in the versions that the tests run with, and what these two need."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)  # this environment's pip installs into that one too
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    wanted = [f"{name}=={version(name)}" for name in ("onnxruntime", "numpy")]
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    words = [*pip, "install", "--quiet", "--no-compile", *wanted]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot install onnxruntime here: {done.stderr.strip().splitlines()[-1:]}")
    return python


def test_it_runs_in_an_environment_with_onnxruntime_and_numpy_only(compressed, bare_python):
    network, data, top1 = compressed
    missing = "import importlib.util as u; print([u.find_spec(n) for n in ('torch', 'pipeline', 'onnx')])"
    assert output_of(bare_python, "-c", missing) == "[None, None, None]\n"
    assert output_of(bare_python, EXAMPLE, network, data) == f"Top-1 {top1:.2f} on 61 images\n"


@pytest.mark.real
def test_resnet20_on_cifar10_from_the_bare_environment(data_folder, bare_python, tmp_path):
    arrays = np.load(data_folder / "cifar10.npz")
    kept = {"x_train": 128, "y_train": 128, "x_test": 200, "y_test": 200}
    data = tmp_path / "part.npz"
    np.savez(data, **{name: arrays[name][:count] for name, count in kept.items()})
    report = run(
        Options(
            config=("3,3,2,2",),
            bits=(4, 3),
            model="resnet20",
            weights=str(data_folder / "resnet20-12fca82f.th"),
            data=str(data),
            epochs=0,
            calibration_size=128,
            out=tmp_path,
        )
    ).report
    for row in report["rows"]:
        said = output_of(bare_python, EXAMPLE, tmp_path / row["onnx"], data)
        assert said == f"Top-1 {row['onnx_top1']:.2f} on 200 images\n"
        assert row["onnx_differing_predictions"] <= 2
        assert row["onnx_size_mb"] <= 1.1 * row["size_mb"] + 0.04
    assert [row["onnx_bits"] for row in report["rows"]] == [4, 4]


def test_it_is_about_thirty_lines_and_imports_two_packages():
    lines = EXAMPLE.read_text().splitlines()
    assert len(lines) <= 40
    imports = {line.split()[1] for line in lines if line.startswith(("import ", "from "))}
    assert imports == {"json", "sys", "numpy", "onnxruntime"}
