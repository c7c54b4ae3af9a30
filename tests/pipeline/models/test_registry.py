"""Names of networks, networks of one's own, and the check of the image size."""

import pytest
import torch
from torch import nn

from pipeline.errors import DataError, OptionsError
from pipeline.models import build_model, check_forward, model_names
from pipeline.models.registry import build_trainable, builder_of

MODULE = """
from torch import nn
broken = nn.Linear(2, 2)
def with_classes(num_classes): return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))
def without(): return nn.Sequential(nn.Flatten(), nn.LazyLinear(5))
def wrong(): return 3
def fails(): raise RuntimeError("no luck")
class Net(nn.Linear):
    def __init__(self, **options): super().__init__(4, options["num_classes"])
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "seriesquant_own_networks.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return "seriesquant_own_networks"


@pytest.mark.parametrize(
    "name",
    ["resnet20", "resnet18", "regnet_x_400mf", "convnext_tiny", "swin_t", "googlenet", "inception_v3", "vit_b_16"],
)
def test_builds_on_the_meta_device(name):
    with torch.device("meta"):
        model = build_model(name, 10)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_names_are_classifiers_only():
    assert "resnet18" in model_names()
    assert not [
        n for n in model_names() if "rcnn" in n or "deeplab" in n or "quantized" in n or "r3d" in n or "raft" in n
    ]


def test_unknown_name_suggests_a_near_one():
    with pytest.raises(OptionsError, match=r"'resnt18'.*resnet18"):
        build_model("resnt18", 10)
    with pytest.raises(OptionsError, match=r"'####'.*resnet20"):
        build_model("####", 10)


def test_own_network_is_given_the_classes_if_it_takes_them(own):
    assert build_model(f"{own}:with_classes", 3)(torch.randn(1, 3, 2, 2)).shape == (1, 3)
    assert build_model(f"{own}:without", 3)(torch.randn(1, 3, 2, 2)).shape == (1, 5)
    assert build_model(f"{own}:Net", 3).out_features == 3


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        (":wrong", "torch.nn.Module.* int"),
        (":fails", "RuntimeError: no luck"),
        (":absent", "imported.*AttributeError"),
        (":broken", "callable.*Linear"),
        (":", "module:callable"),
        ("_missing:net", "imported.*ModuleNotFoundError"),
    ],
)
def test_own_network_errors(own, attribute, words):
    with pytest.raises(OptionsError, match=words):
        build_model(own + attribute, 3)


def test_a_network_without_values_is_refused():
    with torch.device("meta"), pytest.raises(OptionsError, match=r"meta device.*on the CPU"):
        build_trainable("resnet20", 3, torch.zeros(1, 3, 32, 32, device="cpu"))


def test_import_can_be_forbidden(own):
    with pytest.raises(OptionsError, match="allow_import=True"):
        build_model(f"{own}:without", 3, allow_import=False)


class Failing(nn.Module):
    """A network whose forward raises an error."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, images):
        raise self.error


def test_timm_networks_are_built_by_their_names():
    model = build_model("timm:mobilenetv3_small_100", 5).eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
    assert builder_of("timm:mobilenetv3_small_100", 5) == ("timm", {"num_classes": 5})
    with pytest.raises(OptionsError, match=r"mobilenetv3_smal.*mobilenetv3_small"):
        build_model("timm:mobilenetv3_smal", 5)


def test_check_forward_keeps_modes_and_buffers():
    model = build_model("resnet20", 10)
    model.bn1.eval()
    before = model.layer1[0].bn1.running_mean.clone()
    check_forward(model, 10, (32, 32))
    assert model.training
    assert not model.bn1.training
    assert torch.equal(before, model.layer1[0].bn1.running_mean)


def test_check_forward_refuses_a_size():
    with pytest.raises(OptionsError, match=r"AlexNet.*16x16.*RuntimeError: .") as raised:
        check_forward(build_model("alexnet", 10), 10, (16, 16))
    assert isinstance(raised.value.__cause__, RuntimeError)


@pytest.mark.parametrize(
    "error",
    [
        AssertionError("Wrong image height! Expected 224 but got 8!"),
        ValueError("images must have the shape (N, 3, 32, 32)"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x192 and 48x3)"),
    ],
)
def test_check_forward_refuses_what_a_network_rejects_by_its_shape(error):
    with pytest.raises(OptionsError, match=r"Failing.*8x8") as raised:
        check_forward(Failing(error), 4, (8, 8))
    assert f"{type(error).__name__}: {error}" in str(raised.value)
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB; reserved size 1 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
        MemoryError(),
        NotImplementedError('Module [Net] is missing the required "forward" function'),
        TypeError("forward() takes 1 positional argument but 2 were given"),
        AttributeError("'Net' object has no attribute 'shape'"),
        RuntimeError("Expected all tensors to be on the same device"),
    ],
)
def test_check_forward_raises_other_errors_unchanged(error):
    model = Failing(error)
    with pytest.raises(type(error)) as raised:
        check_forward(model, 4, (8, 8))
    assert raised.value is error
    assert model.training


def test_check_forward_refuses_an_output():
    with pytest.raises(DataError, match=r"\(1, 10\).*4 classes.*\(1, 4\)"):
        check_forward(build_model("resnet20", 10), 4, (32, 32))

    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(DataError, match=r"Pair.*tuple"):
        check_forward(Pair(), 4, (8, 8))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet32", ("cifar_resnet", {"blocks": 5, "classes": 7})),
        ("resnet18", ("torchvision", {"num_classes": 7})),
        (
            "googlenet",
            (
                "torchvision",
                {"num_classes": 7, "aux_logits": False, "init_weights": True, "transform_input": True},
            ),
        ),
        ("nets:make", ("import", {"num_classes": 7})),
    ],
)
def test_the_builder_and_its_arguments(name, expected):
    assert builder_of(name, 7) == expected


def test_the_builder_of_an_unknown_network():
    with pytest.raises(OptionsError, match="'resnet19'"):
        builder_of("resnet19", 7)
