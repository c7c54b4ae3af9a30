from pathlib import Path

import pytest
import vl_convert

from reports.html.vega import with_vega


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The scripts that were bundled; a bundle names its script. The cache folder is empty."""
    made: list[str] = []

    def bundle(script: str) -> str:
        made.append(script)
        return f"/* Vega: é */ {script}"

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(vl_convert, "javascript_bundle", bundle)
    return made


def _in_a_new_process(script: str) -> str:
    with_vega.cache_clear()
    return with_vega(script)


def test_a_second_process_reads_what_the_first_has_made(made: list[str]) -> None:
    assert _in_a_new_process("draw()") == _in_a_new_process("draw()") == "/* Vega: é */ draw()"
    assert made == ["draw()"]


def test_another_script_or_version_is_another_module(made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for script, version in (("draw()", "1.9"), ("drawn()", "1.9"), ("draw()", "1.10")):
        monkeypatch.setattr("reports.html.vega.version", {"vl-convert-python": version}.__getitem__)
        assert _in_a_new_process(script).endswith(script)
    assert made == ["draw()", "drawn()", "draw()"]


@pytest.mark.parametrize("content", [None, b"\xff\xfe"], ids=["no folder can be made", "damaged file"])
def test_a_cache_that_cannot_be_used_costs_only_time(content: bytes | None, made: list[str], tmp_path: Path) -> None:
    if content is None:
        (tmp_path / "cache").write_text("a file in the place of the folder")
    else:
        _in_a_new_process("draw()")
        (kept,) = tmp_path.glob("cache/**/*.js")
        kept.write_bytes(content)
    made.clear()
    assert _in_a_new_process("draw()").endswith("draw()")
    assert made == ["draw()"]
