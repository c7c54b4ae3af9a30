"""How a loaded network computes its series convolutions: with dense filters, in the separable form, or the faster."""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from basis.separable import SeparableConv2d
from basis.swap import replace_modules
from pipeline.artifact.record import NetworkRecord
from pipeline.errors import OptionsError

EXECUTIONS: Final = ("dense", "separable", "auto")
ROUNDS = 7
GAIN = 0.95
"""The separable form must take at most this share of the dense one's time: below it, the difference may be noise."""


def check_execution(execution: str) -> None:
    """Refuse what is no way of execution.

    Raises:
        OptionsError: It is none of ``EXECUTIONS``.
    """
    if execution not in EXECUTIONS:
        raise OptionsError(f"load: execution {execution!r} is unknown; allowed: {', '.join(EXECUTIONS)}")


def with_execution(network: nn.Module, record: NetworkRecord, execution: str, sample: Tensor) -> nn.Module:
    """Replace dense convolutions by their separable form, in place, where that is wanted.

    Args:
        network: The dense network that ``build_network`` made of the record.
        record: The layers' coefficients.
        execution: ``dense`` changes nothing, ``separable`` replaces every convolution of a lower order than its
            kernel, ``auto`` those of them that are faster so on the sample.
        sample: Images, (N, 3, H, W), on the network's device; the batch and the layout matter.

    Returns:
        The network; its outputs are the dense one's up to rounding.

    Raises:
        OptionsError: The execution is unknown.
    """
    check_execution(execution)
    if execution == "dense":
        return network
    forms = _separable_forms(network, record)
    if execution == "auto":
        forms = _faster(network, forms, sample)
    return replace_modules(network, cast(Mapping[nn.Module, nn.Module], forms))


def _separable_forms(network: nn.Module, record: NetworkRecord) -> dict[nn.Conv2d, SeparableConv2d]:
    """Every convolution that has fewer coefficients than taps -> its separable form."""
    forms = {}
    for layer in record.layers:
        if (
            layer.basis is None
            or layer.order is None
            or layer.kernel is None
            or prod(layer.order) >= prod(layer.kernel)
        ):
            continue
        conv = cast(nn.Conv2d, network.get_submodule(layer.name))
        forms[conv] = SeparableConv2d(conv, layer.values.dequantize(), layer.basis)
    return forms


@torch.no_grad()
def _faster(
    network: nn.Module, forms: Mapping[nn.Conv2d, SeparableConv2d], sample: Tensor
) -> dict[nn.Conv2d, SeparableConv2d]:
    """The forms that are faster on what reaches their layers; a layer that the sample does not reach stays dense."""
    chosen: dict[nn.Conv2d, SeparableConv2d] = {}

    def compare(conv: nn.Module, inputs: tuple[Any, ...]) -> None:
        form = forms[cast(nn.Conv2d, conv)]
        if conv not in chosen and _ratio(form, conv.forward, inputs[0]) <= GAIN:
            chosen[cast(nn.Conv2d, conv)] = form

    hooks = [conv.register_forward_pre_hook(compare) for conv in forms]
    try:
        network(sample)
    finally:
        for hook in hooks:
            hook.remove()
    return chosen


def _ratio(form: Callable[[Tensor], Tensor], dense: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Time of one against time of the other, in turns, so that both meet the same other load of the machine."""
    calls = (partial(form, x), partial(dense, x))
    for call in calls:
        _seconds(call, x.device)  # warms up
    return statistics.median(_seconds(calls[0], x.device) / _seconds(calls[1], x.device) for _ in range(ROUNDS))


def _seconds(call: Callable[[], Tensor], device: torch.device) -> float:
    start = time.perf_counter()
    call()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - start
