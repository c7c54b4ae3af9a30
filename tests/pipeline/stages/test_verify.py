"""The reload in a fresh process: zero for honest files, and a sentence for every other."""

import os
import sys
from pathlib import Path

import pytest
import torch

from pipeline.artifact import Identity, load, write_artifact
from pipeline.artifact.record import build_network
from pipeline.data.sources import load_dataset
from pipeline.errors import DataError
from pipeline.models.registry import build_model
from pipeline.stages import verify as reload
from pipeline.stages.evaluate import evaluate
from pipeline.stages.verify import Measured, images_to_reload, reload_differences
from tests.pipeline.artifact.samples import IDENTITY, compressed
from tests.support.networks import write_module, write_npz

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


def measured(folder: Path, data, bits: int) -> Measured:
    identity = Identity(MODEL, 4, data.class_names, IDENTITY.mean, IDENTITY.std, data.image_size)
    record, path = compressed(bits), folder / f"{bits}.safetensors"
    write_artifact(record, identity, path)
    result = evaluate(build_network(record, build_model(MODEL, 4)), data.test, device=CPU)
    return Measured("", path, result.logits[: images_to_reload(data)])


def test_files_give_exactly_the_logits_that_were_measured(tmp_path, data, network_folder):
    files = [measured(tmp_path, data, bits) for bits in (4, 8)]
    assert len(files[0].logits) == 300
    assert reload_differences(files, data, MODEL, CPU) == [0.0, 0.0]


def test_a_module_is_found_again_from_where_it_was_imported(tmp_path, data, network_folder, monkeypatch):
    files = [measured(tmp_path, data, 4)]
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(network_folder)])
    os.chdir(tmp_path)
    assert reload_differences(files, data, MODEL, CPU) == [0.0]


def test_other_logits_are_an_error(tmp_path, data, network_folder):
    file = measured(tmp_path, data, 4)
    file.logits[7, 2] += 0.5
    with pytest.raises(DataError, match=r"4.safetensors reloads with logits 0\.5 from the measured ones; allowed: 0"):
        reload_differences([file], data, MODEL, CPU)


def test_a_damaged_file_is_an_error(tmp_path, data, network_folder):
    file = measured(tmp_path, data, 4)
    file.path.write_bytes(file.path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"reloading in a fresh process failed: .*4\.safetensors is damaged"):
        reload_differences([file], data, MODEL, CPU)


def test_a_network_that_only_this_process_has_is_no_figure(tmp_path, data, network_folder, caplog):
    file = measured(tmp_path, data, 4)
    (network_folder / "nets" / "tiny_net.py").unlink()
    assert reload_differences([file], data, MODEL, CPU) is None
    assert "were not reloaded in a fresh process: the model 'nets.tiny_net:make' could not be imported" in caplog.text


def test_the_measured_process_is_another_one(tmp_path, data, network_folder, monkeypatch):
    """Nothing of this process is asked again: its own loader does not run."""
    file = measured(tmp_path, data, 4)

    def refuse(*_, **__):
        raise AssertionError

    monkeypatch.setattr(reload, "load", refuse)
    assert reload_differences([file], data, MODEL, CPU) == [0.0]


@pytest.mark.parametrize(("size", "test_images", "expected"), [(32, 300, 300), (32, 900, 500), (224, 900, 250)])
def test_whole_batches_are_compared_up_to_a_size(size, test_images, expected):
    class Facts:
        image_size = (size, size)
        test = range(test_images)

    assert images_to_reload(Facts()) == expected  # type: ignore[arg-type]


def test_the_fresh_process_answers_here_as_well(tmp_path, data, network_folder):
    """The function that it runs, in this process: it loads each path and leaves the logits under its number."""
    file = measured(tmp_path, data, 4)
    (tmp_path / "exchange").mkdir()
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        reload._ask(tmp_path / "exchange", [file.path], data, CPU)
        assert reload.answer(str(tmp_path / "exchange")) == 0
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
    expected = evaluate(load(file.path, allow_import=True), data.test, device=CPU).logits
    found = reload.safetensors.torch.load_file(tmp_path / "exchange" / "logits.safetensors")
    assert torch.equal(found["0"], expected)
