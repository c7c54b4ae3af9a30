"""Names: keys, prefixes, averages and extra entries, as common tools write them."""

import logging
import re

import pytest
import safetensors.torch
import torch
from torch import nn

from pipeline.errors import DataError
from pipeline.models.weights import load_weights
from tests.support.checkpoints import Net, has_weights, prefixed, trained

OTHER = trained(7).state_dict()
STATE = trained().state_dict()
SGD = torch.optim.SGD(Net().parameters(), 0.1, momentum=0.9).state_dict()


def _averaged(net):
    return torch.optim.swa_utils.AveragedModel(net).state_dict()


def _split(backbone, head):
    return {(head if name.startswith("fc") else backbone) + name: tensor for name, tensor in STATE.items()}


def _without(*names):
    return {name: tensor for name, tensor in STATE.items() if name not in names}


def _with_classes(count):
    return {**STATE, "fc.weight": torch.zeros(count, 6), "fc.bias": torch.zeros(count)}


def _inner(child):
    return {name.replace("layer1.", f"layer1.{child}."): tensor for name, tensor in STATE.items()}


FORMS = {
    "lightning-compiled-parallel": {"state_dict": prefixed("model._orig_mod.module.", STATE), "callbacks": {}},
    "lightning-loss-and-metrics": {
        "state_dict": prefixed("net.", STATE)
        | {"criterion.weight": torch.ones(3), "loss_fn.pos_weight": torch.ones(1), "train_acc.tp": torch.zeros(3)}
    },
    "compiled-parallel": prefixed("_orig_mod.module.", STATE),
    "parallel-compiled": {"model": prefixed("module._orig_mod.", STATE)},
    "fsdp": {"model": prefixed("_fsdp_wrapped_module.", _inner("_fsdp_wrapped_module"))},
    "checkpointed": _inner("_checkpoint_wrapped_module"),
    "parallel-inside": _inner("module"),
    "detectron": {"model": STATE, "optimizer": SGD, "iteration": 90000},
    "detectron-prefix": {"model": prefixed("backbone.", STATE), "optimizer": SGD},
    "mm-backbone-head": {"meta": {"epoch": 1}, "state_dict": _split("backbone.", "head."), "optimizer": SGD},
    "mm-parallel": {"state_dict": prefixed("module.", _split("backbone.", "head."))},
    "two-dicts": {"backbone": _without("fc.weight", "fc.bias"), "head": prefixed("fc.", trained().fc.state_dict())},
    "deepspeed": {"module": STATE, "ds_config": {"zero": 0}, "global_steps": 4},
    "encoder": {"state_dict": prefixed("module.encoder.", STATE)},
    "nested": {"checkpoint": {"best": {"network": {"params": STATE}}}},
    "unknown-key": {"my_weights": STATE, "epoch": 3},
    "flat-with-values": {**STATE, "epoch": 3, "optimizer": SGD},
    "averaged-only": _averaged(trained()),
    "averaged-key-only": {"state_dict_ema": prefixed("module.", STATE), "epoch": 1},
    "raw-and-averaged": {"state_dict": STATE, "state_dict_ema": OTHER},
    "averaged-first": {"model_ema": _averaged(trained(7)), "model": STATE},
    "averaged-within": {
        "state_dict": prefixed("model.", STATE)
        | prefixed("ema_model.module.", OTHER)
        | {"ema_model.n_averaged": torch.tensor(3)}
    },
    "averaged-names-without-dots": prefixed("model.", STATE)
    | {"model_ema.decay": torch.tensor(0.9), "model_ema.conv1weight": torch.zeros(4, 3, 3, 3)},
    "student-and-teacher": {"model": prefixed("student.", STATE) | prefixed("teacher.", OTHER)},
    "query-and-key": {"state_dict": prefixed("module.encoder_q.", STATE) | prefixed("module.encoder_k.", OTHER)},
    "online-and-target": prefixed("online_network.", STATE) | prefixed("target_network.", OTHER),
    "last-and-best": {"state_dict": STATE, "best": OTHER},
    "the-same-twice": {"last": STATE, "final": {name: tensor.clone() for name, tensor in STATE.items()}},
    "gradients": {"grads": OTHER, "values": STATE},
    "other-shapes-first": {"model": _with_classes(9), "tuned": STATE},
    "integer-buffers": {**STATE, "layer1.position_ids": torch.arange(4), "mask": torch.ones(2, dtype=torch.bool)},
    "two-networks": {"generator": STATE, "discriminator": nn.Conv2d(3, 1, 3).state_dict()},
}


