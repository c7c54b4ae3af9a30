import re

from reports.markdown import render
from reports.model import Report
from reports.summary import summarise
from tests.support.reports import OPTIONS, make_dataset, make_gate

COS, CHEB = "cosine", "chebyshev"


def headings(text: str) -> list[str]:
    return re.findall(r"^## (.*)$", text, re.MULTILINE)


def test_the_summary_comes_first(report, row) -> None:
    data = report([row(COS, "6,3,3,2,2", 4, 98.61)])
    title, blank, summary, *_ = render(data).splitlines()
    assert (title, blank) == ("# ResNet-18 on digits, compressed", "")
    assert summary == summarise(data)


def test_sections_without_figures_are_left_out(report, row) -> None:
    text = render(report([row(COS, "6,3,3,2,2", 4, 98.61)]).model_copy(update={"layers": [], "kernels": None}))
    assert headings(text) == [
        *[
            "Which file to take",
            "Quantization",
            "Before and after fine-tuning",
            "Plots",
            "Baseline",
            "Files",
            "ONNX",
            "Stages",
        ],
        *["Environment", "Options", "Reproduce", "How to read this"],
    ]


def test_a_full_report_has_every_section(report, many) -> None:
    rows = many([COS, CHEB])
    for each in rows:
        each.config = each.config.replace("6,3,3,3,2", "3,3,3,2")
    data = report(rows, errors=True, model="resnet20", dataset=make_dataset("cifar10", 10))
    data.baseline.top1 = 91.73
    text = render(data)
    assert {"Series against dense at equal bytes", "Beside the poster", "Layers"} < set(headings(text))
    assert "arXiv 2210.08951" in text
    assert re.findall(r"\]\((plots/[^)]+)\)", text) == [
        *["plots/size_top1.png", "plots/kernels.png", "plots/layer_errors.png"]
    ]
    assert "10,000 test images" in text


def test_it_depends_on_the_json_alone(report, many) -> None:
    data = report(many([COS, CHEB]), errors=True)
    before = data.model_copy(deep=True)
    assert render(Report.model_validate_json(data.model_dump_json())) == render(data)
    assert data == before


def test_the_command_stands_as_it_is_in_a_code_block(report, row) -> None:
    command = "python run_pipeline.py --data 'a|b_c' --config ```6"
    text = render(report([row(COS, "6,3,3,2,2", 4, 98.61)], command=command))
    assert f"\n````sh\n{command}\n````\n" in text


def test_every_table_is_whole(report, many) -> None:
    data = report(many([COS, CHEB]), errors=True, options=OPTIONS | {"data": "x|y", "note": "line\nline"})
    data.layers[0].reason = "a|b"
    for block in re.findall(r"(?:^\|.*\n)+", render(data), re.MULTILINE):
        bars = {line.replace("\\|", "").count("|") for line in block.splitlines()}
        assert len(bars) == 1, block


def test_a_report_without_rows_and_data_is_still_rendered(report) -> None:
    unknown = dict.fromkeys(("dataset", "weights", "seed", "device", "precision", "options", "duration_s"))
    data = report([], model="m:f", stages=[], **unknown)
    data.kernels = None
    assert "No row has both a written file and a measured Top-1." in render(data)


def test_files_show_checksum_and_reloaded_difference(report, row) -> None:
    text = render(report([row(COS, "6,3,3,2,2", 4, 98.61, reloaded_logits_max_abs_diff=1.5e-6)]))
    assert "artifacts/cosine-6,3,3,2,2-4.safetensors" in text
    assert "1.5e-06" in text
    assert "ab" * 32 in text


def test_minifloats_are_explained_where_there_are_any(report, row) -> None:
    assert "minifloats" not in render(report([row(COS, "6,3,3,2,2", 4, 98.61)]))
    text = render(report([row(COS, "6,3,3,2,2", 4, 98.61, scheme="minifloat", stored_bits=12)]))
    assert "CosConv 6,3,3,2,2 at 4 bits (12 stored)" in text
    assert "mantissa bits of minifloats" in text


def test_rows_that_miss_the_gate_are_listed(report, row) -> None:
    data = report([row(COS, "6,3,3,2,2", 4, 98.61)])
    assert "fail the gate" not in render(data)
    data.gate = make_gate(False, "cosine a*b loses 1 point", max_drop=0.1)
    assert "## Rows that fail the gate\n\n- cosine a\\*b loses 1 point\n" in render(data)


def test_the_environment_shows_the_machine_and_the_commit(report, row) -> None:
    commit = f"{'ab' * 20}-dirty"
    machine = {"cpu": "CPU|9", "cores": 8, "threads": 4, "memory_gb": 63.98, "accelerator": "GPU"}
    text = render(report([row(COS, "6,3,3,2,2", 4, 98.61)], hardware=machine, git_commit=commit, processes=2))
    for cells in ("Machine", "CPU\\|9, 8 cores, 4 threads, 64.0 GB of memory"), ("Code's commit", commit):
        assert re.search(r"\| *" + r" *\| *".join(map(re.escape, cells)) + r" *\|", text)
    assert re.search(r"\| Accelerator +\| GPU +\|", text)
    assert re.search(r"\| Processes +\| 2 +\|", text)


