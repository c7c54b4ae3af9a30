"""The example DAG, with stand-ins that record what it asks of Airflow, and processes that end as a run may end."""

import ast
import inspect
import json
import signal
import sys
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pipeline.cli.arguments import read_flags
from pipeline.failure import EXIT_CODES, EXIT_DONE
from pipeline.options.options import Options, options_from

FILE = Path(__file__).parents[2] / "examples" / "airflow" / "dag.py"
TASK_ARGUMENTS = {  # of BaseOperator in Airflow 3
    *("retries", "retry_delay", "retry_exponential_backoff", "max_retry_delay", "execution_timeout", "pool"),
    *("pool_slots", "queue", "priority_weight", "executor_config", "on_failure_callback", "do_xcom_push"),
}


class AirflowException(Exception):  # noqa: N818 - the name is theirs
    """Stands in for Airflow's: the task fails, and is tried again."""


class AirflowFailException(AirflowException):
    """Stands in for Airflow's: the task fails, and is not tried again."""


@pytest.fixture
def example(monkeypatch) -> SimpleNamespace:
    """The module's names, and what it asked of Airflow."""
    asked: dict[str, Any] = {}

    def dag(**arguments: Any) -> Any:
        asked["dag"] = arguments
        return lambda function: function

    def task(**arguments: Any) -> Any:
        def decorate(function: Any) -> Any:
            asked["task"], asked["function"] = arguments, function
            return lambda: asked.setdefault("called", True)

        return decorate

    sdk, exceptions = ModuleType("airflow.sdk"), ModuleType("airflow.sdk.exceptions")
    sdk.__dict__.update(dag=dag, task=task)
    exceptions.__dict__.update(AirflowException=AirflowException, AirflowFailException=AirflowFailException)
    for name, module in {"airflow": ModuleType("airflow"), "airflow.sdk": sdk, exceptions.__name__: exceptions}.items():
        monkeypatch.setitem(sys.modules, name, module)
    names: dict[str, Any] = {"__name__": "example_dag"}
    exec(compile(FILE.read_text(encoding="utf-8"), str(FILE), "exec"), names)
    return SimpleNamespace(names=names, **asked)


def test_it_imports_nothing_but_airflow_and_the_standard_library() -> None:
    imported = [node for node in ast.walk(ast.parse(FILE.read_text(encoding="utf-8"))) if isinstance(node, ast.Import)]
    froms = [node for node in ast.walk(ast.parse(FILE.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)]
    modules = {alias.name for node in imported for alias in node.names} | {str(node.module) for node in froms}
    assert {name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names} == {
        *("airflow.sdk", "airflow.sdk.exceptions")
    }


def test_the_task_has_retries_resources_and_a_limit(example) -> None:
    assert example.called
    assert set(example.task) <= TASK_ARGUMENTS
    assert example.task["retries"] > 0
    assert example.task["retry_delay"].total_seconds() > 0
    assert example.task["execution_timeout"].total_seconds() > 3600
    assert example.task["pool_slots"] == int(example.names["ENVIRONMENT"]["OMP_NUM_THREADS"])
    assert not inspect.signature(example.function).parameters
    assert example.dag["catchup"] is False


def test_the_program_takes_the_command(example) -> None:
    program, *words = example.names["COMMAND"]
    flags = read_flags(words, Options.model_fields)
    options = options_from(flags.values, flags.options_file)
    assert (program, options.out) == ("seriesquant", example.names["OUT"])


def test_every_exit_code_is_mapped_as_in_the_job(example) -> None:
    retry, fail = example.names["RETRY"], example.names["FAIL"]
    assert (set(retry), set(fail)) == ({1, 129, 130, 143}, {2, 3, 4, 5})
    assert {*retry, *fail, example.names["DONE"]} == set(EXIT_CODES)
    assert example.names["DONE"] == EXIT_DONE


def ends(example: SimpleNamespace, folder: Path, code: int, report: dict[str, Any] | None) -> Any:
    """Run the task's function with a command that leaves a report and ends with a code."""
    if report is not None:
        (folder / "report.json").write_text(json.dumps(report))
    example.names["OUT"] = folder
    example.names["COMMAND"] = [sys.executable, "-c", f"import os; os._exit({code})"]
    return example.function()


def test_done_gives_the_figures(example, tmp_path) -> None:
    rows = [{"artifact": "artifacts/a.safetensors", "top1_quant": 91.5}]
    assert ends(example, tmp_path, 0, {"rows": rows}) == {"artifacts/a.safetensors": 91.5}


@pytest.mark.parametrize(
    ("code", "report", "words"),
    [
        (2, {"error": {"message": "--bits: got '9'"}, "gate": {"failures": []}}, "wrong options: --bits: got '9'"),
        (3, {"error": None, "gate": {"failures": ["a loses", "b takes"]}}, "a gate missed: a loses; b takes"),
        (4, {"error": {"message": "no file"}, "gate": {"failures": []}}, "missing or damaged: no file"),
        (4, None, "missing or damaged: see the log"),
    ],
)
def test_what_would_fail_again_is_not_tried_again(example, tmp_path, code, report, words) -> None:
    with pytest.raises(AirflowFailException, match=words):
        ends(example, tmp_path, code, report)


@pytest.mark.parametrize(("code", "words"), [(1, "internal error"), (130, "interrupted"), (143, "term"), (137, "137")])
def test_what_may_end_well_is_tried_again(example, tmp_path, code, words) -> None:
    with pytest.raises(AirflowException, match=words) as caught:
        ends(example, tmp_path, code, {"error": None, "gate": None, "rows": []})
    assert not isinstance(caught.value, AirflowFailException)


def test_a_task_that_is_cleared_ends_the_command(example, tmp_path) -> None:
    mark = tmp_path / "ended"
    program = (
        "import pathlib, signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(mark)!r}).touch(), sys.exit(143)))\n"
        f"pathlib.Path({str(tmp_path / 'ready')!r}).touch()\n"
        "time.sleep(600)\n"
    )
    example.names["COMMAND"] = [sys.executable, "-c", program]

    def clear() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.05)
        signal.pthread_kill(waiting, signal.SIGINT)  # sent to the process, it can reach this thread and wake nobody

    waiting = threading.get_ident()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
    try:
        threading.Thread(target=clear).start()
        with pytest.raises(KeyboardInterrupt):
            example.function()
    finally:
        signal.signal(signal.SIGINT, before)
    assert mark.exists()
