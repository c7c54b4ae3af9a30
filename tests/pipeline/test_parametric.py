"""Runs with parametric families from the command line to the files, and what is refused before any work."""

import numpy as np
import pytest
import torch

from basis.parametric.conv import ParametricConv2d
from pipeline import load
from tests.pipeline.artifact import independent_reader
from tests.support.program import call_program
from tests.support.report_schema import read_report

RUN = ("--model", "tiny_net:make", "--data", "colours.npz", "--basis")


def rows(here, out):
    return [
        (row["basis"], row["config"], row["bits"], row["fit"], row["rounding"])
        for row in read_report(here / out)["rows"]
    ]


def test_a_mix_of_bases_is_compared_in_one_report(here):
    given = (*RUN, "chebyshev,fracsrf,fractional", "--config", "3,2,2", "--bits", "8,4", "--epochs", "1")
    done = call_program(here, *given, "--qat-epochs", "1", "--out", "mix")
    assert done.returncode == 0, done.stderr
    assert rows(here, "mix") == [
        *(("chebyshev", "3,2,2", bits, "activations", "gptq") for bits in (8, 4)),
        *((family, "all", bits, "weights", "nearest") for family in ("fracsrf", "fractional") for bits in (8, 4)),
    ]
    report = read_report(here / "mix")
    for row in report["rows"]:
        assert row["reloaded_logits_max_abs_diff"] == 0
        assert row["onnx_reason"] is None
        assert row["onnx_differing_predictions"] <= 1
        assert row["onnx_bits"] == (row["bits"] if row["config"] != "all" else 32)
        assert None not in (row["top1_pre"], row["top1_post"], row["top1_quant"])
    stored = {row["basis"]: row["params"] for row in report["rows"]}
    kernels = 8 * 3 + 8 * 1 + 16 * 12  # slices of the spatial convolutions
    assert stored["fractional"] - stored["fracsrf"] == 2 * kernels
    layers = [layer for layer in report["layers"] if layer["basis"] == "fracsrf"]
    statuses = {layer["name"]: (layer["status"], layer["order"]) for layer in layers}
    assert statuses["0.0"] == ("compressed", None)
    assert statuses["1.2"] == ("kept", None)
    assert 0 < layers[0]["fit_error"] < 1.5
    text = (here / "mix" / "report.md").read_text()
    assert "FracSRF Top1" in text
    assert "Fractional Top1" in text
    _check_file(here / "mix" / report["rows"][-1]["artifact"])
    _check_filters(here / "mix", report["kernels"], ["cosine", "chebyshev", "fracsrf", "fractional"], [3, 3])


def _check_file(path):
    """Compare the file as another reader has it with the network, and look at its description and its value."""
    _, tensors = independent_reader.read(path)
    for name, tensor in load(path, allow_import=True).state_dict().items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(tensors[name], tensor.numpy())
    inspected = call_program(path.parent.parent.parent, "inspect", str(path))
    assert inspected.returncode == 0, inspected.stderr
    assert "fractional" in inspected.stdout
    assert "8x3x1x5" in inspected.stdout
    verified = call_program(path.parent.parent.parent, "verify", str(path), "--allow-import")
    assert verified.returncode == 0, verified.stderr


def _check_filters(out, kernels, bases, orders):
    """Compare the fits of families with the layers of the baseline replaced, whose slice of largest norm is shown."""
    assert kernels["orders"] == orders
    assert (out / "plots" / "kernels.png").exists()
    baseline = dict(load(out / "artifacts" / "baseline.safetensors", allow_import=True).named_modules())
    slices = [kernels, *kernels["further"]]
    assert [each["layer"] for each in slices] == ["0.0", "1.0", "2.0"]
    for each in slices:
        assert list(each["fits"]) == bases
        conv = baseline[each["layer"]]
        trained = conv.weight.detach().flatten(0, 1)
        place = trained.flatten(1).norm(dim=1).argmax()
        torch.testing.assert_close(torch.tensor(each["original"]), trained[place])
        for family in set(bases) & {"fracsrf", "fractional"}:
            replaced = ParametricConv2d(conv, family).reconstructed().flatten(0, 1)[place]
            torch.testing.assert_close(torch.tensor(each["fits"][family]), replaced, rtol=1e-3, atol=1e-4)


def test_a_family_alone_needs_no_config_and_a_repeated_run_reads_the_store(here):
    given = (*RUN, "fracsrf", "--bits", "3", "--epochs", "0", "--scheme", "minifloat", "--out", "alone")
    assert call_program(here, *given).returncode == 0
    assert rows(here, "alone") == [("fracsrf", "all", 3, "weights", "nearest")]
    _check_filters(here / "alone", read_report(here / "alone")["kernels"], ["fracsrf"], None)
    again = call_program(here, "--options", "alone/options.yaml", "--out", "again")
    assert again.returncode == 0, again.stderr
    assert rows(here, "again") == rows(here, "alone")
    assert all(stage["cached"] for stage in read_report(here / "again")["run"]["stages"])
    planned = call_program(here, *given, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "fracsrf all, 3 bits (11 stored): 3 layers of the family" in planned.stdout


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("fracsrf", "--target-mb", "0.01"), "--basis: got fracsrf with --target-mb"),
        (("fracsrf", "--fit", "activations"), "--fit: got activations with --basis fracsrf"),
        (("fractional", "--config", "3,2,2"), "--config: got '3,2,2' with --basis fractional"),
        (("cosine", "--config", "all"), "--config: got 'all' with --basis cosine"),
    ],
)
def test_what_nothing_would_read_ends_with_2_and_one_sentence(here, given, words):
    done = call_program(here, *RUN, *given, "--out", "refused")
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.count("allowed:") == 1
    assert not (here / "refused" / "report.md").exists()
