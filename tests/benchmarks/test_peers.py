"""The comparison with other compressors: envelope, interpolation, tables, and errors as rows."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.peer_methods import ours
from benchmarks.peer_methods.brevitas import unpacked
from benchmarks.peer_methods.curves import Level, Point, bytes_at, envelope, levels
from benchmarks.peer_methods.job import Row, Run, measured
from benchmarks.peer_methods.nncodec import block_types, unfolded
from benchmarks.peer_methods.output import markdown
from pipeline.models.registry import build_model
from quant.packing import pack


def test_the_envelope_has_the_points_that_no_smaller_file_reaches():
    points = [Point(300, 91.0), Point(100, 80.0), Point(200, 90.0), Point(250, 89.0), Point(200, 85.0)]
    assert envelope(points) == [Point(100, 80.0), Point(200, 90.0), Point(300, 91.0)]


def test_bytes_are_interpolated_in_their_logarithm():
    points = [Point(10_000, 88.0), Point(40_000, 90.0), Point(30_000, 80.0)]
    assert bytes_at(89.0, points) == pytest.approx(20_000)
    assert bytes_at(89.5, points) == pytest.approx(math.exp(0.25 * math.log(10_000) + 0.75 * math.log(40_000)))
    assert bytes_at(90.0, points) == pytest.approx(40_000)
    assert bytes_at(90.1, points) is None
    assert bytes_at(87.9, points) is None


def test_levels_have_the_ratio_of_ours_to_the_peer():
    found = levels([Point(100, 88.0), Point(200, 90.0)], [Point(40, 88.0), Point(120, 90.0)], [88.0, 90.0, 91.0])
    assert [level.ratio for level in found] == [pytest.approx(0.4), pytest.approx(0.6), None]


def test_the_tables_show_errors_missed_ratios_and_the_best_rows_of_nncodec():
    rows = [
        Row("NNCodec", "qp -20", 100, 90.0, 0.1, 0.2),
        Row("NNCodec", "qp -22, worse", 110, 89.0, 0.1, 0.2),
        Row("NNCF", "", error="not installed (nncf)"),
        Row("seriesquant", "--target-mb 0.06", 60, 90.0, 10.0, 20.0),
    ]
    facts = {"model": "resnet20", "baseline_top1": 91.73, "commit": "abc", "date": "today", "versions": {}}
    text = markdown(facts, rows, [Level(90.0, 100.0, 60.0), Level(91.0, None, 70.0), Level(88.0, 100.0, 45.0)])
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert ["seriesquant", "--target-mb 0.06", "60", "90.00", "10.0", "20.0"] in cells
    assert ["NNCodec", "qp -20", "100", "90.00", "0.1", "0.2"] in cells
    assert ["NNCF", "", "not installed (nncf)", "-", "-", "-"] in cells
    assert ["90", "100", "60", "0.60", "missed by 0.10"] in cells
    assert ["91", "-", "70", "-", "-"] in cells
    assert ["88", "100", "45", "0.45", "yes"] in cells
    assert "worse" not in text


def test_a_run_that_fails_has_its_error_and_the_next_one_its_figures(tmp_path, capsys):
    def fail(path):
        raise ValueError("two\nlines")

    def runs(job):
        yield Run("A", "bad", fail, lambda path: None)
        yield Run("A", "good", lambda path: path.write_bytes(bytes(7)), lambda path: None)
        raise ModuleNotFoundError("no module", name="somewhere")

    job = SimpleNamespace(folder=tmp_path, top1=lambda network: 90.5)
    bad, good, missing = measured("A", runs, job)
    assert (bad.error, bad.bytes) == ("ValueError: two lines", None)
    assert (good.bytes, good.top1, good.error) == (7, 90.5, None)
    assert missing.error == "not installed (somewhere)"
    assert "7 bytes" in capsys.readouterr().err


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_packed_integers_are_unpacked(bits):
    values = torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)).to(torch.int8)
    assert unpacked(pack(values, bits), bits, len(values)).tolist() == values.tolist()


def test_every_normalization_is_folded_into_the_convolution_before_it():
    network = build_model("resnet20", 10)
    types, blocks = block_types(network).values()
    assert set(types) == set(blocks) == {key for key in network.state_dict() if "num_batches" not in key}
    assert blocks["layer1.0.bn2.running_var"] == blocks["layer1.0.conv2.weight"] == "layer1.0.conv2"
    assert (types["layer1.0.bn2.running_var"], types["layer1.0.conv2.weight"]) == ("bn.var", "weight")


def test_an_unfolded_normalization_only_adds_its_bias():
    state = unfolded({"a.conv1.weight": np.ones((2, 1, 1, 1), np.float32), "a.conv1.weight.bias": np.float32([3, -1])})
    layer = torch.nn.BatchNorm2d(2).eval()
    layer.load_state_dict({key[6:]: torch.from_numpy(value) for key, value in state.items() if "bn1" in key}, False)
    x = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), x + torch.tensor([3.0, -1.0])[:, None, None])


def test_this_project_has_sizes_for_every_network_with_a_checkpoint():
    assert set(ours.SIZES) == {"resnet20", "resnet32"}
