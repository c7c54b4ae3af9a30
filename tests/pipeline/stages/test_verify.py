"""The reload in a fresh process: zero for honest files, the difference for others, an error for damaged ones."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from pipeline.artifact import Identity, write_artifact
from pipeline.artifact.record import build_network
from pipeline.data.dataset import Normalization
from pipeline.data.sources import load_dataset
from pipeline.errors import DataError, LostProcessError
from pipeline.models.registry import build_model
from pipeline.runner import run
from pipeline.stages import quantize, verify
from pipeline.stages.evaluate import evaluate, images_to_reload
from pipeline.stages.verify import reload_differences
from tests.pipeline.artifact.samples import IDENTITY, compressed
from tests.support.networks import write_module, write_npz
from tests.support.report_schema import read_report
from tests.support.runs import options

CPU = torch.device("cpu")


@pytest.fixture
def data(tmp_path):
    return load_dataset(str(write_npz(tmp_path / "colours.npz", test=300)))


@pytest.fixture
def network_folder(tmp_path, monkeypatch):
    """A user's network in a package that only this process' search path leads to; the working folder is another."""
    package = tmp_path / "elsewhere" / "nets"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    write_module(package)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(str(package.parent))
    yield package.parent
    for name in ("nets", "nets.tiny_net"):
        sys.modules.pop(name, None)


MODEL = "nets.tiny_net:make"


def measured(folder: Path, data, bits: int, model: str = MODEL) -> tuple[Path, Tensor]:
    identity = Identity(model, 4, data.class_names, IDENTITY.mean, IDENTITY.std, data.image_size)
    record, path = compressed(bits), folder / f"{bits}.safetensors"
    write_artifact(record, identity, path)
    result = evaluate(build_network(record, build_model(model, 4)), data.test, device=CPU)
    return path, result.logits[: images_to_reload(data)]


@pytest.mark.usefixtures("fresh_process")
def test_files_give_exactly_the_logits_that_were_measured(tmp_path, data, network_folder):
    files = [measured(tmp_path, data, bits) for bits in (4, 8)]
    assert len(files[0][1]) == 300
    assert reload_differences(files, data, MODEL, CPU) == [0.0, 0.0]


@pytest.mark.usefixtures("fresh_process")
def test_a_module_is_found_again_from_where_it_was_imported(tmp_path, data, network_folder, monkeypatch):
    files = [measured(tmp_path, data, 4)]
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(network_folder)])
    os.chdir(tmp_path)
    assert reload_differences(files, data, MODEL, CPU) == [0.0]


SHOWS_PRECISION = """
import torch
from nets.tiny_net import make as make_tiny

def make():
    network = make_tiny()
    network.register_forward_hook(lambda *given: given[-1] * len(torch.get_float32_matmul_precision()))
    return network