@pytest.mark.parametrize("content", FORMS.values(), ids=FORMS)
def test_weights_are_found(tmp_path, content):
    torch.save(content, tmp_path / "c.pt")
    net = trained(3)
    load_weights(net, tmp_path / "c.pt")
    assert has_weights(net, STATE)


class Wrapped(nn.Module):
    """A user's class around a network, as wrappers of libraries are."""

    def __init__(self, net):
        super().__init__()
        self.backbone = net

    def forward(self, images):
        return self.backbone(images)


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        Wrapped,
        lambda net: Wrapped(Wrapped(net)),
        lambda net: nn.DataParallel(Wrapped(net)),
        lambda net: nn.Sequential(nn.ReLU(), net),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod."])
def test_a_network_with_prefixes_of_its_own(tmp_path, wrap, prefix):
    torch.save({"model": prefixed(prefix, STATE)}, tmp_path / "c.pt")
    inner = trained(3)
    load_weights(wrap(inner), tmp_path / "c.pt")
    assert has_weights(inner, STATE)


def test_a_network_of_two_parts_from_one_plain_state_dict(tmp_path):
    net = nn.Module()
    net.features, net.classifier = trained(3), nn.Sequential()
    net.classifier.fc = net.features.fc
    del net.features.fc
    torch.save(STATE, tmp_path / "c.pt")
    load_weights(net, tmp_path / "c.pt")
    assert torch.equal(net.classifier.fc.weight, STATE["fc.weight"])
    assert torch.equal(net.features.conv1.weight, STATE["conv1.weight"])


