"""Merging of reports: rows and layers of the result, their labels, its gate, and refused runs."""

import dataclasses

import pytest

from reports.choice import choice_table
from reports.facts import baseline_table
from reports.markdown import render
from reports.merging.merge import MergeError, merge
from reports.merging.reading import sources
from reports.merging.seeds import seed_table
from reports.summary import summarise
from reports.tables import quantization_table
from reports.verdict import verdicts
from tests.support.merging import make_run
from tests.support.report_schema import mistakes
from tests.support.reports import OPTIONS, VERSIONS, make_dataset, make_gate

COS, CHEB = "cosine", "chebyshev"
A, B = (COS, "3,3,3,2", 4, 98.5), (COS, "3,3,2,2", 4, 97.5)


def keys(report):
    return [(row.basis, row.config, row.bits, row.runs, row.settings) for row in report.rows]


def with_baseline(runs, **changes):
    return {
        name: dataclasses.replace(run, baseline=run.baseline.model_copy(update=changes)) for name, run in runs.items()
    }


def test_rows_keep_the_order_of_the_runs() -> None:
    merged = merge(make_run("a", A) | make_run("b", B), "merge a b")
    assert keys(merged) == [(*A[:3], ["a"], {}), (*B[:3], ["b"], {})]
    assert [source.name for source in merged.sources] == ["a", "b"]
    assert merged.baseline.top1 == 99.17
    assert (merged.run.command, merged.run.seed) == ("merge a b", 0)
    assert merged.run.duration_s == pytest.approx(2 * 71.23, abs=0.051)


def test_the_merged_run_has_the_facts_that_all_runs_share() -> None:
    first = make_run("a", A, versions=VERSIONS | {"torch": "2.9"}, hardware={"cpu": "x", "cores": 2}, processes=2)
    other = make_run("b", B, versions=VERSIONS | {"torch": "2.10"}, hardware={"cpu": "x", "cores": 4}, processes=1)
    run = merge(first | other, "merge").run
    assert run.versions == VERSIONS | {"torch": "2.9 / 2.10"}
    assert (run.hardware.cpu, run.hardware.cores, run.processes) == ("x", None, 2)
    assert run.options == OPTIONS


def test_equal_artifacts_of_two_runs_are_one_row() -> None:
    merged = merge(make_run("a", A, B) | make_run("b", B), "merge")
    assert keys(merged) == [(*A[:3], ["a"], {}), (*B[:3], ["a", "b"], {})]


def test_an_artifact_keeps_the_onnx_file_of_the_run_that_wrote_one() -> None:
    (first, plain), (other, full) = (next(iter(make_run(name, A, B).items())) for name in ("a", "b"))
    without = dict.fromkeys(("onnx", "onnx_size_mb", "onnx_top1", "onnx_bits", "onnx_differing_predictions"))
    plain = dataclasses.replace(plain, rows=[row.model_copy(update=without) for row in plain.rows])
    merged = merge({first: plain, other: full}, "merge")
    assert [row.model_copy(update={"runs": None, "settings": None}) for row in merged.rows] == full.rows
    assert [row.runs for row in merged.rows] == [["b", "a"], ["b", "a"]], "the files are those of the first"


def test_the_dense_row_stays_once_a_basis() -> None:
    dense = [(COS, "dense", 4, 98.0), (CHEB, "dense", 4, 98.0)]
    merged = merge(make_run("a", *dense) | make_run("b", *dense), "merge")
    assert [row.basis for row in merged.rows] == [COS, CHEB]


def test_the_dense_file_of_runs_of_other_bases_is_one_line(parse) -> None:
    runs = make_run("a", (COS, "dense", 4, 98.0), A) | make_run("b", (COS, "dense", 4, 98.0), (CHEB, "dense", 4, 98.0))
    shared = {name: dataclasses.replace(run, rows=_with_one_digest(run.rows)) for name, run in runs.items()}
    other = make_run("c", (COS, A[1], 4, 97.0), options={"threads": 2})  # its row makes the names of the runs labels
    merged = merge(shared | other, "merge")
    dense = [(row.basis, row.runs, row.settings) for row in merged.rows if row.is_dense]
    assert dense == [(COS, ["a", "b"], {}), (CHEB, ["b"], {})]
    _, lines = parse(choice_table(merged))
    assert [line[0] for line in lines].count("dense at 4 bits") == 1


