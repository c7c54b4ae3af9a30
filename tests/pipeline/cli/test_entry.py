import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import pipeline
import pipeline.stages
from basis.errors import CompressionError, NumericalError
from pipeline.cli import main
from pipeline.cli.arguments import COMMANDS
from pipeline.errors import BusyError, DataError, OptionsError
from pipeline.failure import EXIT_CODES
from pipeline.options.options import Options

ROOT = Path(__file__).parents[3]
RESUME = "to go on from the last checkpoint, run the same command again"
COMMAND = ["--config", "3,3,3,2", "--bits", "4"]


def _process(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "run_pipeline.py", *argv]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Options], Any]], None]:
    """Replace the runner by a function of the test."""

    def install(run: Callable[[Options], Any]) -> None:
        runner, plan = ModuleType("pipeline.runner"), ModuleType("pipeline.stages.dry_run")
        runner.__dict__.update(run=lambda options, progress, interruption: run(options))
        plan.__dict__.update(plan_text=lambda options: "the plan")
        for parent, name, module in ((pipeline, "runner", runner), (pipeline.stages, "dry_run", plan)):
            monkeypatch.setitem(sys.modules, f"{parent.__name__}.{name}", module)
            monkeypatch.setattr(parent, name, module, raising=False)

    return install


def _raise(error: BaseException) -> Callable[[Options], Any]:
    def run(options: Options) -> Any:
        raise error

    return run


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "--config: is missing"),
        (["--config", "6,x,3"], "config '6,x,3' has 'x'"),
        (["--config", "3,3,3,2", "--bits", "9"], "--bits: got '9'; allowed: 2 to 8"),
        (["--config", "3,3,3,2", "--epoch", "3"], "there is no flag --epoch; did you mean --epochs?"),
        (["--config", "3,3,3,2", "--options", "absent.yaml"], "options file 'absent.yaml' cannot be read"),
        (["--config", "3,3,3,2", "--track", "wandb"], "--track: got 'wandb'; allowed: mlflow, tensorboard, "),
        (["run", "--config", "3,3,3,2", "--bits", "9"], "--bits: got '9'; allowed: 2 to 8"),
        (["rum", "--config", "3,3,3,2"], "there is no command 'rum'; did you mean run? allowed: run, "),
        (["--config", "3,3,3,2", "run"], "unexpected extra argument"),
    ],
)
def test_wrong_options_exit_2_with_one_sentence(capsys: Any, argv: list[str], words: str) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err


def test_an_unknown_key_in_the_options_file(tmp_path: Path) -> None:
    (tmp_path / "o.yaml").write_text("config: 3,3,3,2\nepoch: 3\n")
    done = _process("--options", str(tmp_path / "o.yaml"))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.endswith("unknown option 'epoch'; did you mean 'epochs'?\n")


def test_help_names_every_option() -> None:
    done = _process("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert all("--" + name.replace("_", "-") in done.stdout for name in [*Options.model_fields, "options", "dry_run"])
    assert "python run_pipeline.py" in done.stdout
    assert all(f"{name}: " in done.stdout for name in COMMANDS)
    words = " ".join(done.stdout.replace("\N{BOX DRAWINGS LIGHT VERTICAL}", " ").split())
    assert words.count("(default 0)") == 2, "of --seed and --qat-epochs"
    assert all(f"{code} {meaning}" in words for code, meaning in EXIT_CODES.items())


@pytest.mark.parametrize("argv", [["--version"], ["run", "--version"], ["--bits", "99", "--version"]])
def test_the_version_is_printed(argv: list[str], capsys: Any) -> None:
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.split(",")[0].strip() == f"seriesquant {version('seriesquant')}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: Any) -> None:
    assert main([name, "--help"]) == 0
    assert f" {name} [OPTIONS]" in capsys.readouterr().out


def test_nothing_heavy_is_imported_for_the_command_line() -> None:
    code = "import sys, pipeline.cli.entry, pipeline.runtime.progress; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_fit_is_the_function_whichever_module_was_imported_first() -> None:
    code = "import basis.swap; from basis import fit; import basis; assert basis.fit is fit and callable(fit)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("code", [0, 3])
def test_stdout_has_the_result_and_the_exit_code_is_the_runs(stub: Any, capsys: Any, code: int) -> None:
    stub(lambda options: SimpleNamespace(text=options.config[0], report_path=Path("r/report.md"), exit_code=code))
    assert main(COMMAND) == code
    assert capsys.readouterr() == ("3,3,3,2\nr/report.md\n", "")


def test_run_may_be_said_or_left_out(stub: Any, capsys: Any) -> None:
    stub(lambda options: SimpleNamespace(text=str(options), report_path=Path("r/report.md"), exit_code=0))
    assert main(COMMAND) == main(["run", *COMMAND]) == 0
    first, _, second, _ = capsys.readouterr().out.splitlines()
    assert first == second


def test_dry_run(stub: Any, capsys: Any) -> None:
    stub(_raise(AssertionError()))
    assert main([*COMMAND, "--dry-run"]) == 0
    assert capsys.readouterr().out == "the plan\n"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OptionsError("wrong"), 2, "error: wrong\n"),
        (DataError("torn\nfile"), 4, "error: torn file\n"),
        (CompressionError("no layer"), 2, "error: no layer\n"),
        (NumericalError("not finite"), 5, "error: not finite\n"),
        (OSError(28, "No space left on device", "out/report.md"), 1, "error: No space left on device: out/report.md\n"),
        (BusyError("the folder is in use"), 1, "error: the folder is in use\n"),
        (KeyboardInterrupt(), 130, f"error: interrupted; {RESUME}\n"),
    ],
)
def test_exit_codes(stub: Any, capsys: Any, error: BaseException, code: int, message: str) -> None:
    stub(_raise(error))
    assert main(COMMAND) == code
    assert capsys.readouterr() == ("", message)


