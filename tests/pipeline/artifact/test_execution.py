"""The two forms of a loaded network, and the choice between them."""

import copy

import pytest
import torch
from torch import nn

from basis.separable import SeparableConv2d
from basis.swap import swap_convolutions
from pipeline.artifact import load, write_artifact
from pipeline.artifact.execution import blank_sample, measure_ratio, with_execution
from pipeline.artifact.record import build_network, record_network
from pipeline.errors import OptionsError
from quant.backends import get_backend
from quant.formats import IntFormat
from quant.network import quantize_network
from tests.pipeline.onnx.graphs import IDENTITY
from tests.support.networks import tiny_network

ORDERS = {"0.0": (3, 3), "1.0": (2, 2), "2.0": (3, 3)}
SAMPLE = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def record():
    model = swap_convolutions(tiny_network(), ORDERS, "chebyshev")
    return record_network(model, quantize_network(model, IntFormat(8), get_backend("brevitas")))


@pytest.fixture
def dense(record):
    return build_network(record, tiny_network(seed=1))


def separable_layers(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, SeparableConv2d)]


def test_separable_replaces_lower_orders_and_gives_the_same_outputs(record, dense):
    network = with_execution(copy.deepcopy(dense), record, "separable", SAMPLE)
    assert separable_layers(network) == ["0.0", "1.0"]  # 2.0 has the full order
    torch.testing.assert_close(network(SAMPLE), dense(SAMPLE), rtol=1e-5, atol=1e-5)
    assert not network.training


def test_dense_leaves_the_network_alone(record, dense):
    assert with_execution(dense, record, "dense", SAMPLE) is dense
    assert separable_layers(dense) == []


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("execution", ["separable", "auto"])
def test_a_scripted_network_has_the_dense_form_alone(record, dense, execution):
    scripted = torch.jit.script(tiny_network())
    assert torch.equal(build_network(record, scripted)(SAMPLE), dense(SAMPLE))
    with pytest.raises(OptionsError, match=r"0\.0 of network .* no separable form; allowed: .* execution='dense'"):
        with_execution(scripted, record, execution, SAMPLE)


def test_auto_keeps_the_faster_form_of_each_layer(record, dense):
    ratios = iter([0.5, 2.0])
    network = with_execution(
        copy.deepcopy(dense), record, "auto", SAMPLE, measure_ratio=lambda form, conv, x: next(ratios)
    )
    assert separable_layers(network) == ["0.0"]
    torch.testing.assert_close(network(SAMPLE), dense(SAMPLE), rtol=1e-5, atol=1e-5)
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_the_ratio_is_the_median_of_time_by_time():
    """On a clock that only the two forms advance; the first call of each is slow and not timed."""
    time, calls = [0.0], {"form": 0, "dense": 0}

    def advance(name, seconds):
        time[0] += seconds if calls[name] else 100.0
        calls[name] += 1
        return SAMPLE

    ratio = measure_ratio(
        lambda x: advance("form", 50.0 if calls["form"] == 3 else 1.0),
        lambda x: advance("dense", 4.0),
        SAMPLE,
        clock=lambda: time[0],
    )
    assert ratio == 0.25
    assert calls["form"] == calls["dense"] > 3


def test_a_shared_layer_is_replaced_under_all_its_names(record):
    shared = nn.Conv2d(3, 3, 3, padding=1)
    model = swap_convolutions(nn.Sequential(shared, nn.ReLU(), shared), {"0": (2, 2)}, "cosine")
    record = record_network(model, quantize_network(model, IntFormat(8), get_backend("brevitas")))
    other = nn.Conv2d(3, 3, 3, padding=1)
    network = build_network(record, nn.Sequential(other, nn.ReLU(), other))
    expected = network(SAMPLE)
    replaced = with_execution(network, record, "separable", SAMPLE)
    assert isinstance(replaced[0], SeparableConv2d)
    assert replaced[0] is replaced[2]
    torch.testing.assert_close(replaced(SAMPLE), expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def written(record, tmp_path):
    write_artifact(record, IDENTITY, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


@pytest.mark.parametrize("execution", ["dense", "separable", "auto"])
def test_a_file_loads_in_every_execution(written, dense, execution):
    network = load(written, network=tiny_network(seed=3), execution=execution)
    torch.testing.assert_close(network(SAMPLE), dense(SAMPLE), rtol=1e-5, atol=1e-5)
    assert (execution == "dense") <= (separable_layers(network) == [])


def test_auto_runs_the_callers_images_or_one_of_the_files_size(written):
    shapes = []
    model = tiny_network()
    model.register_forward_pre_hook(lambda module, inputs: shapes.append(tuple(inputs[0].shape)))
    load(written, network=copy.deepcopy(model), execution="auto")
    load(written, network=copy.deepcopy(model), execution="auto", sample=torch.zeros(6, 3, 20, 20))
    assert shapes == [(1, 3, 12, 12), (6, 3, 20, 20)]


def test_the_image_of_the_files_size_is_on_the_device_of_the_network():
    assert blank_sample(tiny_network().to("meta"), (1, 3, 4, 4)).device.type == "meta"
    assert blank_sample(torch.nn.Identity(), (1, 3, 4, 4)).device.type == "cpu"


def test_a_blank_sample_has_the_dtype_of_the_network():
    assert blank_sample(tiny_network().bfloat16(), (1, 3, 4, 4)).dtype == torch.bfloat16
    assert blank_sample(torch.nn.Identity(), (1, 3, 4, 4)).dtype == torch.float32


def test_an_unknown_execution_is_refused(record, dense, tmp_path):
    with pytest.raises(OptionsError, match="execution 'fast' is unknown"):
        load(tmp_path / "not even looked for", execution="fast")
    with pytest.raises(OptionsError, match=r"'fast'.*allowed: dense, separable, auto"):
        with_execution(dense, record, "fast", SAMPLE)


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (torch.zeros(1, 5, 12, 12), r"float32 \(1, 5, 12, 12\)"),
        (torch.zeros(1, 3, 12, 12).int(), "torch.int32"),
        (torch.zeros(1, 3, 12, 12).numpy(), "a ndarray"),
    ],
)
def test_a_sample_that_the_network_cannot_take_is_refused(written, sample, words):
    """The error was that of torch."""
    with pytest.raises(
        OptionsError, match=rf"^load: the network \w+ cannot take the sample, .*{words}.*; allowed"
    ) as error:
        load(written, network=tiny_network(), execution="auto", sample=sample)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (SAMPLE[:0], r"float32 \(0, 3, 12, 12\), has no images"),
        (SAMPLE.masked_fill(SAMPLE > 2, torch.nan), r"float32 \(3, 3, 12, 12\), holds NaN or infinite values"),
        (SAMPLE.masked_fill(SAMPLE > 2, torch.inf), r"float32 \(3, 3, 12, 12\), holds NaN or infinite values"),
    ],
)
def test_a_sample_that_measures_nothing_is_refused(written, sample, words):
    with pytest.raises(OptionsError, match=rf"^load: the sample, torch\.{words}; allowed: at least one image"):
        load(written, network=tiny_network(), execution="auto", sample=sample)
