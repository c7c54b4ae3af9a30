"""Checkpoints without weights of a float network: the error says what they hold and what to give instead."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from pipeline.errors import DataError
from pipeline.models.weights import load_weights
from tests.support.checkpoints import Net, has_weights, trained

STATE = trained().state_dict()
INTEGERS = (10 * STATE["fc.weight"]).to(torch.int8)
OTHERS = {name: tensor for name, tensor in STATE.items() if name != "fc.weight"}


def saved(content, folder):
    torch.save(content, folder / "c.pt")
    return folder / "c.pt"


def refused(content, folder) -> str:
    with pytest.raises(DataError) as caught:
        load_weights(Net(), saved(content, folder))
    return str(caught.value)


def optimizer(kind, **settings):
    net = trained()
    made = kind(net.parameters(), **settings)
    net(torch.ones(2, 3, 8, 8)).sum().backward()
    made.step()
    return made


@pytest.mark.parametrize(
    "made",
    [
        optimizer(torch.optim.SGD, lr=0.1),
        optimizer(torch.optim.SGD, lr=0.1, momentum=0.9),
        optimizer(torch.optim.Adam),
    ],
    ids=["no tensors", "momentum", "adam"],
)
def test_the_state_of_an_optimizer_alone_is_named(tmp_path, made):
    state = made.state_dict()
    for content in (state, {"optimizer": state, "epoch": 3}, {"optim_d": state, "optim_g": state}, made):
        words = refused(content, tmp_path)
        assert all(term in words for term in ("state of an optimizer", "allowed: ", "state_dict()"))
        assert "\n" not in words
    load_weights(Net(), saved({"model": STATE, "optimizer": state}, tmp_path))
    assert "an optimizer" not in refused({"model": OTHERS, "optimizer": state}, tmp_path)


def quantized(tensor):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates such tensors
        return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"fc.weight": quantized(STATE["fc.weight"])}, "quantized tensor"),
        ({"fc.scale": torch.ones(()), "fc.zero_point": torch.zeros((), dtype=torch.int64)}, "torch.ao"),
        ({"fc._packed_params.dtype": torch.qint8, "fc._packed_params._packed_params": (INTEGERS, None)}, "torch.ao"),
        ({"fc.weight": INTEGERS, "fc.SCB": torch.ones(3)}, "bitsandbytes"),
        ({"fc.weight": INTEGERS, "fc.weight.absmax": torch.ones(3), "fc.weight.quant_map": torch.ones(16)}, "bitsandb"),
        ({"fc.weight._data": INTEGERS, "fc.weight._scale": torch.ones(3, 1)}, "optimum-quanto"),
        ({"fc.qweight": INTEGERS.int(), "fc.qzeros": INTEGERS.int()}, "GPTQ"),
    ],
    ids=["tensor", "scale", "packed", "int8", "4 bits", "quanto", "gptq"],
)
def test_quantized_weights_are_named(tmp_path, layer, words):
    message = refused({**OTHERS, **layer}, tmp_path)
    assert all(term in message for term in ("quantized weights (fc.", words, "allowed: the weights in float"))


def fake_quantizer(name):
    return {
        f"{name}.fake_quant_enabled": torch.ones(1, dtype=torch.uint8),
        f"{name}.scale": torch.ones(1),
        f"{name}.zero_point": torch.zeros(1, dtype=torch.int32),
        f"{name}.activation_post_process.eps": torch.ones(1),
        f"{name}.activation_post_process.min_val": -torch.ones(()),
    }


TRAINED = {**STATE, **fake_quantizer("fc.weight_fake_quant"), **fake_quantizer("activation_post_process_0")}


def test_the_float_weights_of_quantization_aware_training_are_used_with_a_warning(tmp_path, caplog):
    network = Net()
    load_weights(network, saved(TRAINED, tmp_path))
    assert has_weights(network, STATE)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "float weights are used, without the fake quantization" in warning


def test_what_does_not_fit_beside_fake_quantizers_is_named(tmp_path):
    message = refused({**TRAINED, "fc.weight": STATE["fc.weight"][:, :2]}, tmp_path)
    assert "fc.weight" in message
    assert "quantized" not in message


def test_layers_that_were_fused_for_quantization_aware_training_are_named(tmp_path):
    fused = {name.replace("bn1.", "conv1.bn."): tensor for name, tensor in TRAINED.items()}
    message = refused(fused | fake_quantizer("conv1.weight_fake_quant"), tmp_path)
    assert "fused with their batch normalization" in message
    assert "conv1.bn.running_mean" in message
    assert "allowed: the float weights" in message


class Sharded(SimpleNamespace):
    """Stands for a tensor that torch has distributed to processes, and is stored as one."""

    def __reduce__(self):
        parts = (DTensor, torch.float32, (3, 6), (6, 1), 0, torch.strided, torch.device("cpu"), False)
        return torch._tensor._rebuild_from_type_v2, (torch._utils._rebuild_wrapper_subclass, DTensor, parts, {})


def test_tensors_of_one_process_are_named(tmp_path):
    message = refused({**OTHERS, "fc.weight": Sharded()}, tmp_path)
    assert all(term in message for term in ("fc.weight is a DTensor", "allowed: whole tensors", "full_state_dict"))


@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: nn.ModuleDict({"net": net})], ids=["alone", "inside"])
def test_a_pickled_network_is_found_behind_its_compilation(tmp_path, wrap):
    net = Net()
    load_weights(net, saved(wrap(torch.compile(trained())), tmp_path))
    assert has_weights(net, STATE)
