"""The poster's whole tables: lines, differences, settings and commands."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from reports.merging.reading import sources
from reports.poster.measured import PosterError, reason_for_counts_alone, unused_reason
from reports.poster.page import poster_page
from reports.text import points
from tests.support.reports import OPTIONS, make_dataset, make_report, make_row, parse_table

DOCUMENT = Path(__file__).parents[3] / "docs" / "poster.md"
CIFAR10 = make_dataset("cifar10", 10)
IMAGENET = make_dataset("imagenet", 1000, 50_000) | {"train_images": 1_281_167}
FIVE = {"top1_pre": 87.22, "top1_post": 91.5, "delta_post": -0.23, "params": 160_000, "params_percent": 58.0}
NONE = FIVE | {"epochs": 0, "top1_post": 87.22, "delta_post": -4.51}


def source(rows, name="a", top1=91.73, model="resnet20", dataset=CIFAR10, **run):
    report = make_report(rows, model=model, dataset=dataset, **run)
    report.baseline.top1 = top1
    (found,) = sources(report, Path("runs") / name)
    return found


def cosine(config="3,3,3,2", bits=8, **changes):
    return make_row("cosine", config, bits, 80.0, **{"fit": "weights", **changes})


def tables(page):
    """Heading -> the lines of its table, each a dict of its titles."""
    found = {}
    for part in re.split(r"^#+ ", page, flags=re.MULTILINE)[1:]:
        lines = [line for line in part.splitlines() if line.startswith("|")]
        if lines:
            titles, cells = parse_table("\n".join(lines))
            found[part.splitlines()[0]] = [dict(zip(titles, line, strict=True)) for line in cells]
    return found


def lines_of(page, table="ResNet-20", method="CosConv", config="3,3,3,2"):
    return [line for line in tables(page)[table] if line["Method"] == method and line["Config"].startswith(config)]


def triple(line, title):
    return [line[f"{title}, {column}"] for column in ("printed", "here", "diff.")]


def commands(page):
    return re.findall(r"^(\d+)\.\n\n```\n(.+)\n```", page, flags=re.MULTILINE)


def test_without_runs_every_printed_figure_names_its_command():
    page = poster_page([])
    found = tables(page)
    assert {name: len(lines) for name, lines in found.items()} == {
        "ResNet-20": 11,
        "ResNet-32": 11,
        "ResNet-18": 15,
        "ConvNeXt-T": 7,
        "Quantization of ResNet-18 on ImageNet": 10,
    }
    numbered = dict(commands(page))
    assert {line["Command"] for lines in found.values() for line in lines} == set(numbered)
    (resnet18,) = [text for text in numbered.values() if "--model resnet18" in text]
    assert resnet18.count("--config") == 8
    assert resnet18.endswith("--fit weights --bits 8,4 --scheme minifloat --rounding nearest --data IMAGENET_FOLDER")
    assert sorted(re.findall(r"--model (\S+)", page)) == [
        *("convnext_tiny", "resnet18", "resnet20", "resnet20", "resnet32", "resnet32")
    ]


def test_the_page_in_docs_has_every_printed_figure_and_a_command_for_each_empty_cell():
    page = DOCUMENT.read_text(encoding="utf-8")
    found, every = tables(page), tables(poster_page([]))
    for name, lines in every.items():
        titles = [title for title in lines[0] if title in ("Method", "Config") or title.endswith(", printed")]
        assert [[line[title] for title in titles] for line in found[name]] == [
            [line[title] for title in titles] for line in lines
        ]
        for line in found[name]:
            assert bool(line["Command"]) == any(line[title] == "" for title in line if title.endswith(", here"))
    assert {line["Command"] for name in every for line in found[name]} - {""} == set(dict(commands(page)))


def test_a_printed_figure_stands_beside_the_measured_one():
    (line,) = lines_of(poster_page([source([cosine(**FIVE), cosine(bits=4, **FIVE)])]))
    assert triple(line, "Pre Top1") == ["87.22", "87.22", "0.00"]
    assert triple(line, "Post Top1") == ["90.75", "91.50", "+0.75"]
    assert triple(line, "Δ") == ["-0.98", "-0.23", "+0.75"]
    assert (line["Settings"], line["Command"]) == ("weights fit, seed 0, 5 epochs", "")


def test_a_run_without_fine_tuning_has_no_post_and_a_command_with_its_own_fit():
    rows = [cosine(**NONE), cosine(**(NONE | {"fit": "activations", "top1_pre": 90.0}))]
    page = poster_page([source(rows[:1], seed=0), source(rows[1:], "b", seed=3)])
    weights, activations = lines_of(page)
    assert triple(weights, "Post Top1") == ["90.75", "", ""]
    assert triple(activations, "Pre Top1") == ["87.22", "90.00", "+2.78"]
    assert activations["Settings"] == "activations fit, seed 3, 0 epochs"
    named = dict(commands(page))
    assert "--fit weights" in named[weights["Command"]]
    assert all(word in named[activations["Command"]] for word in ("--fit activations", "--seed 3"))


def test_a_run_without_fine_tuning_is_no_line_beside_a_fine_tuned_one():
    runs = [source([cosine(**NONE)]), source([cosine(**FIVE)], "b")]
    (line,) = lines_of(poster_page(runs))
    assert line["Post Top1, here"] == "91.50"
    other = source([cosine(**(FIVE | {"top1_pre": 87.0}))], "b")
    assert len(lines_of(poster_page([runs[0], other]))) == 2


def test_equal_settings_with_unequal_figures_are_refused():
    runs = [source([cosine(**FIVE)]), source([cosine(**(FIVE | {"top1_post": 91.4}))], "b")]
    with pytest.raises(PosterError, match=r"runs/b.*runs/a.*Post Top1 .*91\.4.*91\.5.*allowed"):
        poster_page(runs)
    assert poster_page([runs[0], source([cosine(**FIVE)], "b")])
    slower = source([cosine(**(FIVE | {"top1_post": 91.4}))], "b", options=OPTIONS | {"lr": 0.01})
    assert [line["Settings"] for line in lines_of(poster_page([runs[0], slower]))] == [
        "weights fit, seed 0, 5 epochs, lr by default",
        "weights fit, seed 0, 5 epochs, lr 0.01",
    ]


def test_settings_name_what_is_not_the_posters():
    few = {"train_images": 3000, "test_images": 500}
    run = source([cosine(**FIVE, finetune_undone=True)], dataset=CIFAR10 | few, options=OPTIONS | {"distill": False})
    (line,) = lines_of(poster_page([run]))
    words = "weights fit, seed 0, 500 test images, 5 epochs, labels only, rolled back, 3,000 training images"
    assert line["Settings"] == words


def test_families_without_orders_fill_their_rows():
    """`--basis` takes the names; a report of them is made up here."""
    rows = [
        cosine(**(FIVE | {"top1_pre": top1})).model_copy(update={"basis": basis, "config": "all"})
        for basis, top1 in (("fracsrf", 12.0), ("fractional", 60.0))
    ]
    runs = [source([cosine()]), source([cosine()], "b", 92.63, "resnet32")]
    page = poster_page([replace(run, rows=rows) for run in runs])
    (own,) = lines_of(page, method="FracSRF, own regression", config="-")
    assert triple(own, "Pre Top1") == ["10.00", "12.00", "+2.00"]
    (fractional,) = lines_of(page, method="Fractional", config="-")
    assert triple(fractional, "Pre Top1") == ["91.25", "60.00", "-31.25"]
    both = [line for line in tables(page)["ResNet-32"] if line["Method"].startswith("FracSRF")]
    assert [triple(line, "Pre Top1") for line in both] == [["92.28", "12.00", "-80.28"], ["9.82", "12.00", "+2.18"]]


def test_the_uncompressed_network_and_the_parameters():
    row = cosine(**(FIVE | {"params": 265_824, "params_percent": 57.88}))
    page = poster_page([source([row], top1=92.63, model="resnet32")])
    (dense,) = [line for line in tables(page)["ResNet-32"] if line["Method"] == "Conv2D"]
    assert triple(dense, "Post Top1") == ["92.78", "92.63", "-0.15"]
    assert (dense["Settings"], dense["Config"]) == ("as loaded", "- (d,e)")
    (line,) = lines_of(page, "ResNet-32")
    assert triple(line, "#Params (10^6)") == ["0.27", "0.27", "0.00"]
    assert triple(line, "Params (%)") == ["57.74", "57.88", "+0.14"]
    assert "(b) The printed share of ResNet-32 at 3,3,3,2" in page


def test_convnext_counts_what_the_poster_counts_in_either_basis():
    row = make_row("chebyshev", "7x10,6x8", 8, 80.0, **(FIVE | {"compressible_params": 274_290}))
    page = poster_page([source([row], top1=82.1, model="convnext_tiny", dataset=IMAGENET)])
    (line,) = lines_of(page, "ConvNeXt-T", "-", "7x3,7x3,7x4,6x5,6x3")
    assert triple(line, "#Params (10^6)") == ["0.27", "0.27", "0.00"]
    assert triple(line, "Params (%)") == ["83.32", "83.32", "0.00"]


def test_quantized_rows_of_each_format_are_lines():
    four = {"bits": 4, "top1_quant": 64.5, "top1_post": 68.0, "size_mb": 5.6}
    rows = [cosine("6,3,3,2,2", **four, scheme="minifloat", stored_bits=12, rounding="nearest")]
    rows += [cosine("6,3,3,2,2", **(four | {"size_mb": 2.4})), make_row("cosine", "dense", 4, 69.0, epochs=0)]
    page = poster_page([source(rows, top1=69.76, model="resnet18", dataset=IMAGENET)])
    quantized = [line for line in tables(page)["Quantization of ResNet-18 on ImageNet"] if line["Settings"]]
    dense, minifloat, integers = quantized
    assert triple(dense, "Top1") == ["69.76", "69.76", "0.00"]
    assert triple(dense, "Δ quant.") == ["-0.48", "-0.76", "-0.28"]
    assert triple(minifloat, "Quant. Top1") == ["64.10", "64.50", "+0.40"]
    assert triple(minifloat, "Δ quant.") == ["-3.80", "-3.50", "+0.30"]
    assert minifloat["Settings"] == "weights fit, seed 0, 5 epochs, minifloat of 12 bits, nearest"
    assert triple(integers, "Size (MB)") == ["8.90", "2.40", "-6.50"]
    assert integers["Settings"].endswith("int of 4 bits, gptq")


@pytest.mark.parametrize(
    ("changes", "terms"),
    [
        ({"dataset": make_dataset("digits", 10)}, ("no table", "ResNet-20", "digits", "10 classes")),
        ({"model": "resnet44"}, ("no table", "ResNet-44")),
        ({"dataset": None}, ("no table", "ResNet-20")),
    ],
)
def test_other_runs_fill_no_cell(changes, terms):
    reason = unused_reason(source([cosine(**FIVE)], **changes))
    assert all(term in reason for term in terms)
    assert unused_reason(source([cosine(**FIVE)])) is None


RANDOM = {"name": "random", "top1": 0.1, "model": "resnet18", "dataset": IMAGENET}
COUNTED = {"params": 5_943_016, "params_percent": 50.88, "top1_pre": 0.1, "top1_post": 0.1}


@pytest.mark.parametrize("top1", [80.0, None])
def test_another_baseline_fills_only_the_numbers_of_parameters(top1):
    run = source([cosine("6,3,3,2,2", bits=4, **COUNTED)], **(RANDOM | {"top1": top1}))
    assert all(term in reason_for_counts_alone(run) for term in ("baseline", points(top1), "69.76"))
    page = poster_page([run])
    (line,) = lines_of(page, "ResNet-18", config="6,3,3,2,2")
    assert triple(line, "#Params (10^6)") == ["5.94", "5.94", "0.00"]
    assert triple(line, "Params (%)") == ["50.88", "50.88", "0.00"]
    assert triple(line, "Pre Top1") == ["56.59", "", ""]
    assert (line["Settings"], dict(commands(page))[line["Command"]].split()[3]) == ("parameters alone", "resnet18")
    quantized = lines_of(page, "Quantization of ResNet-18 on ImageNet", config="6,3,3,2,2")
    filled = [line for line in quantized if line["#Params (10^6), here"]]
    assert [(line["Bits"], line["Size (MB), here"], line["Settings"]) for line in filled] == [
        ("4", "", "parameters alone")
    ]


def test_numbers_of_parameters_alone_are_left_out_beside_further_figures():
    row = cosine("6,3,3,2,2", **(COUNTED | {"top1_pre": 56.0, "top1_post": 67.0, "delta_post": -2.76}))
    full = source([row], **(RANDOM | {"name": "full", "top1": 69.76}))
    alone = source([cosine("6,3,3,2,2", **COUNTED)], **RANDOM)
    pages = [re.sub(r"## Runs.*", "", poster_page(each), flags=re.DOTALL) for each in ([full], [full, alone])]
    assert pages[0] == pages[1]


def test_parameters_that_are_not_printed_make_no_line():
    page = poster_page([source([cosine(**FIVE)], top1=80.0)])
    assert page.partition("## Runs")[0] == poster_page([]).rstrip("\n") + "\n\n"


def test_the_page_lists_the_runs():
    page = poster_page([source([cosine(**FIVE)], duration_s=90.0, command="python run_pipeline.py --config 3,3,3,2")])
    (run,) = tables(page)["Runs"]
    assert (run["Run"], run["Minutes"], run["Minutes of its stages"], run["Device"]) == ("a", "1.5", "0.1", "cpu")
    assert "python run_pipeline.py --config 3,3,3,2" in page
