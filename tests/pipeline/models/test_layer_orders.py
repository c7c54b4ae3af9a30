from collections import OrderedDict

import pytest
import torch
import torchvision
from torch import Tensor, nn

from basis.swap import swap_convolutions
from pipeline.errors import OptionsError
from pipeline.models.layer_orders import LayerPlan, orders_of, plan_layers, shape_text, stages_of
from pipeline.options.orders import parse_config


def _model(name: str) -> nn.Module:
    with torch.device("meta"):
        return torchvision.models.get_model(name)


def _plan(model: nn.Module, text: str) -> dict[str, LayerPlan]:
    return {layer.name: layer for layer in plan_layers(model, parse_config(text))}


def _small() -> nn.Sequential:
    """A stem, a stage that mixes kernels, a linear layer."""
    mixed = nn.Sequential(nn.Conv2d(4, 4, 5), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, (1, 7)), nn.Conv2d(4, 4, 1))
    return nn.Sequential(OrderedDict(conv1=nn.Conv2d(3, 4, 3), mixed=mixed, fc=nn.Linear(4, 2)))


def test_resnet18_stages_in_network_order() -> None:
    model = _model("resnet18")
    plan = _plan(model, "6,3,3,2,2")
    assert list(stages_of(model)) == ["conv1", "layer1", "layer2", "layer3", "layer4"]
    assert list(plan) == [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert plan["conv1"] == LayerPlan("conv1", (7, 7), (6, 6), "compressed", "order 6 of stage conv1")
    full = "order 3 of stage layer1: an exact change of basis"
    assert plan["layer1.0.conv1"] == LayerPlan("layer1.0.conv1", (3, 3), (3, 3), "full", full)
    assert plan["layer4.1.conv2"].order == (2, 2)
    assert plan["layer2.0.downsample.0"].reason == "1x1 kernel, nothing to leave out"
    assert plan["fc"] == LayerPlan("fc", None, None, "kept", "linear layer, no spatial kernel")
    assert len(orders_of(list(plan.values()))) == 17


def test_sizes_as_text() -> None:
    assert [shape_text(sizes) for sizes in ((7, 5), (16, 3, 3, 3), None)] == ["7x5", "16x3x3x3", "-"]


def test_dense_keeps_everything() -> None:
    plan = plan_layers(_model("resnet18"), parse_config("dense"))
    assert {(layer.status, layer.reason, layer.order) for layer in plan} == {("kept", "uncompressed row", None)}
    assert orders_of(plan) == {}


def test_auto_gives_every_kernel_its_full_order() -> None:
    plan = _plan(_small(), "auto")
    assert orders_of(list(plan.values())) == {"conv1": (3, 3), "mixed.0": (5, 5), "mixed.1": (3, 3), "mixed.2": (1, 7)}
    assert (plan["mixed.0"].status, plan["mixed.0"].reason) == ("full", "no largest order")
    assert (plan["mixed.3"].status, plan["fc"].status) == ("kept", "kept")


def test_mixed_stage_is_clipped_per_axis() -> None:
    plan = _plan(_small(), "2,4")
    assert plan["mixed.0"] == LayerPlan("mixed.0", (5, 5), (4, 4), "compressed", "order 4 of stage mixed")
    assert (plan["mixed.1"].order, plan["mixed.1"].status) == ((3, 3), "full")
    assert "clipped to its kernel" in plan["mixed.1"].reason
    assert (plan["mixed.2"].order, plan["mixed.2"].status) == ((1, 4), "compressed")
    assert "clipped to its kernel" in plan["mixed.2"].reason
    assert plan["mixed.3"].status == "kept"


def test_mobilenet_is_one_stage() -> None:
    plan = _plan(_model("mobilenet_v3_small"), "4")
    assert {layer.kernel for layer in plan.values() if layer.order} == {(3, 3), (5, 5)}
    assert {layer.order for layer in plan.values() if layer.kernel == (5, 5)} == {(4, 4)}


def test_convnext_blocks() -> None:
    plan = _plan(_model("convnext_tiny"), "7x3,7x3,7x9,6x3")
    depthwise = [layer for layer in plan.values() if layer.kernel == (7, 7)]
    assert [layer.order for layer in depthwise] == [(7, 7)] * 15 + [(6, 6)] * 3
    assert [layer.status for layer in depthwise] == ["full"] * 15 + ["compressed"] * 3
    assert plan["features.0.0"].status == "kept"
    assert plan["features.0.0"].reason == "not depthwise, and the config counts depthwise blocks"


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        (
            "resnet18",
            "3,3,3",
            "'3,3,3'.* 3 orders.*ResNet.* 5 stages: conv1, layer1, layer2, layer3, layer4",
        ),
        ("resnet18", "8,3,3,2,2", "order 8.*conv1.*7x7.* 1 to 7"),
        ("resnet18", "7x3", "3 blocks.*ResNet.* 0 depthwise.*one order per stage"),
        ("convnext_tiny", "7x3", "'7x3'.* 3 blocks.*ConvNeXt.* 18 depthwise"),
        ("convnext_tiny", "7x999999", "999,999 blocks"),
        (
            "convnext_tiny",
            "7x17,8x1",
            r"order 8.*block 18.*features\.7\.2\.block\.0.*7x7.* 1 to 7",
        ),
    ],
)
def test_refusals(name: str, config: str, words: str) -> None:
    with pytest.raises(OptionsError, match=words):
        plan_layers(_model(name), parse_config(config))


def test_the_error_calls_the_network_by_its_name() -> None:
    with pytest.raises(OptionsError, match=r" 1 order.*resnet18.* 5 stages.*allowed.*'3,3,3,3,3'"):
        plan_layers(_model("resnet18"), parse_config("3"), "resnet18")


def test_nothing_to_compress() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(4, 2))
    with pytest.raises(OptionsError, match=r"'3'.*Sequential.*no spatial convolution"):
        plan_layers(model, parse_config("3"))
    assert len(plan_layers(model, parse_config("dense"))) == 2


def test_a_shared_convolution_counts_once() -> None:
    conv = nn.Conv2d(4, 4, 3)
    model = nn.Sequential(OrderedDict(first=conv, again=conv, other=nn.Sequential(conv, nn.Conv2d(4, 4, 3))))
    assert list(_plan(model, "2,3")) == ["first", "other.1"]


def test_a_bare_convolution_is_one_stage() -> None:
    assert _plan(nn.Conv2d(3, 4, 3), "2")[""].reason == "order 2 of stage the convolution itself"


def test_other_kinds_of_convolution_are_kept() -> None:
    class Standardized(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)

    model = nn.Sequential(nn.Conv2d(3, 4, 3), Standardized(4, 4, 3), nn.Conv2d(4, 4, 3))
    swap_convolutions(model, {"2": (2, 2)}, "cosine")
    with pytest.raises(OptionsError, match="no spatial convolution"):
        _plan(model[1:], "2")
    plan = _plan(model, "2,3")
    assert plan["0"].order == (2, 2)
    assert plan["1"].order is None
    assert plan["1"].reason == "Standardized computes its output in a way of its own"
    assert plan["2"].reason == "already compressed"