def _with_one_digest(rows):
    return [row.model_copy(update={"sha256": "0" * 64}) if row.is_dense else row for row in rows]


def test_settings_that_differ_label_the_rows(parse) -> None:
    runs = make_run("a", A) | make_run("b", A, options={"epochs": 0, "distill": False}) | make_run("c", B, seed=3)
    merged = merge(runs, "merge")
    assert [row.settings for row in merged.rows] == [
        {"seed": 0, "epochs": 5, "distill": True},
        {"seed": 0, "epochs": 0, "distill": False},
        {"seed": 3, "epochs": 5, "distill": True},
    ]
    titles, lines = parse(quantization_table(merged))
    assert titles[:3] == ["Bits", "Config", "Settings"]
    assert [line[2] for line in lines] == [
        "-",
        "seed 0, epochs 5, distill",
        "seed 0, epochs 0, no distill",
        "seed 3, epochs 5, distill",
    ]


def test_runs_with_equal_settings_are_labelled_by_name() -> None:
    other = make_run("b", A)
    other["b"] = dataclasses.replace(other["b"], rows=[other["b"].rows[0].model_copy(update={"sha256": "cd" * 32})])
    merged = merge(make_run("a", A) | other, "merge")
    assert [row.settings for row in merged.rows] == [{"run": "a"}, {"run": "b"}]
    assert all(layer.runs == ["a", "b"] and layer.settings == {} for layer in merged.layers)


def test_a_row_that_is_the_same_for_both_seeds_names_neither() -> None:
    first, second = make_run("a", A), make_run("b", A, seed=1)
    second["b"] = dataclasses.replace(second["b"], rows=first["a"].rows)
    merged = merge(first | second, "merge")
    assert keys(merged) == [(*A[:3], ["a", "b"], {})]
    assert "98.50 ± 0.00" in seed_table(merged)


def errors(runs, **widths):
    """The run with these errors of rounding in every layer."""
    ((name, run),) = runs.items()
    layers = [layer.model_copy(update={"fit_error": 0.5, "rounding_error": widths}) for layer in run.layers]
    return {name: dataclasses.replace(run, layers=layers)}


def test_layers_of_runs_of_other_widths_are_joined() -> None:
    runs = errors(make_run("a", A), **{"4": 0.02}) | errors(make_run("b", (COS, "3,3,3,2", 8, 99.0)), **{"8": 0.001})
    layers = merge(runs, "merge").layers
    assert len(layers) == len(runs["a"].layers)
    assert all(layer.rounding_error == {"8": 0.001, "4": 0.02} and layer.runs == ["a", "b"] for layer in layers)


def test_layers_of_other_seeds_stay_apart() -> None:
    runs = errors(make_run("a", A), **{"4": 0.02}) | errors(make_run("b", A, seed=1), **{"4": 0.03})
    layers = merge(runs, "merge").layers
    assert {(layer.settings["seed"], layer.rounding_error["4"]) for layer in layers} == {(0, 0.02), (1, 0.03)}
    assert len(layers) == 2 * len(runs["a"].layers)


def test_layers_with_other_errors_and_no_other_settings_are_labelled_by_name() -> None:
    runs = errors(make_run("a", A), **{"4": 0.02}) | errors(make_run("b", A), **{"4": 0.03})
    merged = merge(runs, "merge")
    assert [(row.runs, row.settings) for row in merged.rows] == [(["a", "b"], {})]
    assert {layer.settings["run"] for layer in merged.layers} == {"a", "b"}


TRAINED = "trained on digits for 10 epochs, seed "


