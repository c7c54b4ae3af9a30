"""The context of a run: its cache environment and its calibration images."""

import pytest

from pipeline.options.options import Options
from pipeline.runtime.device import make_accelerator
from pipeline.runtime.progress import SilentProgress
from pipeline.runtime.signals import Interruption
from pipeline.stages import context as module
from pipeline.stages.context import cache_environment, log_data_notes, make_context, source_digest


@pytest.fixture
def tree(tmp_path):
    """Files of some packages, like the project's."""
    for name in ("basis/ridge.py", "quant/gptq.py", "pipeline/data/augment.py", "pipeline/cli/run.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text("CONSTANT = 1\n")
    return tmp_path


@pytest.mark.parametrize("name", ["basis/ridge.py", "quant/gptq.py", "pipeline/data/augment.py"])
def test_a_changed_constant_changes_every_cache_key(tree, name):
    before = source_digest(tree)
    (tree / name).write_text("CONSTANT = 2\n")
    source_digest.cache_clear()
    assert source_digest(tree) != before


def test_code_that_computes_nothing_keeps_stored_results(tree):
    before = source_digest(tree)
    (tree / "pipeline/cli/run.py").write_text("CONSTANT = 2\n")
    source_digest.cache_clear()
    assert source_digest(tree) == before


def test_the_projects_own_source_is_in_the_environment():
    folders = [module._ROOT / name for name in module._COMPUTING]
    assert all(any(folder.rglob("*.py")) for folder in folders)
    assert cache_environment(make_accelerator("cpu"))["source"] == source_digest()


def test_a_limit_of_the_calibration_images_is_logged(here, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr("pipeline.data.dataset.PIXELS_AT_ONCE", 40 * 12 * 12)
    options = Options(config="3,2,2", model="tiny_net:make", data="colours.npz", calibration_size=50)
    context = make_context(options, make_accelerator("cpu"), SilentProgress(), Interruption())
    assert context.calibration_count == 40
    assert "calibration" not in caplog.text, "the driver logs it, and not each of its workers"
    log_data_notes(context)
    assert "40 images instead of 50" in caplog.text


def test_no_limit_of_the_calibration_images_is_not_logged(here, caplog):
    caplog.set_level("INFO")
    options = Options(config="3,2,2", model="tiny_net:make", data="colours.npz", calibration_size=50)
    log_data_notes(make_context(options, make_accelerator("cpu"), SilentProgress(), Interruption()))
    assert "calibration" not in caplog.text
