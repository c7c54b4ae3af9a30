"""Batch normalization as scale and shift: equal outputs, and only where the module holds its tensors itself."""

import copy

import pytest
import torch
from torch import nn

from basis.errors import NumericalError
from pipeline.artifact.batchnorm import normalization_error, record_normalizations
from pipeline.artifact.record import record_network
from quant.backends import get_backend
from quant.formats import IntFormat
from quant.grid import grid_exponents, grid_values
from quant.minifloat import MinifloatFormat
from quant.network import quantize_network

ERROR = 2.0**-8


def trained(kind=nn.BatchNorm2d, channels=16, **arguments):
    torch.manual_seed(0)
    module = kind(channels, **arguments)
    for tensor in (module.weight, module.bias, module.running_mean):
        tensor.data.normal_()
    module.running_var.uniform_(0.1, 3)
    return module.eval()


def rebuilt(record, like):
    module = type(like)(like.num_features, eps=like.eps).eval()
    module.load_state_dict({name.removeprefix("0."): t for name, t in record.tensors().items()}, strict=False)
    return module


@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.BatchNorm1d, (8, 16)), (nn.BatchNorm2d, (8, 16, 5, 5)), (nn.BatchNorm3d, (2, 16, 3, 3, 3))]
)
@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_the_outputs_stay(kind, shape, eps):
    module = trained(kind, eps=eps)
    (record,) = record_normalizations(nn.Sequential(module), ERROR)
    x = torch.randn(shape)
    largest = float((module.weight.abs() + module.bias.abs()).max().detach())
    error = float((rebuilt(record, module)(x) - module(x)).detach().abs().max())
    assert 0.2 * ERROR * largest < error < 2 * ERROR * largest


@pytest.mark.parametrize("error", [2.0**-10, 2.0**-8, 2.0**-5])
def test_the_error_at_one_deviation_keeps_to_its_bound_and_uses_it(error):
    module = trained(channels=64)
    (record,) = record_normalizations(nn.Sequential(module), error)
    largest = float((module.weight.abs() + module.bias.abs()).max().detach())
    worst = 0.0
    for sign in (-1, 1):
        x = module.running_mean + sign * (module.running_var + module.eps).sqrt()
        x = x.to(torch.float64).view(1, -1, 1, 1)
        outputs = [each.double()(x).detach() for each in (rebuilt(record, module), copy.deepcopy(module))]
        worst = max(worst, float((outputs[0] - outputs[1]).abs().max()))
    assert 0.2 * error * largest < worst <= 1.001 * error * largest


def test_a_larger_error_takes_smaller_integers():
    module = trained()
    sizes = [
        int(record_normalizations(nn.Sequential(module), e)[0].weight.integers.abs().max()) for e in (2**-8, 2**-5)
    ]
    assert sizes[0] > 6 * sizes[1]


def test_more_bits_make_finer_normalizations():
    errors = [normalization_error(bits) for bits in (0.02, 1.2, 1.3, 4.0, 4.1, 5.5, 6.5, 12)]
    assert errors == [2**-6, 2**-6, 2**-8, 2**-8, 2**-9, 2**-10, 2**-11, 2**-11]


@pytest.mark.parametrize(
    ("format", "error"),
    [
        (IntFormat(8), 2**-11),
        (IntFormat(6), 2**-9),
        (IntFormat(5), 2**-8),
        (IntFormat(3), 2**-8),
        (IntFormat(2), 2**-8),
        (MinifloatFormat(2), 2**-8),
        (MinifloatFormat(4), 2**-10),
        (MinifloatFormat(8), 2**-11),
    ],
)
def test_the_width_of_the_layers_determines_the_error(format, error):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), trained())
    record = record_network(model, quantize_network(model, format, get_backend("brevitas")))
    (expected,) = record_normalizations(model, error)
    assert torch.equal(record.normalizations[0].weight.integers, expected.weight.integers)
    assert torch.equal(record.normalizations[0].bias.exponents, expected.bias.exponents)


def test_a_normalization_that_is_synchronized_in_training_takes_the_same_bytes():
    plain = trained()
    module = nn.SyncBatchNorm.convert_sync_batchnorm(plain)
    (expected,), (record,) = (record_normalizations(nn.Sequential(each), ERROR) for each in (plain, module))
    assert torch.equal(record.weight.integers, expected.weight.integers)
    assert torch.equal(record.bias.integers, expected.bias.integers)


def test_a_channel_far_from_zero_has_finer_steps():
    module = trained()
    module.running_mean[3] = 1e4  # measured in deviations: scale and shift nearly cancel
    (record,) = record_normalizations(nn.Sequential(module), ERROR)
    x = torch.randn(4, 16, 3, 3) + module.running_mean.view(1, -1, 1, 1)
    torch.testing.assert_close(rebuilt(record, module)(x), module(x), rtol=0, atol=0.05)


def test_values_that_need_too_large_integers_are_left_alone():
    module = trained()
    module.running_mean[3] = 1e9
    assert record_normalizations(nn.Sequential(module), ERROR) == ()


def test_a_dead_channel_stays_silent():
    module = trained()
    module.weight.data[2], module.bias.data[2] = 0, 0
    (record,) = record_normalizations(nn.Sequential(module), ERROR)
    assert record.weight.integers[2] == record.bias.integers[2] == 0


def test_a_module_of_zeros_takes_zeros():
    module = trained()
    module.weight.data.zero_()
    module.bias.data.zero_()
    (record,) = record_normalizations(nn.Sequential(module), ERROR)
    assert not any(bool(each.integers.any()) for each in (record.weight, record.bias))


class Own(nn.BatchNorm2d):
    def forward(self, x):
        return x * self.running_var.view(1, -1, 1, 1)


@pytest.mark.parametrize(
    "module",
    [
        nn.BatchNorm2d(4, affine=False),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        Own(4),
    ],
)
def test_every_other_normalization_is_left_alone(module):
    assert record_normalizations(nn.Sequential(module), ERROR) == ()


def test_shared_tensors_are_left_alone_and_a_shared_module_is_taken_once():
    one, other, shared = trained(), trained(), trained()
    other.weight = one.weight
    assert [r.name for r in record_normalizations(nn.Sequential(one, other, shared, shared), ERROR)] == ["2"]


def test_statistics_that_are_not_finite_are_left_alone():
    module = trained()
    module.running_mean[0] = float("nan")
    assert record_normalizations(nn.Sequential(module), ERROR) == ()


def test_a_negative_running_variance_is_refused():
    module = trained()
    module.running_var[3] = -0.5
    with pytest.raises(NumericalError, match=r"'0'.*-0\.5"):
        record_normalizations(nn.Sequential(module), ERROR)


@pytest.mark.parametrize("step", [1.0, 0.37, 20.0])
def test_scales_that_are_multiples_of_a_coarse_step_keep_it(step):
    module = trained(channels=64)
    exponent = grid_exponents(torch.tensor(step))
    levels = torch.randint(1, 9, (64,)) * torch.randint(0, 2, (64,)).mul(2).sub(1)
    with torch.no_grad():
        scale = levels * grid_values(exponent).double()
        module.weight.copy_(scale * (module.running_var.double() + module.eps).sqrt() / (1 + module.eps) ** 0.5)
    (record,) = record_normalizations(nn.Sequential(module), ERROR)
    assert int(record.weight.exponents) == int(exponent)
    assert torch.equal(record.weight.integers, levels.int())
    assert int(record.bias.integers.abs().max()) > 20, "the shifts are as fine as ever"