def test_seeds_that_trained_their_own_baselines(parse) -> None:
    runs = {}
    for seed, top1, base in ((0, 98.0, 99.0), (1, 97.0, 98.0), (2, 96.0, 98.0)):
        run = make_run(f"s{seed}", (COS, "3,3,3,2", 4, top1), seed=seed, weights=f"{TRAINED}{seed}")
        runs |= with_baseline(run, top1=base)
    merged = merge(runs, "merge")
    assert merged.baseline.top1 == pytest.approx(98.3333, abs=1e-4)
    assert merged.baseline.top1_by_seed == {"0": 99.0, "1": 98.0, "2": 98.0}
    assert merged.baseline.artifact is None
    assert [row.baseline_top1 for row in merged.rows] == [99.0, 98.0, 98.0]
    _, lines = parse(seed_table(merged))
    assert lines[0] == ["-", "baseline", "32", "-", "3", "-", "98.33 ± 0.58", "-"]
    assert lines[1] == ["CosConv", "3,3,3,2", "4", "-", "3", "76.88 ± 1.00", "97.30 ± 1.00", "97.00 ± 1.00"]
    assert "Top-1 99.00 to 98.00 (-1.00 points): CosConv 3,3,3,2 at 4 bits (seed 0)" in summarise(merged)
    assert "Every seed trained its own baseline" in render(merged)
    headers, (baseline_line,) = parse(baseline_table(merged))
    assert baseline_line[headers.index("95 % interval")] == "-"
    headers, (original, *rows) = parse(choice_table(merged))
    assert (original[4], rows[0][4]) == ("-", "95.97 to 99.02")
    assert "A mean over seeds has none." in render(merged)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"model": "resnet20"}, "model: resnet20 and resnet18"),
        (
            {"dataset": make_dataset("digits", 10, 100) | {"train_images": 1437}},
            r"data \(test_images\): 100 and 360",
        ),
        ({"weights": "checkpoint b.th"}, "weights: checkpoint b.th and checkpoint a.th"),
        ({"weights": None}, "weights: none and checkpoint a.th"),
    ],
)
def test_other_networks_and_data_are_refused(other, words) -> None:
    with pytest.raises(MergeError, match=f"b and a.*{words}; allowed"):
        merge(make_run("a", A) | make_run("b", A, **other), "merge")


def test_equal_networks_and_data_may_have_other_names() -> None:
    data = [make_dataset(name, 10, 360) | {"digest": digest} for name, digest in (("a", "d"), ("b", "d"), ("b", "e"))]
    one, two = {"model": "a.py:make", "dataset": data[0]}, {"model": "./a.py:make", "weights": "checkpoint b.th"}
    first = with_baseline(make_run("a", A, **one), digest="n")
    other = with_baseline(make_run("b", B, dataset=data[1], **two), digest="n")
    merged = merge(first | other, "merge")
    assert (merged.run.model, merged.run.dataset.name, merged.baseline.top1) == ("a.py:make", "a", 99.17)
    assert merged.baseline.top1_by_seed is None
    assert "a.py:make" in render(merged)
    with pytest.raises(MergeError, match=r"data \(name\): b and a"):
        merge(first | with_baseline(make_run("b", B, dataset=data[2], **two), digest="n"), "merge")
    with pytest.raises(MergeError, match=r"the model: ./a.py:make and a.py:make"):
        merge(first | with_baseline(make_run("b", B, dataset=data[1], **two), digest="m"), "merge")


def test_normalizations_are_compared_where_both_reports_have_one() -> None:
    digits = make_dataset("digits", 10, 360) | {"train_images": 1437}
    one, other = ({"dataset": digits | {"mean": [mean], "notes": [f"mean {mean}"]}} for mean in (0.5, 0.1))
    with pytest.raises(MergeError, match=r"b and a.*data \(mean\).*0\.1.*0\.5"):
        merge(make_run("a", A, **one) | make_run("b", A, **other), "merge")
    merged = merge(make_run("a", A, **one) | make_run("b", A, dataset=digits), "merge")
    assert [source.run.dataset.mean for source in merged.sources] == [[0.5], None]


def test_runs_are_compared_with_every_other_run() -> None:
    runs = with_baseline(make_run("a", A, weights=f"{TRAINED}0"), top1=99.0)
    for name, top1 in (("b", 98.0), ("c", 95.0)):
        runs |= with_baseline(make_run(name, A, seed=1, weights=f"{TRAINED}1"), top1=top1)
    for order in ([*runs.items()], [*runs.items()][::-1]):
        with pytest.raises(MergeError, match=r"differ in the baseline's top1.*95\.0"):
            merge(dict(order), "merge")