def test_sigterm_unwinds_and_exits_143(stub: Any, capsys: Any) -> None:
    before = signal.getsignal(signal.SIGTERM)
    unwound = []

    def run(options: Options) -> Any:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            unwound.append(True)

    stub(run)
    assert main(COMMAND) == 143
    assert unwound == [True]
    assert signal.getsignal(signal.SIGTERM) == before
    assert capsys.readouterr().err == f"error: terminated; {RESUME}\n"


@pytest.mark.parametrize("command", [["inspect", "a.safetensors"], ["cache", "ls"], [*COMMAND, "--dry-run"]])
def test_a_command_without_checkpoints_gives_no_advice_to_resume(monkeypatch: Any, capsys: Any, command: Any) -> None:
    monkeypatch.setattr("pipeline.cli.entry.read_command_line", lambda *_: lambda: _raise(KeyboardInterrupt())(None))
    assert main(command) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_ctrl_c_while_the_program_is_imported_exits_130_without_a_traceback() -> None:
    code = (
        "import os, signal, sys, seriesquant\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'pipeline.options':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "sys.exit(seriesquant.program())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (130, b"")


def test_an_internal_error_shows_its_traceback(stub: Any, capsys: Any) -> None:
    stub(_raise(ZeroDivisionError("by us")))
    assert main(COMMAND) == 1
    assert "Traceback" in (err := capsys.readouterr().err)
    assert err.endswith("ZeroDivisionError: by us\n")


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = (
        "import sys, types; r = types.ModuleType('pipeline.stages.dry_run'); r.plan_text = lambda o: 'x' * 10**6;"
        "import pipeline.stages; pipeline.stages.dry_run = sys.modules['pipeline.stages.dry_run'] = r;"
        f"from pipeline.cli import main; sys.exit(main({[*COMMAND, '--dry-run']!r}))"
    )
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (process.returncode, process.stderr) == (0, b"")


def test_the_package_exports_lazily() -> None:
    assert pipeline.Options is Options
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pipeline.nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("address", ["https://example.org/it", "s3://bucket/it"])
@pytest.mark.parametrize(
    ("argv", "name", "code"),
    [
        (["inspect"], "FILE", 4),
        (["verify"], "FILE", 4),
        (["evaluate"], "FILE", 4),
        (["evaluate", "a.safetensors", "--against"], "--against", 4),
        (["export", "--format", "onnx"], "FILE", 4),
        (["report"], "RUN", 4),
        (["poster"], "RUN", 4),
        (["--options"], "--options", 4),
        (["export", "a.safetensors", "--format", "onnx", "--out"], "--out", 2),
        (["report", "a", "--out"], "--out", 2),
        (["poster", "--out"], "--out", 2),
        (["cache", "ls", "--cache-dir"], "--cache-dir", 2),
        ([*COMMAND, "--cache-dir"], "--cache-dir", 2),
        ([*COMMAND, "--out"], "--out", 2),
    ],
)
def test_an_address_is_no_path(
    argv: list[str], name: str, code: int, address: str, capsys: Any, tmp_path: Path
) -> None:
    """It lost a slash in the error, or became a folder `s3:` that was written to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert main([*argv, address]) == code
    assert capsys.readouterr().err.startswith(f"error: {name}: got the address {address}, and nothing is ")
    assert list(tmp_path.iterdir()) == []


def test_a_variable_with_an_address(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("SERIESQUANT_CACHE", "s3://bucket/it")
    assert main(["cache", "ls"]) == 2
    assert "SERIESQUANT_CACHE: got the address s3://bucket/it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["inspect", ""], "FILE"),
        (["evaluate", "a", "--against", ""], "--against"),
        (["evaluate", "a", "--data", ""], "--data"),
        (["export", "a", "--format", "onnx", "--out", ""], "--out"),
        (["report", ""], "RUN"),
        (["report", "a", "b", "--out", " "], "--out"),
        (["cache", "prune", "--cache-dir", ""], "--cache-dir"),
        (["--options", ""], "--options"),
        ([*COMMAND, "--data", ""], "--data"),
    ],
)
def test_an_empty_path_is_not_the_current_folder(argv: list[str], name: str, capsys: Any) -> None:
    """A variable of a shell that is not set gives one."""
    assert main(argv) == 2
    assert capsys.readouterr().err.startswith(f"error: {name}: got '")