def test_without_fine_tuning_it_is_not_mentioned(report, row) -> None:
    fitted = {"top1_pre": 90.0, "top1_post": 90.0, "epochs": 0, "finetune_s": 0.0}
    rows = [row(COS, "3,3,3,2", 4, 90.0, **fitted), row(COS, "dense", 4, 91.0, epochs=0, top1_post=91.73)]
    facts = {"model": "resnet20", "dataset": make_dataset("cifar10", 10), "options": OPTIONS | {"epochs": 0}}
    data = report(rows, **facts)
    data.baseline.top1 = 91.73
    text = render(data)
    assert "## After the fit" in text
    assert "## Beside the poster" in text
    assert not re.search(r"fine-tun|\bPost\b", text)
    assert re.search(r"fine-tun", render(report([row(COS, "3,3,3,2", 4, 90.0)])))


def test_rows_that_fall_apart_are_warnings_at_the_top(report, row) -> None:
    text = render(report([row(COS, "6,3,3,2,2", 4, 98.61), row(COS, "2,2,2,2,2", 2, 65.0)]))
    assert headings(text)[0] == "Warnings"
    assert "- CosConv 2,2,2,2,2 at 2 bits falls apart: its Top-1 of 65.00 is 34.17 points below" in text
    assert "1 of 2 rows falls apart" in text


def test_inference_times_have_a_section(report, row) -> None:
    times = {"inference_ms": 12.34, "original_inference_ms": 12.1}
    text = render(report([row(COS, "6,3,3,2,2", 4, 98.61, **times)]))
    assert re.search(r"CosConv 6,3,3,2,2 at 4 bits +\| +12.1 \| +12.3 \|\n", text)
    rows = [row(COS, "6,3,3,2,2", bits, 98.61, **times, onnx_inference_ms=ms) for bits, ms in ((8, 9.87), (4, None))]
    text = render(report(rows))
    assert re.search(r"CosConv 6,3,3,2,2 at 8 bits +\| +12.1 \| +12.3 \| +9.87 \|", text)
    assert re.search(r"CosConv 6,3,3,2,2 at 4 bits +\| +12.1 \| +12.3 \| +- \|", text)
    assert "Inference time" not in render(report([row(COS, "6,3,3,2,2", 4, 98.61)]))


def test_training_that_was_rolled_back_is_listed(report, row) -> None:
    rows = [row(COS, "6,3,3,2,2", bits, 98.61, finetune_undone=True, qat_undone=bits == 4) for bits in (8, 4)]
    text = render(report(rows))
    assert "## Training that was rolled back" in text
    assert text.count("- CosConv 6,3,3,2,2 at 8 bits and 4 bits: fine-tuning") == 1
    assert text.count(": fine-tuning did not lower") == 1
    assert "- CosConv 6,3,3,2,2 at 4 bits: quantization-aware training" in text
    assert "## Kept epochs" not in text
    assert "rolled back" not in render(
        report([row(COS, "6,3,3,2,2", 4, 98.61, finetune_undone=False, qat_undone=False)])
    )


def test_trainings_of_other_losses_have_a_line_each(report, row) -> None:
    losses = ((8, 0.5), (4, 0.5), (2, 0.25))
    rows = [
        row(COS, "a", bits, 98.6, finetune_epoch=1, finetune_loss_before=1, finetune_loss_after=x) for bits, x in losses
    ]
    text = render(report([*rows, row("chebyshev", "a", 4, 98.6, finetune_epoch=1)]))
    kept = [line.split(": ")[0] for line in text.split("## Kept epochs")[1].splitlines() if line.startswith("- ")]
    assert kept[:3] == ["- CosConv a at 8 bits and 4 bits", "- CosConv a at 2 bits", "- ChebConv a at 4 bits"]


def test_a_training_that_was_rolled_back_for_its_file_has_this_reason(report, row) -> None:
    fault = "left a file of 3 bytes"
    text = render(report([row(COS, "6,3,3,2,2", 4, 98.61, finetune_undone=True, finetune_fault=fault)]))
    assert "fine-tuning left a file of 3 bytes, so it was rolled back" in text
    assert "held-out" not in text.split("## Training that was rolled back")[1].split("##")[0]


def test_a_warning_of_the_baseline_comes_before_the_summary(report, row) -> None:
    data = report([row(COS, "6,3,3,2,2", 4, 98.61)])
    assert data.baseline is not None
    data.baseline.warnings = ["the baseline is near chance", "and *odd*"]
    lines = [line for line in render(data).splitlines() if line]
    assert lines[1] == "> **Warning:** the baseline is near chance."
    assert "\\*odd\\*" in lines[2]
    assert lines[3] == summarise(data)


def test_size_normalization_and_notes_are_in_the_environment(report, row) -> None:
    images = {"mean": [0.5], "std": [0.25], "image_size": [20, 30], "notes": ["brought to 20x30"]}
    data = report([row(COS, "6,3,3,2,2", 4, 98.61)], dataset=make_dataset("cells", 3) | images)
    text = render(data).partition("## Environment")[2]
    for words in (r"Image size +\| 20x30 ", r"Mean of the inputs +\| 0\.5 ", r"\| 0\.25 ", r"\| brought to 20x30 "):
        assert re.search(words, text)


def test_kept_epochs_are_listed_with_the_held_out_losses(report, row) -> None:
    losses = {"finetune_loss_before": 0.05, "finetune_loss_after": 0.03125}
    kept = row(COS, "6,3,3,2,2", 4, 98.61, epochs=5, finetune_epoch=3, **losses)
    text = render(report([kept]))
    (line,) = (line for line in text.splitlines() if line.startswith("- CosConv 6,3,3,2,2 at 4 bits: fine-tuning"))
    for words in ("epoch 3 of 5", "0.0500 before", "0.0312 after"):
        assert words in line
    assert "rolled back" not in text
