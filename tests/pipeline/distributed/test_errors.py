"""A process that ends, or cannot take part, leaves no other waiting."""

import os
import signal
from typing import Any

import pytest

from pipeline.cli import entry
from pipeline.errors import OptionsError
from pipeline.executors import executor
from pipeline.failure import EXIT_DATA
from pipeline.options.options import Options
from pipeline.runtime.device import make_accelerator
from pipeline.runtime.signals import Interruption
from tests.pipeline.distributed.lost import KILLED, NOTICED, lose_one
from tests.pipeline.distributed.refused import refuse
from tests.support.launching import fork_several


def test_a_process_that_is_killed_is_noticed():
    """Without torchrun, which ends all processes when one ends, perhaps before they notice."""
    assert fork_several(2, lose_one) == [NOTICED, KILLED]


def test_no_process_ends_before_an_error_of_all_is_reported(tmp_path):
    """A launcher ends all processes when one ends, so that the report could be missing."""
    assert fork_several(2, refuse, tmp_path) == [EXIT_DATA, EXIT_DATA]


@pytest.fixture
def launched(monkeypatch):
    values = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize("device", ["cuda:0", "mps"])
def test_several_processes_do_not_share_a_device(device):
    with pytest.raises(OptionsError, match=f"--device.* {device} .*\\b2\\b.*allowed: auto, cpu, or cuda"):
        make_accelerator(device)


@pytest.mark.usefixtures("launched")
def test_an_executor_with_processes_of_its_own_is_refused():
    options = Options.model_validate({"config": ["3,3,3,2"], "executor": "ray"})
    with pytest.raises(OptionsError, match=r"--executor.* ray .*\b2\b.*allowed: local"):
        executor(options, Interruption())


@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_every_process_needs_a_device_of_its_own(device, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(OptionsError, match=r"LOCAL_RANK 1\b.*\b1 CUDA.*allowed"):
        make_accelerator(device)


class Exited(BaseException):
    """The end of the process."""


@pytest.fixture
def exit_code_of(monkeypatch):
    """Return a function that runs the program to its end."""

    def run(*argv: str) -> int:
        with pytest.raises(Exited) as ended:
            entry.main([*argv])
        return ended.value.args[0]

    def end(code: int) -> Any:
        raise Exited(code)

    monkeypatch.setattr("os._exit", end)
    return run


REFUSED = ("--config", "3,3,3,2", "--bits", "9")


@pytest.mark.usefixtures("launched")
def test_refused_options_are_reported_by_the_main_process_alone(exit_code_of, capsys, monkeypatch):
    """A launcher ends the other processes when the main one has reported and ended."""
    monkeypatch.setattr("time.sleep", lambda seconds: os.kill(os.getpid(), signal.SIGTERM))
    assert exit_code_of(*REFUSED) == 2
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert exit_code_of(*REFUSED) == 2
    assert capsys.readouterr().err.startswith("error: --bits: got '9'")


@pytest.mark.usefixtures("launched")
def test_options_that_one_process_alone_refuses_are_reported_by_it(exit_code_of, capsys, monkeypatch):
    monkeypatch.setattr(entry, "SECONDS_FOR_MAIN_RANK", 0.0)
    assert exit_code_of("--config", "3,3,3,2", "--options", "gone.yaml") == 2
    assert capsys.readouterr().err.startswith("error: process 1 of 2: options file 'gone.yaml'")
