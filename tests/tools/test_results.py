"""The script that fills docs/results.md: its figures are those of report.json."""

import json

import pytest

from tools.results import END, START, main, rewrite


def report(top1_pre):
    options = {"fit": "activations", "rounding": "gptq", "epochs": 0, "qat_epochs": 0, "seed": 3}
    run = {"model": "resnet20", "options": options, "duration_s": 90.0, "device": "cpu", "precision": "no"}
    row = {"basis": "cosine", "config": "3,3", "bits": 4, "top1_pre": top1_pre, "top1_post": 88.125, "top1_quant": 87.0}
    return {
        "run": run | {"command": "python run_pipeline.py --config 3,3"},
        "baseline": {"top1": 91.73, "size_mb": 1.09},
        "rows": [row | {"size_mb": 0.09}],
    }


def test_the_tables_between_the_markers_are_replaced_and_nothing_else(tmp_path):
    document = tmp_path / "results.md"
    document.write_text(f"before\n\n{START}\n\nold\n\n{END}\n\nafter\n")
    for name, pre in (("a", 51.43), ("b", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(report(pre)))
    assert main([str(document), str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "python run_pipeline.py --config 3,3" in text
    assert "1.5 minutes" in text
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "| cosine" in line]
    assert cells == [
        ["cosine", "3,3", "4", "51.43", "88.12", "87.00", "0.0900"],
        ["cosine", "3,3", "4", "-", "88.12", "87.00", "0.0900"],
    ]


def test_a_document_without_markers_is_refused():
    with pytest.raises(ValueError, match="must have the lines"):
        rewrite("no markers", [])


def test_without_runs_it_says_how_to_use_it(capsys):
    assert main(["docs/results.md"]) == 2
    assert "Usage" in capsys.readouterr().err
