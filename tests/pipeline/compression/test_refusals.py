"""Arguments and networks that ``compress`` refuses, in one sentence and before any work."""

import functools
import io
import re
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pipeline import Options, compress, load
from pipeline.errors import DataError, OptionsError
from pipeline.failure import EXIT_OPTIONS, failure_of
from tests.pipeline.compression.networks import Named, Net, images, seeded, without_work

X = images()


def locked() -> nn.Module:
    network = seeded()
    network.lock = threading.Lock()
    return network


def frozen() -> nn.Module:
    return seeded().requires_grad_(False)


def patched() -> nn.Module:
    network, other = seeded(), seeded()
    network.features = other.features  # a copy of the network still computes with the parameters of the other
    return network


def sharing() -> nn.Module:
    network = seeded()
    network.register_buffer("alias", network.last.weight.detach())
    return network


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.LazyConv2d(4, 3)

    def forward(self, x):
        return self.conv(x)


class Odd(nn.Module):
    """One convolution, with one thing that a series or a file cannot take over."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.conv = kind, nn.Conv2d(1, 4, 3)
        if kind == "hook":
            self.conv.register_forward_hook(lambda module, inputs, output: 2 * output)
        elif kind == "patched":
            self.conv.forward = functools.partial(nn.functional.conv2d, weight=torch.ones(4, 1, 3, 3))
        elif kind == "damaged":
            self.conv.weight.data[0] = float("nan")
        elif kind == "complex":
            self.register_buffer("filter", torch.ones(3, dtype=torch.complex64))

    def forward(self, x):
        if self.kind == "two inputs":
            raise TypeError("forward() missing 1 required positional argument: 'y'")
        if self.kind in ("dict", "nested"):
            x = x["images"] if self.kind == "dict" else x.tensors
        if self.kind == "saliency":
            return torch.autograd.grad(self.conv(x.requires_grad_()).sum(), x)[0]
        if self.kind == "loss" and self.training:
            return {"loss": self.conv(x).mean()}
        if self.kind == "reentrant":
            return checkpoint(self.conv, x, use_reentrant=True)
        if self.kind == "random":
            x = x + torch.rand_like(x)
        if self.kind == "in place":
            x.add_(1)
        if self.kind == "detached":
            return self.conv(x).detach()
        if self.kind == "spectrum":
            return torch.fft.rfft2(self.conv(x))
        if self.kind == "columns first":
            return self.conv(x).permute(3, 0, 1, 2)
        if self.kind == "scalar":
            return self.conv(x).mean(), self.conv(x)
        return nn.functional.conv2d(x, self.conv.weight) if self.kind == "functional" else self.conv(x)


ARGUMENTS = [
    ({"config": "3,2"}, "2 orders.*Net has 3 stages: stem, block, last"),
    ({"config": "9,2,2"}, "order 9 to stage stem.*1 to 5"),
    ({"config": "auto"}, "config: got 'auto' without target_mb; allowed: (?!.*target_drop)"),
    ({"config": None}, "config: is missing; allowed: configs: orders such as '6,3,3,2,2'"),
    ({"bits": None, "target_mb": -1}, "target_mb: got -1.0; allowed"),
    ({"config": "dense", "bits": None}, "dense"),
    ({"config": 0}, "0"),
    ({"config": [2.5]}, "config: got"),
    ({"config": {"stem": 3}}, "config: got"),
    ({"config": "3,x,2"}, "'x'"),
    ({"bits": 9}, "bits: got 9; allowed: 2 to 8"),
    ({"bits": (4, 3)}, "bits: got"),
    ({"bits": "4"}, "bits: got"),
    ({"bits": True}, "bits: got"),
    ({"target_mb": 0.1}, "bits: got 4 with target_mb"),
    ({"bits": None, "target_mb": 0.000001}, r"target_mb: got 1e-06 .*allowed: 0\.00.* to 0\.0.* MB"),
    ({"bits": None, "target_mb": 0.1, "rounding": "nearest"}, "rounding: got nearest with target_mb"),
    ({"bits": None, "target_mb": "small"}, "target_mb: got"),
    ({"basis": "fourier"}, "basis: got.*cosine, chebyshev"),
    ({"basis": "cosine,chebyshev"}, "basis: got.*one"),
    ({"fit": "labels"}, "fit: got.*activations, weights"),
    ({"rounding": "up"}, "rounding: got.*gptq, nearest"),
    ({"scheme": "float"}, "scheme: got.*int, minifloat"),
    ({"backend": "onnx"}, "backend: got.*brevitas"),
    ({"epochs": -1}, "epochs: got -1"),
    ({"epochs": 1.5}, "epochs: got 1.5"),
    ({"epochs": None}, "epochs: got None"),
    ({"lr": 0.0}, "lr: got 0"),
    ({"batch_size": 0}, "batch_size: got 0"),
    ({"calibration_size": 0}, "calibration_size: got 0"),
    ({"seed": -1}, "seed: got -1"),
    ({"device": "cuda:77"}, "device: got 'cuda:77'"),
    ({"device": "toaster"}, "device: got 'toaster'"),
    ({"bits": 4.0}, "bits: got 4.0"),
    ({"output": "logits"}, "output: got 'logits' for Net, which returns a Tensor.*in it: 0"),
    ({"output": "logits", "epochs": 1}, "output: got 'logits' for Net, which returns a Tensor.*in it: 0"),
    ({"progress": True}, "progress: got True"),
    ({"metric": 91.0}, "metric: got a float"),
    ({"metric": lambda network: "good"}, "metric: returned a str"),
    ({"metric": lambda network: network(X)}, "metric: returned a Tensor"),
]


def test_numbers_of_numpy_are_numbers():
    expected = compress(seeded(), X, config=[3, 2, 2], bits=4)
    found = compress(seeded(), X, config=list(np.array([3, 2, 2])), bits=np.int64(4), seed=np.int64(0))
    assert found.content == expected.content


@pytest.mark.parametrize(("changes", "words"), ARGUMENTS, ids=[words for _, words in ARGUMENTS])
def test_wrong_arguments_are_refused(changes, words, monkeypatch):
    without_work(monkeypatch)
    with pytest.raises(OptionsError, match=words) as caught:
        compress(seeded(), X, **({"config": "3,2,2", "bits": 4} | changes))
    assert str(caught.value).startswith("compress: ")
    assert re.search("allowed: |has 3 stages: ", str(caught.value))
    assert "--" not in str(caught.value)
    assert failure_of(caught.value).exit_code == EXIT_OPTIONS


TARGET = {"config": None, "bits": None, "target_mb": 0.0018}
NETWORKS = [
    (lambda: Net, {}, "the class Net"),
    (lambda: "resnet18", {}, "a str"),
    (lambda: nn.Conv2d(1, 4, 3), {"config": "2"}, "a bare Conv2d"),
    (lambda: torch.jit.trace(seeded(), X), {}, "scripted"),
    (Lazy, {"config": "2"}, "no values yet"),
    (sharing, {}, "'alias'.*memory"),
    (lambda: seeded().half(), {}, "torch.float16.*float32"),
    (lambda: seeded().to("meta"), {}, "meta"),
    (locked, {}, "cannot be copied.*lock"),
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(100, 2)), {"config": "2"}, "no spatial convolution"),
    (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3)),
        {"config": "2"},
        "cannot take 4 images of 10x10 pixels with 1 chan",
    ),
    (lambda: Odd("two inputs"), {"config": "2"}, "TypeError.*one batch of images as a tensor"),
    (lambda: Odd("dict"), {"config": "2"}, "IndexError.*one batch of images as a tensor"),
    (lambda: Odd("nested"), {"config": "2"}, "AttributeError.*one batch of images as a tensor"),
    (lambda: Odd("saliency"), {"config": "2"}, r"differentiates inside torch\.enable_grad\(\)"),
    (lambda: Odd("loss"), {"config": "2", "epochs": 1}, r"\(\) for 4 images in training mode.*the images$"),
    (lambda: Odd("reentrant"), TARGET, "target_mb: .*use_reentrant=True.*allowed: use_reentrant=False, or bits"),
    (lambda: seeded(Named), {"epochs": 1, "output": "probabilities"}, "output: got 'probabilities'.*logits, features"),
    (lambda: Odd("scalar"), {"epochs": 1, "config": "2"}, r"output: is missing.*\(\) for"),
    (patched, {}, "it does not register"),
    (lambda: nn.Sequential(seeded(), nn.BatchNorm1d(4)), {"epochs": 1, "batch_size": 1, "config": 2}, "one image"),
    (
        lambda: nn.Sequential(seeded(), nn.BatchNorm1d(4)),
        {"images": X[:2], "epochs": 1, "config": 2},
        "got 2 images.*batch normalization.*3 images or more",
    ),
    (lambda: Odd("random"), {"config": "2"}, "Odd is not deterministic"),
    (lambda: Odd("hook"), {"config": "2"}, "compresses nothing.*conv: it has hooks"),
    (lambda: Odd("functional"), {"config": "2"}, "compresses nothing.*conv: the network reads its weight"),
    (lambda: Odd("patched"), {"config": "2"}, "compresses nothing.*conv: its forward was replaced"),
    (lambda: Odd("complex"), {"config": "2"}, "complex64"),
    (frozen, {"epochs": 1}, "requires a gradient"),
    (lambda: Odd("detached"), {"config": "2", "epochs": 1}, "outputs of the network have no gradient.*epochs=0"),
    (lambda: Odd("spectrum"), {"config": "2", "epochs": 1}, "returns a tensor of torch.complex64.*floats"),
    (lambda: Odd("columns first"), {"config": "2"}, r"shape \(8, 4, 4, 8\) for 4 images.*first axis.*transpose"),
    (lambda: Odd("detached"), TARGET, "no gradient.*reaches its images.*bits"),
    (
        lambda: compress(seeded(), X, config="3,2,2").network,
        {"config": None, "bits": None, "target_mb": 0.0018},
        "series",
    ),
    (
        lambda: compress(seeded(), X, config="3,2,2", basis="chebyshev").network,
        {"config": None, "basis": "cosine"},
        "basis: got cosine.*series of chebyshev",
    ),
]


@pytest.mark.parametrize(("build", "changes", "words"), NETWORKS, ids=[words for _, _, words in NETWORKS])
@pytest.mark.filterwarnings("ignore")  # of torch.jit
def test_networks_that_cannot_be_compressed_are_refused(build, changes, words):
    with pytest.raises(OptionsError, match=words) as caught:
        compress(build(), **({"images": X, "config": "3,2,2", "bits": 4} | changes))
    assert re.search("allowed: |choose another model", str(caught.value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [seeded(), Net], ids=["instance", "class"])
def test_the_options_of_a_run_refuse_a_network_and_name_compress(value):
    with pytest.raises(OptionsError, match=r"pipeline\.compress\(network, images") as caught:
        Options(config="3,2,2", model=value)
    assert "networks:Net" in str(caught.value)


def test_weights_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match=r"^compress: network: Odd is damaged: conv\.weight.*not finite"):
        compress(Odd("damaged"), X, config="2", bits=4)


@pytest.fixture
def saved(tmp_path):
    return compress(seeded(), X, config="3,2,2", bits=4).save(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (None, r"tests\.pipeline\.compression\.networks\.Net.*network="),
        (3, "of type int"),
        (lambda: 3, "returned a int"),
        (lambda count: Net(count), "TypeError"),
        (lambda: Net().to("meta"), "Net is on the meta device"),
    ],
)
def test_loading_needs_the_callers_network(saved, network, words):
    with pytest.raises(OptionsError, match=words):
        load(saved, network=network)
    assert load(saved, network=Net, execution="auto")(X).shape == (48, 4)


def test_another_network_or_a_damaged_file_is_refused(saved):
    with pytest.raises(DataError, match=r"head\.weight.*shape|shape.*head"):
        load(saved, network=Net(outputs=5))
    with pytest.raises(DataError, match="only one of"):
        load(saved, network=nn.Sequential(nn.Conv2d(1, 8, 5)))
    content = bytearray(saved.read_bytes())
    content[-20] ^= 1
    saved.write_bytes(content)
    with pytest.raises(DataError, match="checksum"):
        load(saved, network=Net)


def test_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compress(seeded(), X, config="3,2,2").save("~/net.safetensors") == tmp_path / "net.safetensors"
    assert (tmp_path / "net.safetensors").is_file()


def test_a_file_that_cannot_be_written_leaves_the_old_one(saved, monkeypatch):
    result, before = compress(seeded(seed=5), X, config="3,2,2", bits=4), saved.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        result.save(saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("path", [None, 3, "", io.BytesIO(), b"a.safetensors", "s3://bucket/a.safetensors"])
def test_a_result_is_saved_to_a_path_alone(path, tmp_path, monkeypatch):
    """A file got the name of the object, such as `None`, and an address became a folder."""
    monkeypatch.chdir(tmp_path)
    result = compress(seeded(), X, config=[3, 2, 2], bits=4, fit="weights", rounding="nearest")
    with pytest.raises(OptionsError, match=r"^save: got .*; allowed: a (local )?path"):
        result.save(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"config": 2, "bits": 4}, {"target_mb": 0.0018}], ids=str)
def test_a_single_image_is_refused_by_a_network_that_takes_none(options):
    network = seeded()
    network.head = nn.Sequential(network.head, nn.BatchNorm1d(4, track_running_stats=False))
    with pytest.raises(OptionsError, match=r"cannot take 1 image of .*more than 1 value per channel"):
        compress(network, X[:1], **options)
