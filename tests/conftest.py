"""Fixtures of all tests: the folder of the real data, a store, and what makes runs in a test's process faster."""

import gc
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from pipeline.runtime.packages import PACKAGES
from pipeline.runtime.threads import usable_cpus
from reports.html.page import plot_specification
from reports.plots import write_plots
from tests.support.blank import blank_plots
from tests.support.forking import run_child

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadFileScheduling

# A shell ignores SIGINT, and nohup SIGHUP, in what they start, and so would the programs that the tests interrupt.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

# No test times anything: on a busy machine each example takes longer.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

pytest_plugins = ["pytester"]  # for the test of this very file

REAL_FILES = ("cifar10.npz", "resnet20-12fca82f.th", "resnet32-d509ac18.th", "poster_tables.json")
TOGETHER = ("tests/pipeline/tracking/",)
"""Folders whose tests share one MLflow server: to start another takes ten seconds."""
LONGEST = (
    *("test_poster.py", "test_installed.py", "test_ray.py", "test_kills.py", "test_environments.py"),
    *("test_imagenet.py", "test_mlflow.py", "test_library.py", "test_command.py", "test_results.py", "test_down.py"),
    *("test_onnx_top1.py", "test_target_files.py", "test_runner.py", "test_stages.py", "test_verify.py"),
    *("test_worker.py", "test_parametric.py", "test_independent_reader.py", "test_run.py", "test_repeat.py"),
    *("test_compress.py", "test_compress_training.py", "test_failure.py", "test_report.py", "test_inputs.py"),
)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Every test has the levels of a library, though the program may have been called in this process before."""
    root, *ours = (logging.getLogger(name) for name in ("", *PACKAGES))
    before = root.handlers[:]
    root.setLevel(logging.WARNING)
    for logger in ours:
        logger.setLevel(logging.NOTSET)
    yield
    root.handlers[:] = before


@pytest.fixture(scope="session", autouse=True)
def _store_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads what the tests stored another time, or writes into the user's own store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERIESQUANT_CACHE", str(tmp_path_factory.mktemp("store")))
        yield


_frozen = 0


@pytest.fixture(autouse=True)
def _libraries_are_no_garbage() -> None:
    """Hide the libraries from the garbage collector, which would look through them after each training of a run."""
    global _frozen
    if len(sys.modules) > _frozen + 20:
        gc.collect()
        gc.freeze()
        _frozen = len(sys.modules)


@pytest.fixture(scope="session", autouse=True)
def _disk_may_be_late() -> Iterator[None]:
    """No test ends with a power failure, so that none waits for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _reloads_are_forked() -> Iterator[None]:
    """Runs in a test's process reload their artifacts in forked processes, which need not import the libraries."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.stages.verify.subprocess", SimpleNamespace(run=run_child))
        yield


@pytest.fixture(scope="session", autouse=True)
def _plots_are_blank() -> Iterator[None]:
    """Runs in a test's process write blank plots: to draw them takes a third of a small run. See ``plots_drawn``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reports.write.write_plots", blank_plots)
        patch.setattr("reports.html.page.plot_specification", lambda report: None)
        yield


@pytest.fixture(scope="module")
def plots_drawn() -> Iterator[None]:
    """Runs of this module draw their plots."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reports.write.write_plots", write_plots)
        patch.setattr("reports.html.page.plot_specification", plot_specification)
        yield


@pytest.fixture(scope="session", autouse=True)
def _operators_are_registered_once() -> Iterator[None]:
    """The exporter of torch collects its operators anew for each network, which takes longer than to export it."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(scope="session", autouse=True)
def _graphs_are_traced_once() -> Iterator[None]:
    """Runs in a test's process share the graphs of their ONNX files."""
    from tests.support.traces import shared_trace

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.onnx.file.trace", shared_trace())
        yield


@pytest.fixture
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run in this process reloads its artifacts in a fresh process, as users' runs do."""
    monkeypatch.setattr("pipeline.stages.verify.subprocess", subprocess)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder that SERIESQUANT_DATA names; a folder that is named but not complete is a failure, never a skip."""
    named = os.environ.get("SERIESQUANT_DATA")
    if not named:
        pytest.skip("SERIESQUANT_DATA is not set: it names the folder with CIFAR-10 and the poster's checkpoints")
    folder = Path(named)
    missing = [name for name in REAL_FILES if not (folder / name).is_file()]
    if missing:
        pytest.fail(f"SERIESQUANT_DATA is {named}, which lacks {', '.join(missing)}", pytrace=False)
    return folder


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return one process more than CPUs: some tests wait for servers, clusters and processes."""
    return len(usable_cpus()) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Set the environment of several test processes before they start: numpy reads its variable when imported."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Large pages, and freed memory that is kept; see docs/environments.md for the latter.
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**27))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**29))
    os.environ.setdefault("RAY_worker_niceness", "0")  # at Ray's 15 its workers wait for the other tests


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Import the tests, and the libraries with them, without the garbage collector."""
    global _frozen
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        _frozen = len(sys.modules)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: of several processes none gets one of them last."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "LoadFileScheduling":
    """Give each file to one process, and the files of ``TOGETHER`` to the same one."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return next(filter(file.startswith, TOGETHER), file)

    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def _real_data(request: pytest.FixtureRequest) -> None:
    """A test marked `real` needs the folder whether or not it asks for it by name."""
    if request.node.get_closest_marker("real"):
        request.getfixturevalue("data_folder")
