import json
import os
from pathlib import Path

import numpy as np
import pytest

from reports.fields import to_json
from reports.files import PART, remove_parts, write_atomically
from reports.write import write_report

COS = "cosine"
REPORTS = ["report.html", "report.json", "report.md"]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_folder_holds_the_report_and_nothing_else(report, row, tmp_path) -> None:
    data = report([row(COS, "6,3,3,2,2", 4, 98.61)])
    assert write_report(data, tmp_path / "out") == tmp_path / "out" / "report.md"
    assert files(tmp_path / "out") == ["plots/kernels.png", "plots/size_top1.png", *REPORTS]
    assert json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8")) == data.model_dump()


def test_the_order_of_keys_is_kept(report, row, tmp_path) -> None:
    data = report([row(COS, "6,3,3,2,2", 4, 98.61)])
    write_report(data, tmp_path)
    assert list(json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))) == list(data.model_dump())


def test_figures_that_are_not_finite_become_null(report, row, tmp_path) -> None:
    data = report([row(COS, "a", 4, 90.0, top1_quant=float("nan"), delta_quant=np.float64("inf"))])
    write_report(data, tmp_path)
    written = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["rows"][0]
    assert (written["top1_quant"], written["delta_quant"]) == (None, None)
    assert "nan" not in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_to_json_converts_numpy_tuples_and_paths() -> None:
    value = {"a": np.int64(3), "b": (np.float32(0.5), Path("x")), "c": np.array([[1.0, np.nan]]), 4: True}
    assert to_json(value) == {"a": 3, "b": [0.5, "x"], "c": [[1.0, None]], "4": True}


def test_writing_twice_leaves_the_same_bytes(report, row, tmp_path) -> None:
    data = report([row(COS, "6,3,3,2,2", 4, 98.61)])
    write_report(data, tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    write_report(data, tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


def test_links_stay_and_pipes_and_devices_are_written_to(tmp_path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "report.md").write_text("old")
    (tmp_path / "link.md").symlink_to(tmp_path / "real" / "report.md")
    write_atomically(tmp_path / "link.md", "new")
    assert (tmp_path / "link.md").is_symlink()
    assert (tmp_path / "real" / "report.md").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(tmp_path / "pipe", "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(IsADirectoryError, match="real"):
        write_atomically(tmp_path / "real", "new")


def test_only_what_a_killed_process_left_is_removed(tmp_path) -> None:
    """A user's own hidden files stay, and so do files in subfolders, where another run may be writing."""
    (tmp_path / f".reload-a{PART}" / "request").mkdir(parents=True)
    (tmp_path / f".report.md.1-2{PART}").write_text("half")
    (tmp_path / "another-run").mkdir()
    (tmp_path / "another-run" / f".report.md.3-4{PART}").write_text("half")
    (tmp_path / ".keep.part").mkdir()
    (tmp_path / ".movie.part").write_text("mine")
    remove_parts(tmp_path)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert found == [".keep.part", ".movie.part", "another-run", f"another-run/.report.md.3-4{PART}"]


@pytest.mark.parametrize("name", ["n" * 251 + ".png", "\U0001f600" * 63], ids=["ascii", "wide"])
def test_a_name_of_the_greatest_length_is_written(tmp_path, name) -> None:
    """The name of its temporary file was longer."""
    assert write_atomically(tmp_path / name, "whole").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path, monkeypatch) -> None:
    def refuse(path: Path, _: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionError) as caught:
        write_atomically(tmp_path / "report.md", "new")
    assert caught.value.filename == str(tmp_path / "report.md")


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch) -> None:
    path = write_atomically(tmp_path / "report.md", "old")

    def refuse(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert files(tmp_path) == ["report.md"]
