"""Large imports without the garbage collector."""

import gc
import sys
from pathlib import Path

import pytest

from pipeline.runtime.imports import import_libraries


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each call of ``gc.freeze``, which does nothing here: a later test's garbage must stay visible."""
    calls: list[int] = []
    monkeypatch.setattr(gc, "freeze", lambda: calls.append(1))
    return calls


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that notes whether the collector is on."""
    (tmp_path / "noting_module.py").write_text("import gc\nCOLLECTING = gc.isenabled()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "noting_module", raising=False)
    return "noting_module"


def test_modules_are_imported_without_the_collector_and_frozen(module: str, frozen: list[int]) -> None:
    import_libraries("json", module)
    assert sys.modules.pop(module).COLLECTING is False
    assert gc.isenabled()
    assert len(frozen) == 1


def test_loaded_modules_change_nothing(frozen: list[int]) -> None:
    import_libraries("json", "gc")
    assert frozen == []


def test_the_collector_is_as_it_was_after_an_error(frozen: list[int]) -> None:
    with pytest.raises(ModuleNotFoundError):
        import_libraries("no_such_module_anywhere")
    assert gc.isenabled()
    assert frozen == []


def test_a_collector_that_is_off_stays_off(module: str, frozen: list[int]) -> None:
    gc.disable()
    try:
        import_libraries(module)
        assert not gc.isenabled()
    finally:
        gc.enable()
        sys.modules.pop(module, None)
    assert len(frozen) == 1