class Tied(nn.Module):
    """Two layers that share their weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)
        self.second.weight = self.first.weight


def test_tied_weights_that_a_file_holds_once(tmp_path):
    stored = Tied()
    safetensors.torch.save_model(stored, str(tmp_path / "c.safetensors"))
    net = Tied()
    load_weights(net, tmp_path / "c.safetensors")
    assert has_weights(net, stored.state_dict())
    assert net.first.weight is net.second.weight
    torch.save({**stored.state_dict(), "second.weight": torch.zeros(3, 3, 3, 3)}, tmp_path / "c.pt")
    with pytest.raises(DataError, match=r"first\.weight.*second\.weight"):
        load_weights(net, tmp_path / "c.pt")


def test_buffers_of_other_kinds(tmp_path):
    def make(seed):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(2, 2))
        net.register_buffer("filter", torch.randn(3, dtype=torch.complex64))
        net.register_buffer("mask", torch.rand(8) > 0.5)
        return net

    torch.save(make(0).state_dict(), tmp_path / "c.pt")
    net = make(1)
    load_weights(net, tmp_path / "c.pt")
    assert has_weights(net, make(0).state_dict())


def test_the_choice_and_its_alternatives_are_logged(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    torch.save({"net": prefixed("module.", STATE), "ema": _averaged(trained(7)), "best": OTHER}, tmp_path / "c.pt")
    assert load_weights(Net(), tmp_path / "c.pt").key == "net"
    assert re.search(r"c\.pt: loaded net.*(best, ema|ema, best).*--weights-key", caplog.text)


def test_what_is_left_out_is_logged(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    more = {"criterion.weight": torch.ones(3), "normalize.mean": torch.zeros(3), "n_averaged": torch.tensor(1)}
    more |= {"conv.total_ops": torch.zeros(1, dtype=torch.float64), "total_params": torch.ones(1, dtype=torch.float64)}
    torch.save({**prefixed("module.", STATE), **more}, tmp_path / "c.pt")
    load_weights(Net(), tmp_path / "c.pt")
    assert all(name in caplog.text for name in more)
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "normalize.mean" in warning.getMessage()
    assert "criterion" not in warning.getMessage()


SEVERAL = {
    "state_dict": prefixed("student.", STATE) | prefixed("teacher.", OTHER),
    "state_dict_ema": prefixed("module.", OTHER),
    "optimizer": SGD,
}


@pytest.mark.parametrize(
    ("key", "found", "state"),
    [
        ("state_dict_ema", "state_dict_ema", OTHER),
        ("state_dict_ema.module", "state_dict_ema.module", OTHER),
        ("state_dict.teacher", "state_dict.teacher", OTHER),
        ("state_dict", "state_dict.student", STATE),
    ],
)
def test_a_key_selects_the_weights(tmp_path, key, found, state):
    torch.save(SEVERAL, tmp_path / "c.pt")
    net = Net()
    assert load_weights(net, tmp_path / "c.pt", key).key == found
    assert has_weights(net, state)


@pytest.mark.parametrize("key", ["model", "state_dict.net", "optimizer", "optimizer.param_groups", "state_dict."])
def test_a_missing_key_lists_the_keys(tmp_path, key):
    torch.save(SEVERAL, tmp_path / "c.pt")
    with pytest.raises(DataError, match=rf"--weights-key {key}.*state_dict.*state_dict_ema.*state_dict\.student"):
        load_weights(Net(), tmp_path / "c.pt", key)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"state_dict": prefixed("model.", _without("bn1.running_var"))}, r"bn1\.running_var is missing.*--model"),
        ({"model": _without("fc.weight", "fc.bias")}, r"fc\.\w+, fc\.\w+ are missing.*--model"),
        (prefixed("module.", STATE) | {"module.fc2.weight": torch.ones(3, 3)}, r"fc2\.weight is unexpected.*--model"),
        (
            prefixed("backbone.", STATE) | {"neck.weight": torch.ones(3, 3), "loss.weight": torch.ones(3)},
            r"neck\.weight is unexpected.*--weights-key backbone",
        ),
        ({"first": STATE, "second": OTHER}, r"--weights-key: first, second"),
        (prefixed("a.", STATE) | prefixed("b.", OTHER), r"--weights-key: a, b"),
        ({**STATE, "bn1.bias": [0.0] * 4}, r"bn1\.bias \(list of 4 float\) is no tensor"),
        ({**STATE, "bn1.bias": torch.zeros(4).to_sparse()}, r"bn1\.bias \(.*sparse.*\) is no tensor"),
        ({**STATE, "bn1.bias": torch.zeros(4, device="meta")}, r"bn1\.bias \(meta tensor\) is no tensor"),
        (
            {name: tensor.to_sparse() if tensor.dim() > 3 else tensor.sum() for name, tensor in STATE.items()},
            r"conv1\.weight \(sparse tensor\)",
        ),
        (
            {"module": dict.fromkeys(STATE, nn.Conv2d) | {"count": torch.ones(2)}},
            r"conv1\.weight is a class torch\.nn\.modules\.conv\.Conv2d",
        ),
        ({"state_dict": [STATE, OTHER]}, r"--weights-key: state_dict\.0, state_dict\.1"),
        ({"state_dict": [STATE] * 17, "scale": torch.ones(2)}, r"state_dict is a list of 17 dict"),
        ({"policy": {"mlp.weight": torch.ones(2, 2)}}, r"none of.*conv1\.weight.*mlp\.weight.*--weights-key of policy"),
        (
            {"model": _with_classes(9)},
            r"9 classes.*fc\.weight.* 3\b",
        ),
        ({**STATE, "conv1.weight": torch.zeros(4, 1, 3, 3)}, r"conv1\.weight.*\(4, 1, 3, 3\).*\(4, 3, 3, 3\)"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(tmp_path, content, words):
    torch.save(content, tmp_path / "c.pt")
    net = trained(3)
    with pytest.raises(DataError, match=words):
        load_weights(net, tmp_path / "c.pt")
    assert has_weights(net, trained(3).state_dict())
