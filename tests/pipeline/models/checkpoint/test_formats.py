"""Files that checkpoints are stored in: each is read as data, and nothing in it runs."""

import argparse
import datetime
import enum
import os
import pathlib
import pickle
import subprocess
import warnings
from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from pipeline.errors import DataError
from pipeline.models.weights import load_weights
from tests.support.checkpoints import Net, has_weights, save_tar, trained


@pytest.fixture(scope="module")
def state():
    return trained().state_dict()


class Mode(enum.Enum):
    """Stands for an enum of the user's training script."""

    FAST = 1


@dataclass
class Config:
    """Stands for a user's configuration."""

    lr: float
    mode: Mode


class Settings(dict):
    """Stands for EasyDict, omegaconf and other dicts with attributes."""


def _plain_pickle(state, path):
    path.write_bytes(pickle.dumps(dict(state)))


def _arrays(state, path):
    torch.save({name: np.asfortranarray(tensor.numpy()) for name, tensor in state.items()}, path)


def _array_pickle(state, path):
    # In protocol 5 numpy writes the bytes of contiguous arrays beside their types, and others as before.
    arrays = {name: tensor.numpy().astype(">f4") for name, tensor in state.items() if tensor.is_floating_point()}
    counters = {name: tensor.numpy() for name, tensor in state.items() if not tensor.is_floating_point()}
    first, *_ = arrays
    arrays[first] = np.asfortranarray(arrays[first])
    path.write_bytes(pickle.dumps(arrays | counters, protocol=5))


def _npz(state, path):
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    floats = {name: array.astype(">f8") for name, array in arrays.items() if array.dtype.kind == "f"}
    with path.open("wb") as file:
        np.savez_compressed(file, **(arrays | floats), name="net")


def _scripted(net, path):
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(net).save(path)


def _traced(net, path):
    with warnings.catch_warnings(action="ignore"):
        torch.jit.trace(net, torch.zeros(1, 3, 8, 8)).save(path)


WRITERS = {
    "zip": torch.save,
    "before-1.6": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "tar": save_tar,
    "protocol-4": lambda state, path: torch.save(state, path, pickle_protocol=4),
    "plain-pickle": _plain_pickle,
    "arrays": _arrays,
    "array-pickle": _array_pickle,
    "pair": lambda state, path: torch.save((state, 3), path),
    "list": lambda state, path: torch.save({"epoch": 3, "networks": ["net", state]}, path),
    "npz": lambda state, path: _npz(state, path),
    "metadata": lambda state, path: safetensors.torch.save_file(state, path, metadata={"format": "pt"}),
    "network": lambda _, path: torch.save(trained(), path),
    "network-before-1.6": lambda _, path: torch.save(trained(), path, _use_new_zipfile_serialization=False),
    "parallel": lambda _, path: torch.save({"model": nn.DataParallel(trained()), "epoch": 1}, path),
    "scripted": lambda _, path: _scripted(trained(), path),
    "traced": lambda _, path: _traced(trained(), path),
}


@pytest.mark.parametrize("name", ["c.pth", "c.bin", "c.ckpt.tar"])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_the_format_is_found_by_content(tmp_path, state, write, name, recwarn):
    write(state, tmp_path / name)
    recwarn.clear()
    net = Net()
    assert load_weights(net, tmp_path / name).key == ""
    assert has_weights(net, state)
    assert not recwarn.list