def test_warnings_of_every_seeds_baseline_are_kept() -> None:
    runs = {}
    for seed, words in enumerate(("near chance", "below chance")):
        run = make_run(str(seed), A, seed=seed, weights=f"trained, seed {seed}")
        (source,) = run.values()
        source.baseline.warnings = [words]
        runs |= run
    warnings = merge(runs, "merge").baseline.warnings
    assert [words in warning for words, warning in zip(("near", "below"), warnings, strict=True)] == [True, True]


def test_other_baselines_of_the_same_seed_are_refused() -> None:
    with pytest.raises(MergeError, match=r"b and a.*top1: 90.0 and 99.17"):
        merge(make_run("a", A) | with_baseline(make_run("b", A), top1=90.0), "merge")


@pytest.mark.parametrize(
    ("gates", "passed"),
    [
        ([(1.0, True), (1.0, True)], True),
        ([(1.0, True), (1.0, False)], False),
        ([(None, None), (None, None)], None),
        ([(1.0, True), (2.0, False)], None),
    ],
)
def test_the_gate_is_kept_if_all_runs_had_the_same_limits(gates, passed) -> None:
    runs = {}
    for name, (limit, kept) in zip("ab", gates, strict=True):
        ((_, run),) = make_run(name, A).items()
        failures = ["cosine 3,3,3,2 at 4 bits loses 1.5"] if kept is False else []
        runs[name] = dataclasses.replace(run, gate=make_gate(kept, *failures, max_drop=limit))
    merged = merge(runs, "merge")
    assert merged.gate.passed is passed
    assert merged.gate.max_drop == (None if passed is None else 1.0)
    assert merged.gate.failures == (["b: cosine 3,3,3,2 at 4 bits loses 1.5"] if passed is False else [])
    assert (merged.status, merged.exit_code) == ("done", 3 if passed is False else 0)


def test_a_merged_report_can_be_merged_again(tmp_path) -> None:
    runs = make_run("a", A, B) | make_run("b", B, seed=1)
    once = merge(runs, "merge")
    again = {run.path.name: run for run in sources(once, tmp_path)}
    twice = merge(again, "merge")
    assert twice == once


def test_a_row_is_judged_against_the_dense_rows_of_its_seed() -> None:
    runs = make_run("a", A, (COS, "dense", 4, 98.0)) | make_run("b", A, (COS, "dense", 4, 50.0), seed=1)
    found = verdicts(merge(runs, "merge"))
    assert [each.series.row.settings["seed"] for each in found] == [0, 1]
    assert [each.decisive.row.settings["seed"] for each in found] == [0, 1]


def with_difference(runs, difference, gate):
    """The run with this difference of its reloaded network."""
    ((name, run),) = runs.items()
    rows = [row.model_copy(update={"reloaded_logits_max_abs_diff": difference}) for row in run.rows]
    return {name: dataclasses.replace(run, rows=rows, gate=gate)}


@pytest.mark.parametrize("limits", [(None, None), (1.0, 2.0)])
def test_a_reloaded_network_that_differs_fails_the_merged_gate(limits) -> None:
    runs = with_difference(make_run("a", A), 0.25, make_gate(False, "cosine differs by up to 0.25", max_drop=limits[0]))
    runs |= with_difference(make_run("b", B), 0.0, make_gate(None if None in limits else True, max_drop=limits[1]))
    merged = merge(runs, "merge")
    assert (merged.gate.passed, merged.gate.max_drop, merged.exit_code) == (False, None, 3)
    (failure,) = merged.gate.failures
    assert failure.startswith("a: cosine ")
    assert "0.25" in failure
    assert mistakes(merged.model_dump()) == []


def test_a_merged_report_keeps_to_the_schema() -> None:
    runs = make_run("a", A, weights=f"{TRAINED}0") | make_run("b", B, seed=1, weights=f"{TRAINED}1")
    merged = merge(with_baseline(runs, top1=90.0) | make_run("a", A, weights=f"{TRAINED}0"), "merge")
    assert mistakes(merged.model_dump()) == []
    assert set(merged.rows[0].model_dump()) >= {"baseline_top1", "runs", "settings"}
