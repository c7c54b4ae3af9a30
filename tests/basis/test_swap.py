"""Swapping a network's convolutions in place, and back, for every way in which a network can hold one."""

import copy
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from basis import CompressionError, SeriesConv2d, swap_convolutions
from basis.errors import NumericalError
from basis.swap import compressible_convolutions, materialize


class Shared(nn.Module):
    """One convolution under two names, at two depths."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.deep = nn.Sequential(nn.ReLU(), self.first)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.deep(self.first(x)))


class Standardized(nn.Conv2d):
    """A convolution with a forward of its own: the weight is not what it convolves with."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


class Scaled(nn.Conv2d):
    """The same one level lower."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, 2 * weight, bias)


class Renamed(nn.Conv2d):
    """A subclass that changes nothing."""


def nested() -> nn.Sequential:
    blocks = nn.ModuleDict({"a": nn.Conv2d(4, 4, 5, padding=2), "b": nn.Linear(4, 4)})
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ModuleList([nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()), blocks]))


def full_plan(model: nn.Module) -> dict[str, tuple[int, int]]:
    return {name: conv.kernel_size for name, conv in compressible_convolutions(model).items()}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float(((actual - expected).norm() / expected.norm()).detach())


def test_the_spatial_convolutions_are_listed_in_order() -> None:
    assert list(compressible_convolutions(nested())) == ["0", "1.1.a"]


def test_nested_layers_are_swapped_in_place() -> None:
    model = nested()
    kept = model[1][0][0]
    assert swap_convolutions(model, {"0": (2, 2), "1.1.a": (3, 4)}, "cosine") is model
    assert isinstance(model[0], SeriesConv2d)
    assert model[1][1]["a"].order == (3, 4)
    assert model[1][0][0] is kept
    assert [name for name, _ in model.named_modules()] == [name for name, _ in nested().named_modules()]


def test_only_the_layers_of_the_plan_are_swapped() -> None:
    model = nested()
    swap_convolutions(model, {"1.1.a": (3, 3)}, "cosine")
    assert type(model[0]) is nn.Conv2d


@pytest.mark.parametrize("names", [["first"], ["deep.1"], ["first", "deep.1"]])
def test_a_shared_module_becomes_one_series_under_all_its_names(names: list[str]) -> None:
    model = Shared().eval()
    x = torch.randn(2, 4, 6, 6)
    expected = model(x)
    swap_convolutions(model, dict.fromkeys(names, (3, 3)), "chebyshev")
    assert isinstance(model.first, SeriesConv2d)
    assert model.deep[1] is model.first
    assert relative_error(model(x), expected) < 1e-4
    materialize(model)
    assert type(model.first) is nn.Conv2d
    assert model.deep[1] is model.first


def test_a_shared_module_cannot_have_two_orders() -> None:
    model = Shared()
    with pytest.raises(CompressionError, match=r"'first'.*'deep\.1'.* one module .*orders"):
        swap_convolutions(model, {"first": (2, 2), "deep.1": (3, 3)}, "cosine")
    assert type(model.first) is nn.Conv2d


def test_inside_data_parallel() -> None:
    model = nn.DataParallel(nn.Sequential(nn.Conv2d(3, 4, 3)))
    x = torch.randn(2, 3, 6, 6)
    expected = model(x)
    swap_convolutions(model, {"module.0": (3, 3)}, "cosine")
    assert isinstance(model.module[0], SeriesConv2d)
    assert relative_error(model(x), expected) < 1e-4


@pytest.mark.parametrize("wrap", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_a_parametrized_convolution_is_fitted_to_its_effective_weight(wrap: Callable[[nn.Conv2d], nn.Module]) -> None:
    model = nn.Sequential(wrap(nn.Conv2d(3, 4, 3, padding=1)), nn.ReLU()).eval()
    x = torch.randn(2, 3, 6, 6)
    expected = model(x)
    swap_convolutions(model, full_plan(model), "cosine")
    assert set(model.state_dict()) == {"0.coefficients", "0.bias"}
    assert relative_error(model(x), expected) < 1e-4


def test_an_attribute_of_the_root() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3)
            self.absent = None
            self.register_module("empty", None)

        def forward(self, x: Tensor) -> Tensor:
            return self.stem(x)

    model = swap_convolutions(Net(), {"stem": (2, 2)}, "cosine")
    assert isinstance(model.stem, SeriesConv2d)
    assert "stem.coefficients" in model.state_dict()


def test_a_bare_convolution_is_returned_replaced() -> None:
    conv = nn.Conv2d(3, 4, 3)
    x = torch.randn(1, 3, 6, 6)
    series = swap_convolutions(conv, full_plan(conv), "cosine")
    assert isinstance(series, SeriesConv2d)
    assert type(conv) is nn.Conv2d
    dense = materialize(series)
    assert type(dense) is nn.Conv2d
    assert relative_error(dense(x), conv(x)) < 1e-4


def test_a_subclass_that_changes_nothing_is_swapped() -> None:
    model = nn.Sequential(Renamed(3, 4, 3))
    assert isinstance(swap_convolutions(model, {"0": (2, 2)}, "cosine")[0], SeriesConv2d)


@pytest.mark.parametrize("kind", [Standardized, Scaled])
def test_a_convolution_with_its_own_forward_is_skipped(kind: type[nn.Conv2d]) -> None:
    model = nn.Sequential(kind(3, 4, 3), nn.Conv2d(4, 4, 3))
    assert list(compressible_convolutions(model)) == ["1"]
    with pytest.raises(CompressionError, match=f"layer '0' .*{kind.__name__}; allowed: nn.Conv2d"):
        swap_convolutions(model, {"0": (2, 2)}, "cosine")


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({}, "the plan names no layer; allowed: at least one convolution larger than 1x1"),
        ({"0": (2, 2), "nowhere": (2, 2)}, "no layer 'nowhere'; allowed: 0, 1.1.a"),
        ({"0": (2, 2), "1.0.0": (1, 1)}, "layer '1.0.0' is a Conv2d; allowed: nn.Conv2d with a kernel larger than 1"),
        ({"0": (2, 2), "1.1.b": (1, 1)}, "layer '1.1.b' is a Linear; allowed"),
        ({"0": (2, 2), "1": (1, 1)}, "layer '1' is a ModuleList; allowed"),
        ({"0": (2, 2), "1.1.a": (6, 6)}, "layer '1.1.a': basis_matrix: order 6 for a kernel of 5 taps"),
    ],
)
def test_errors_leave_the_network_untouched(plan: dict[str, tuple[int, int]], message: str) -> None:
    model = nested()
    before = dict(model.named_modules())
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(CompressionError, match=message):
        swap_convolutions(model, plan, "cosine")
    after = dict(model.named_modules())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    torch.testing.assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0)


def test_an_unknown_basis_names_the_layer() -> None:
    with pytest.raises(CompressionError, match=r"layer '0'.*'sine'"):
        swap_convolutions(nested(), {"0": (2, 2)}, "sine")


def test_a_swapped_layer_is_not_swapped_again() -> None:
    model = swap_convolutions(nested(), {"0": (2, 2)}, "cosine")
    assert "0" not in compressible_convolutions(model)
    with pytest.raises(CompressionError, match="layer '0' is a SeriesConv2d"):
        swap_convolutions(model, {"0": (2, 2)}, "cosine")


def test_a_network_without_spatial_convolutions() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(4, 2))
    assert compressible_convolutions(model) == {}
    with pytest.raises(CompressionError, match=r"layer '2'.*allowed: none"):
        swap_convolutions(model, {"2": (2, 2)}, "cosine")


def test_long_lists_of_names_are_cut() -> None:
    model = nn.Sequential(*(nn.Conv2d(3, 3, 3) for _ in range(7)))
    with pytest.raises(CompressionError, match=r"allowed: 0, 1, 2, 3, 4, \.\.\.$"):
        swap_convolutions(model, {"stem": (2, 2)}, "cosine")


def test_materialize_of_a_network_without_series_changes_nothing() -> None:
    model = nested()
    before = list(model.modules())
    assert materialize(model) is model
    assert all(new is old for new, old in zip(model.modules(), before, strict=True))


@pytest.mark.parametrize(
    ("build", "basis"), [(torchvision.models.resnet18, "cosine"), (torchvision.models.mobilenet_v2, "chebyshev")]
)
def test_whole_networks_at_full_order(build: Callable[[], nn.Module], basis: str) -> None:
    torch.manual_seed(0)
    model = build().eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        swap_convolutions(model, full_plan(model), basis)
        assert any(isinstance(module, SeriesConv2d) for module in model.modules())
        assert relative_error(model(x), expected) < 1e-4
        materialize(model)
        assert not any(isinstance(module, SeriesConv2d) for module in model.modules())
        assert relative_error(model(x), expected) < 1e-4


def test_a_weight_that_is_not_finite_is_a_numerical_failure_of_its_layer():
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    nn.init.constant_(model[0].weight, float("nan"))
    with pytest.raises(NumericalError, match=r"'0'.*NaN or infinite"):
        swap_convolutions(model, {"0": (2, 2)}, "cosine")