@pytest.mark.parametrize("length", range(1, 260, 8))
def test_safetensors_are_found_whatever_their_header_begins_with(tmp_path, state, length):
    safetensors.torch.save_file(state, tmp_path / "c.bin", metadata={"note": "x" * length})
    net = Net()
    load_weights(net, tmp_path / "c.bin")
    assert has_weights(net, state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_other_precisions_are_converted(tmp_path, state, dtype, suffix):
    stored = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    (safetensors.torch.save_file if suffix == ".safetensors" else torch.save)(stored, tmp_path / f"c{suffix}")
    net = Net()
    load_weights(net, tmp_path / f"c{suffix}")
    assert has_weights(net, {name: tensor.to(state[name].dtype) for name, tensor in stored.items()})
    assert net.fc.weight.dtype == torch.float32


def test_views_of_one_storage(tmp_path, state):
    flat = torch.cat([tensor.flatten() for tensor in state.values() if tensor.is_floating_point()])
    stored, start = dict(state), 0
    for name, tensor in state.items():
        if tensor.is_floating_point():
            stored[name] = flat[start : start + tensor.numel()].view(tensor.shape)
            start += tensor.numel()
    stored["fc.weight"] = stored["fc.weight"].T.contiguous().T  # by columns
    for zipped in (True, False):
        torch.save(stored, tmp_path / "c.pt", _use_new_zipfile_serialization=zipped)
        net = Net()
        load_weights(net, tmp_path / "c.pt")
        assert has_weights(net, state)


BESIDE = {
    "namespace": argparse.Namespace(lr=0.1, out=pathlib.Path("runs")),
    "scalars": {"acc": np.float32(91.5), "best": np.mean([1.0, 2.0]), "kind": np.dtype("float16")},
    "arrays": [np.arange(3), np.zeros((2, 2))],
    "time": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "counts": Counter("abca"),
    "logs": defaultdict(list, {"loss": [0.5, 0.4]}),
    "torch": (torch.device("cpu"), torch.Size([1, 2]), torch.float16, torch.Generator().get_state()),
    "sets": {frozenset({1, 2}), complex(1, 2), "a"},
    "enum": Mode.FAST,
    "config": Config(0.1, Mode.FAST),
    "settings": Settings(model=Settings(width=3)),
    "function": os.path.join,
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_objects_beside_the_weights_are_not_built(tmp_path, state, beside, zipped):
    content = {"args": beside, "state_dict": state, "again": OrderedDict(args=beside)}
    if beside is os.path.join:
        content["args"] = content["again"] = argparse.Namespace(join=beside.__name__)
    torch.save(content, tmp_path / "c.pt", _use_new_zipfile_serialization=zipped)
    net = Net()
    load_weights(net, tmp_path / "c.pt")
    assert has_weights(net, state)


def test_classes_of_missing_modules_are_not_imported(tmp_path, state, monkeypatch):
    (tmp_path / "only_there.py").write_text(
        f"open({str(tmp_path / 'canary')!r}, 'w').close()\nclass Callback:\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import only_there

    (tmp_path / "canary").unlink()
    torch.save({"state_dict": state, "callbacks": {"best": only_there.Callback()}}, tmp_path / "c.ckpt")
    monkeypatch.delitem(__import__("sys").modules, "only_there")
    net = Net()
    load_weights(net, tmp_path / "c.ckpt")
    assert has_weights(net, state)
    assert not (tmp_path / "canary").exists()


class Attack:
    """An object that runs a function when it is unpickled."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


ATTACKS = {
    "system": (lambda canary: Attack(os.system, f"touch {canary}"), r"(posix|nt)\.system"),
    "call": (
        lambda canary: Attack(subprocess.check_call, ["touch", str(canary)]),
        r"(subprocess|commands)\.check_call",
    ),
    "exec": (lambda canary: Attack(exec, f"open({str(canary)!r}, 'w')"), "exec"),
    "open": (lambda canary: Attack(open, str(canary), "w"), r"\bopen"),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("attack", "name"), ATTACKS.values(), ids=ATTACKS)
def test_code_in_a_pickle_never_runs(tmp_path, state, attack, name, zipped):
    canary = tmp_path / "canary"
    for content in (attack(canary), {"state_dict": state, "args": attack(canary)}, {**state, "z": [attack(canary)]}):
        torch.save(content, tmp_path / "c.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(DataError, match=rf"c\.pt.*{name}"):
            load_weights(Net(), tmp_path / "c.pt")
        assert not canary.exists()
    torch.load(tmp_path / "c.pt", weights_only=False)  # the attack is real
    assert canary.exists()


def test_a_call_of_an_unknown_function_is_not_made(tmp_path, state):
    torch.save({"state_dict": state, "other": Attack(pathlib.Path.touch, tmp_path / "canary")}, tmp_path / "c.pt")
    net = Net()
    load_weights(net, tmp_path / "c.pt")
    assert has_weights(net, state)
    assert not (tmp_path / "canary").exists()


def test_modules_of_the_user_may_have_names_of_the_library(tmp_path, state):
    for name in ("code.nets", "commands", "pipeline.config"):
        torch.save({"model": state, "args": Mode.FAST}, tmp_path / "c.pt", _use_new_zipfile_serialization=False)
        content = (tmp_path / "c.pt").read_bytes()
        module = f"c{Mode.__module__}\n".encode()
        assert module in content
        (tmp_path / "c.pt").write_bytes(content.replace(module, f"c{name}\n".encode()))
        net = Net()
        load_weights(net, tmp_path / "c.pt")
        assert has_weights(net, state)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (Config(0.1, Mode.FAST), r"test_formats\.Config"),
        ({"epoch": 3, "args": argparse.Namespace()}, r"epoch \(int\).*args \(argparse\.Namespace\)"),
        ({"state_dict": [{}, {}]}, r"state_dict \(list of 2 dict\)"),
        ({"model": "resnet18"}, r"model \(str\)"),
        (nn.Linear, r"torch\.nn\.modules\.linear\.Linear"),
        (3, r"\bint\b"),
        (None, "NoneType"),
    ],
)
def test_content_without_weights_is_named_by_type(tmp_path, content, words):
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(DataError, match=rf"c\.pt.*{words}.*state dict"):
        load_weights(Net(), tmp_path / "c.pt")


@pytest.mark.parametrize("count", [1, 60])
def test_nested_lists_without_end_are_refused_in_time(tmp_path, count):
    content: dict[str, object] = {}
    content["self"] = content
    for _ in range(count):
        content = {"a": content, "b": content}
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(DataError, match=r"no weights|more than"):
        load_weights(Net(), tmp_path / "c.pt")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("write", [WRITERS[name] for name in ("before-1.6", "tar", "plain-pickle", "scripted")])
def test_a_file_that_is_cut_is_refused(tmp_path, state, write, share):
    write(state, tmp_path / "c.pt")
    whole = (tmp_path / "c.pt").read_bytes().rstrip(b"\0")
    (tmp_path / "c.pt").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=r"c\.pt.*(damaged|no weights)"):
        load_weights(Net(), tmp_path / "c.pt")
