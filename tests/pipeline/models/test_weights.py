"""Weights: files that load, files that are refused, and that a refusal changes nothing."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from pipeline.data import load_dataset
from pipeline.errors import DataError, OptionsError
from pipeline.models import build_model
from pipeline.models.torchvision_models import default_weights_name
from pipeline.models.weights import load_torchvision_weights, load_weights

UNREADABLE = Path("/proc/self/mem")
"""A file that can be opened, and whose first byte cannot be read."""


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(1)
    return build_model("resnet20", 10).state_dict()


def _same(model, state):
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "wrap",
    [
        dict,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s},
        lambda s: {"state_dict": {f"module.{name}": value for name, value in s.items()}},
    ],
)
def test_forms_that_load(tmp_path, state, wrap):
    torch.save(wrap(state), tmp_path / "c.pt")
    model = build_model("resnet20", 10)
    load_weights(model, tmp_path / "c.pt")
    assert _same(model, state)


def test_safetensors(tmp_path, state):
    safetensors.torch.save_file(state, tmp_path / "c.safetensors")
    model = build_model("resnet20", 10)
    load_weights(model, tmp_path / "c.safetensors")
    assert _same(model, state)


def test_half_precision_is_converted(tmp_path, state):
    torch.save({n: v.half() if v.is_floating_point() else v for n, v in state.items()}, tmp_path / "c.pt")
    model = build_model("resnet20", 10)
    load_weights(model, tmp_path / "c.pt")
    assert model.conv1.weight.dtype == torch.float32
    assert torch.equal(model.conv1.weight, state["conv1.weight"].half().float())


@pytest.mark.parametrize(("dtype", "count"), [(torch.float16, 65504), (torch.bfloat16, 78336), (torch.float64, 78200)])
def test_integers_that_were_converted_with_all_values_are_integers_again(tmp_path, state, dtype, count):
    """The dtype of `num_batches_tracked` was refused. In float16, 78,200 batches are inf."""
    changed = {n: torch.tensor(78200) if n.endswith("num_batches_tracked") else v for n, v in state.items()}
    torch.save({n: v.to(dtype) for n, v in changed.items()}, tmp_path / "c.pt")
    model = build_model("resnet20", 10)
    load_weights(model, tmp_path / "c.pt")
    assert model.bn1.num_batches_tracked.dtype == torch.int64
    assert model.bn1.num_batches_tracked == count
    assert torch.equal(model.conv1.weight, state["conv1.weight"].to(dtype).float())


@pytest.mark.parametrize(("dtype", "first"), [(torch.float16, 2048), (torch.bfloat16, 256), (torch.float32, 2**24)])
def test_integers_that_a_dtype_may_have_rounded_are_refused(tmp_path, dtype, first):
    def model():
        network = torch.nn.Sequential(torch.nn.Linear(2, 2))
        network.register_buffer("index", torch.zeros(2, dtype=torch.int64))
        return network

    exact, rounded = (torch.tensor([-1, last]).to(dtype) for last in (first - 1, first))
    torch.save(model().state_dict() | {"index": exact}, tmp_path / "c.pt")
    network = model()
    load_weights(network, tmp_path / "c.pt")
    assert network.index.tolist() == [-1, first - 1]
    torch.save(model().state_dict() | {"index": rounded}, tmp_path / "c.pt")
    with pytest.raises(DataError, match=f"index has the dtype {dtype}.*integer"):
        load_weights(network, tmp_path / "c.pt")


def test_counters_and_absent_auxiliary_heads_do_not_matter(tmp_path):
    model = build_model("googlenet", 10)
    old = {n: v for n, v in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    torch.save({**old, "aux1.fc1.weight": torch.zeros(2)}, tmp_path / "c.pt")
    loaded = build_model("googlenet", 10)
    counters = {n: v.clone() for n, v in loaded.state_dict().items() if n not in old}
    assert not torch.equal(loaded.state_dict()["fc.weight"], old["fc.weight"])
    load_weights(loaded, tmp_path / "c.pt")
    assert counters
    assert _same(loaded, {**old, **counters})


def _without(state, name):
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: _without(s, "bn1.bias"), "bn1.bias.* missing"),
        (lambda s: {**s, "extra": torch.zeros(1)}, "extra.* unexpected"),
        (
            lambda s: {**s, "conv1.weight": torch.zeros(16, 3, 5, 5)},
            r"conv1.weight.*\(16, 3, 5, 5\).*\(16, 3, 3, 3\)",
        ),
        (
            lambda s: {**s, "linear.weight": torch.zeros(100, 64), "linear.bias": torch.zeros(100)},
            "100 classes.*linear.weight.* 10\\b",
        ),
        (
            lambda s: {**s, "bn1.bias": torch.full((16,), torch.nan)},
            "bn1.bias.*not finite",
        ),
        (lambda s: {**s, "bn1.bias": torch.full((16,), 1e300, dtype=torch.float64)}, "bn1.bias.*not finite.*float32"),
        (
            lambda s: {**s, "bn1.bias": torch.zeros(16, dtype=torch.int64)},
            "bn1.bias.*torch.int64.*floating",
        ),
        (lambda s: {**s, "bn1.num_batches_tracked": torch.tensor(1.5)}, "num_batches_tracked.*torch.float32.*integer"),
        (lambda _: {}, "empty.*state dict"),
        (lambda _: [1, 2], "list.*state dict"),
    ],
)
def test_refusals_change_nothing(tmp_path, state, change, words):
    torch.save(change(state), tmp_path / "c.pt")
    model = build_model("resnet20", 10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(DataError, match=words):
        load_weights(model, tmp_path / "c.pt")
    assert _same(model, before)


def test_another_depth_is_refused(tmp_path, state):
    torch.save(state, tmp_path / "c.pt")
    with pytest.raises(DataError, match=r"layer1\.3\.conv1\.weight.*\d+ .*missing"):
        load_weights(build_model("resnet32", 10), tmp_path / "c.pt")


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"none\.pt.*\.safetensors.*\.th\b"):
        load_weights(nn.Linear(1, 1), tmp_path / "none.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_damaged_files(tmp_path, state, suffix, content):
    path = tmp_path / f"c{suffix}"
    if content is None:
        torch.save(state, path)
        content = path.read_bytes()[:5000]
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"c\.(pt|safetensors).*damaged"):
        load_weights(build_model("resnet20", 10), path)


@pytest.mark.skipif(not UNREADABLE.exists(), reason="the system has no such file")
def test_a_file_that_the_system_does_not_read_is_not_called_damaged(tmp_path):
    (tmp_path / "c.pt").symlink_to(UNREADABLE)
    with pytest.raises(DataError, match=r"c\.pt cannot be read: Input/output error; allowed"):
        load_weights(build_model("resnet20", 10), tmp_path / "c.pt")


def test_default_weights():
    assert default_weights_name("resnet18") == "IMAGENET1K_V1"
    assert default_weights_name("resnet20") is None


def test_torchvision_weights_are_checked_before_the_download(monkeypatch):
    with pytest.raises(OptionsError, match=r"--weights: got 'V9' for resnet18; allowed: .*IMAGENET1K_V1"):
        load_torchvision_weights("resnet18", 1000, "V9")
    with pytest.raises(OptionsError, match=r"--weights: .*IMAGENET1K_V1.*resnet20; allowed: auto, builtin, or"):
        load_torchvision_weights("resnet20", 10, "IMAGENET1K_V1")
    with pytest.raises(DataError, match=r"1000 classes.* 10\b"):
        load_torchvision_weights("resnet18", 10, "IMAGENET1K_V1")


def _serve(monkeypatch, answer):
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", answer)


def test_torchvision_weights_load(monkeypatch):
    published, generator = build_model("resnet18", 1000).state_dict(), torch.get_rng_state()
    _serve(monkeypatch, lambda *_, **__: published)
    assert _same(load_torchvision_weights("resnet18", 1000, "IMAGENET1K_V1"), published)
    assert torch.equal(torch.get_rng_state(), generator), "a run restores the random generators of its caller"


def test_failed_download_is_one_sentence(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no\nroute")

    _serve(monkeypatch, refuse)
    with pytest.raises(DataError, match=r"https.*no route"):
        load_torchvision_weights("resnet18", 1000, "IMAGENET1K_V1")


@pytest.mark.real
def test_poster_baselines_load(data_folder):
    load_weights(build_model("resnet32", 10), data_folder / "resnet32-d509ac18.th")
    model = build_model("resnet20", 10).eval()
    load_weights(model, data_folder / "resnet20-12fca82f.th")
    data = load_dataset(str(data_folder / "cifar10.npz"), limit_train=1)
    with torch.no_grad():
        batches = data.test.head(2000).batches(500, device=torch.device("cpu"))
        right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in batches)
    assert right == 1820  # tests/test_poster.py has all images


def test_a_negative_running_variance_is_refused(tmp_path, state):
    torch.save({**state, "bn1.running_var": state["bn1.running_var"] - 1.5}, tmp_path / "c.pt")
    model = build_model("resnet20", 10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(DataError, match=r"bn1\.running_var.*-0\.5.*0 or more"):
        load_weights(model, tmp_path / "c.pt")
    assert _same(model, before)


def test_a_network_whose_state_dict_holds_copies_gets_the_values(tmp_path):
    class Halved(nn.Sequential):
        def state_dict(self, *args, **kwargs):
            return {name: value.half() for name, value in super().state_dict(*args, **kwargs).items()}

    trained, model = (Halved(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)) for _ in range(2))
    trained[1].running_mean += 1
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    for (name, value), (_, wanted) in zip(
        nn.Module.state_dict(model).items(), trained.state_dict().items(), strict=True
    ):
        assert torch.equal(value.half(), wanted), name


def test_a_mask_of_the_network_may_be_infinite_and_nothing_else(tmp_path):
    def masked() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 3))
        model.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
        return model

    trained, model = masked(), masked()
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    assert _same(model, trained.state_dict())
    torch.save({**trained.state_dict(), "mask": torch.full((3, 3), -torch.inf)}, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"mask.*not finite"):
        load_weights(model, tmp_path / "w.pt")