"""


def test_the_fresh_process_has_the_matmul_precision_of_the_measurement(tmp_path, data, network_folder):
    (network_folder / "nets" / "precise.py").write_text(SHOWS_PRECISION)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        files = [measured(tmp_path, data, 4, "nets.precise:make")]
        assert reload_differences(files, data, "nets.precise:make", CPU) == [0.0]
    finally:
        torch.set_float32_matmul_precision(before)
        sys.modules.pop("nets.precise", None)


def test_other_logits_are_differences(tmp_path, data, network_folder):
    files = [measured(tmp_path, data, bits) for bits in (8, 4)]
    files[1][1][7, 2] += 0.5
    assert reload_differences(files, data, MODEL, CPU) == [0.0, pytest.approx(0.5, abs=1e-6)]


@pytest.mark.parametrize("wrong", [torch.full((300, 4), torch.nan), torch.zeros(300, 5)])
def test_logits_that_do_not_compare_differ_without_bound(tmp_path, data, network_folder, wrong):
    path, _ = measured(tmp_path, data, 4)
    assert reload_differences([(path, wrong)], data, MODEL, CPU) == [float("inf")]


def test_a_damaged_file_is_an_error(tmp_path, data, network_folder):
    path, logits = measured(tmp_path, data, 4)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"4\.safetensors is damaged"):
        reload_differences([(path, logits)], data, MODEL, CPU)


def test_a_network_that_only_this_process_has_is_no_figure(tmp_path, data, network_folder, caplog):
    file = measured(tmp_path, data, 4)
    (network_folder / "nets" / "tiny_net.py").unlink()
    assert reload_differences([file], data, MODEL, CPU) is None
    assert "not reloaded" in caplog.text
    assert "'nets.tiny_net:make' could not be imported" in caplog.text


def test_the_measured_process_is_another_one(tmp_path, data, network_folder, monkeypatch):
    """The loader of this process does not run again."""
    file = measured(tmp_path, data, 4)

    def refuse(*_, **__):
        raise AssertionError

    monkeypatch.setattr(verify, "load_parts", refuse)
    assert reload_differences([file], data, MODEL, CPU) == [0.0]


@pytest.mark.parametrize(("size", "test_images", "expected"), [(32, 300, 300), (32, 900, 500), (224, 900, 250)])
def test_whole_batches_are_compared_up_to_a_size(size, test_images, expected):
    class Facts:
        image_size = (size, size)
        test = range(test_images)
        normalization = Normalization()

    assert images_to_reload(Facts()) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "expected"), [(0.5, pytest.approx(0.5, abs=1e-5)), (float("nan"), sys.float_info.max)]
)
def test_a_network_that_differs_is_a_row_of_the_report_and_fails_the_gate(here, monkeypatch, wrong, expected):
    """The fresh process loads what is on the disk: a wrong measurement in this one makes them differ."""
    chosen = {"config": ("3,2,2",), "basis": ("cosine",), "bits": (8, 4), "epochs": 0}
    real = quantize.evaluate_together

    def off_by_a_half(*given):
        found = real(*given)
        found.logits[3, 1] += wrong
        return found

    monkeypatch.setattr(quantize, "evaluate_together", off_by_a_half)
    result = run(options(here, "differs", **chosen, fresh=True))
    report = read_report(here / "differs")
    assert result.exit_code == report["exit_code"] == 3
    assert report["status"] == "done"
    found = [row["reloaded_logits_max_abs_diff"] for row in report["rows"]]
    assert found == [expected] * 2
    assert report["gate"]["passed"] is False
    assert [sentence.split()[:5] for sentence in report["gate"]["failures"]] == [
        ["cosine", "3,2,2", "at", bits, "bits"] for bits in ("8", "4")
    ]
    again = run(options(here, "differs", **chosen)).report
    assert not next(each for each in again["run"]["stages"] if each["name"] == "artifacts: reload")["cached"]


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [(-9, LostProcessError, "signal 9"), (1, LostProcessError, "the reason"), (4, DataError, "the reason")],
)
def test_a_process_that_fails_is_not_taken_for_a_damaged_file(tmp_path, data, monkeypatch, code, kind, words):
    def run_child(command, **_):
        return subprocess.CompletedProcess(command, code, "", "Traceback\nthe reason\n")

    monkeypatch.setattr(verify, "subprocess", SimpleNamespace(run=run_child))
    (tmp_path / "here").mkdir()
    with pytest.raises(kind, match=words):
        reload_differences([(tmp_path / "here" / "4.safetensors", torch.zeros(300, 4))], data, "resnet20", CPU)


def test_a_reload_that_was_not_possible_is_tried_again(here, monkeypatch, caplog):
    """The result of the first run is not stored."""
    chosen = options(here, "again", config=("3,2,2",), basis=("cosine",), bits=(8,), epochs=0, seed=7)
    real = verify.reload_differences
    monkeypatch.setattr(verify, "reload_differences", lambda *_: None)
    assert run(chosen).report["rows"][0]["reloaded_logits_max_abs_diff"] is None
    monkeypatch.setattr(verify, "reload_differences", real)
    assert run(chosen).report["rows"][0]["reloaded_logits_max_abs_diff"] == 0


def test_equal_logits_that_are_not_finite_do_not_differ():
    logits = torch.tensor([[1.0, torch.nan, torch.inf]])
    assert verify.largest_difference(logits.clone(), logits) == 0.0


def test_a_disk_that_is_full_at_the_reload_is_named(data, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as caught:
        reload_differences([(tmp_path / "a.safetensors", torch.zeros(1, 4))], data, MODEL, CPU)
    assert "images.safetensors" in caught.value.filename
