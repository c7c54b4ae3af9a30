"""The script that fills docs/results.md: its figures are those of report.json."""

import json

import pytest

from tests.support.reports import OPTIONS, make_report, make_row
from tools.results import END, START, main, portable, rewrite, seeds_section


def report(top1_pre, seed=3, top1_quant=87.0, **options):
    top1 = {"top1_pre": top1_pre, "top1_post": 88.125, "top1_quant": top1_quant}
    row = make_row("cosine", "3,3", 4, 87.0, **top1, finetune_s=270.0, qat_s=30.0, size_mb=0.09)
    chosen = OPTIONS | {"epochs": 0, "seed": seed} | options
    command = "python run_pipeline.py --config 3,3"
    return make_report([row], model="resnet20", options=chosen, seed=seed, duration_s=90.0, command=command)


def test_the_tables_between_the_markers_are_replaced_and_nothing_else(tmp_path):
    document = tmp_path / "results.md"
    document.write_text(f"before\n\n{START}\n\nold\n\n{END}\n\nafter\n")
    for name, pre in (("a", 51.43), ("b", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(report(pre).model_dump()))
    assert main([str(document), str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "python run_pipeline.py --config 3,3" in text
    assert "1.5 minutes" in text
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "| cosine" in line]
    assert cells == [
        ["cosine", "3,3", "4", "51.43", "88.12", "87.00", "0.0900", "5.0"],
        ["cosine", "3,3", "4", "-", "88.12", "87.00", "0.0900", "5.0"],
    ]


def test_a_command_names_no_folder_of_the_machine(monkeypatch):
    monkeypatch.setenv("SERIESQUANT_DATA", "/data/cifar/")
    command = "python run_pipeline.py --data /data/cifar/cifar10.npz --out /tmp/x --seed 1"
    assert portable(command) == "python run_pipeline.py --data $SERIESQUANT_DATA/cifar10.npz --seed 1"
    monkeypatch.delenv("SERIESQUANT_DATA")
    assert portable(command) == "python run_pipeline.py --data /data/cifar/cifar10.npz --seed 1"


def test_seeds_are_summed_up_where_only_they_differ():
    reports = [report(51.43, seed=0, top1_quant=87.0), report(51.43, seed=1, top1_quant=88.0)]
    (line,) = [line for line in seeds_section(reports).splitlines() if "| cosine" in line]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["cosine", "3,3", "4", "0", "2", "51.43 ± 0.00", "88.12 ± 0.00", "87.50 ± 0.71"]
    assert seeds_section([report(None), report(None)]) == ""
    others = [report(51.43, seed=0), report(51.43, seed=1, epochs=5)]
    assert seeds_section(others) == ""


def test_a_document_without_markers_is_refused():
    with pytest.raises(ValueError, match="must have the lines"):
        rewrite("no markers", [])


def test_without_runs_it_says_how_to_use_it(capsys):
    assert main(["docs/results.md"]) == 2
    assert "Usage" in capsys.readouterr().err
