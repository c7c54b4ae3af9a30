"""Select the form of a loaded network's series convolutions: dense filters, separable, or the faster of both."""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from basis.devices import device_of
from basis.separable import SeparableConv2d
from basis.swap import replace_modules
from pipeline.artifact.record import NetworkRecord
from pipeline.errors import OptionsError, described

EXECUTIONS: Final = ("dense", "separable", "auto")
ROUNDS: Final = 7
"""Number of timings of each form; their median is used."""
GAIN: Final = 0.95
"""Largest ratio of separable to dense time for which ``auto`` selects the separable form: less gain may be noise."""

Compute = Callable[[Tensor], Tensor]


def check_execution(execution: str) -> None:
    """Check the name of an execution.

    Raises:
        OptionsError: It is not in ``EXECUTIONS``.
    """
    if execution not in EXECUTIONS:
        raise OptionsError(f"load: execution {execution!r} is unknown; allowed: {', '.join(EXECUTIONS)}")


def measure_ratio(form: Compute, dense: Compute, x: Tensor, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the time of ``form(x)`` divided by the time of ``dense(x)``, as the median of ``ROUNDS`` ratios.

    The two calls alternate, so that other load of the machine affects both alike. The first call of each is not timed.

    Args:
        form: The separable form.
        dense: The dense form.
        x: Input of both, (N, C, H, W).
        clock: Returns a time in seconds.
    """
    calls = (partial(form, x), partial(dense, x))
    for call in calls:
        _seconds(call, x.device, clock)
    return statistics.median(
        _seconds(calls[0], x.device, clock) / _seconds(calls[1], x.device, clock) for _ in range(ROUNDS)
    )


def _seconds(call: Callable[[], Tensor], device: torch.device, clock: Callable[[], float]) -> float:
    start = clock()
    call()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return clock() - start


def with_execution(
    network: nn.Module,
    record: NetworkRecord,
    execution: str,
    sample: Tensor,
    *,
    measure_ratio: Callable[[Compute, Compute, Tensor], float] = measure_ratio,
) -> nn.Module:
    """Replace dense convolutions by their separable form, in place.

    Args:
        network: The dense network that ``build_network`` made of the record.
        record: The record, with the coefficients of the layers.
        execution: ``dense`` replaces nothing. ``separable`` replaces every convolution of a lower order than its
            kernel. ``auto`` replaces only those that are faster in this form on the sample.
        sample: Images, (N, C, H, W), on the network's device. Batch size and memory format affect the choice.
        measure_ratio: Returns the time of the separable form divided by that of the dense form, on a layer's input.

    Returns:
        The network. Its outputs equal those of the dense network up to rounding.

    Raises:
        OptionsError: The execution is unknown, or a convolution has no separable form. Or, for ``auto``, the network
            cannot take the sample, or it has no images, or values that are not finite.
    """
    check_execution(execution)
    if execution == "dense":
        return network
    forms = _separable_forms(network, record)
    if execution == "auto":
        forms = _faster(network, forms, sample, measure_ratio)
    return replace_modules(network, cast(Mapping[nn.Module, nn.Module], forms))


def blank_sample(network: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Return images of zeros on the device of a network, of its dtype; ``shape`` is (N, C, H, W)."""
    dtypes = (parameter.dtype for parameter in network.parameters() if parameter.is_floating_point())
    return torch.zeros(shape, dtype=next(dtypes, torch.float32), device=device_of(network))


def _separable_forms(network: nn.Module, record: NetworkRecord) -> dict[nn.Conv2d, SeparableConv2d]:
    """Return convolution -> separable form, for every convolution with fewer coefficients than taps.

    Raises:
        OptionsError: The network has another module in place of a convolution, such as a scripted one.
    """
    forms, modules = {}, dict(network.named_modules(remove_duplicate=False))
    for layer in record.layers:
        if layer.basis is None or layer.order is None or layer.kernel is None:
            continue
        if prod(layer.order) < prod(layer.kernel):
            conv = modules.get(layer.name)
            if not isinstance(conv, nn.Conv2d):
                raise OptionsError(
                    f"load: {layer.name} of network {type(network).__name__} is a {type(conv).__name__}, which has no "
                    "separable form; allowed: an nn.Conv2d, as before torch.jit, or execution='dense'"
                )
            forms[conv] = SeparableConv2d(conv, layer.values.dequantize(), layer.basis)
    return forms


@torch.no_grad()
def _faster(
    network: nn.Module,
    forms: Mapping[nn.Conv2d, SeparableConv2d],
    sample: Tensor,
    measure_ratio: Callable[[Compute, Compute, Tensor], float],
) -> dict[nn.Conv2d, SeparableConv2d]:
    """Return the forms that are faster on their layer's input; a layer that the sample does not reach stays dense."""
    chosen: dict[nn.Conv2d, SeparableConv2d] = {}

    def compare(conv: nn.Module, inputs: tuple[Any, ...]) -> None:
        form = forms[cast(nn.Conv2d, conv)]
        if conv not in chosen and measure_ratio(form, conv.forward, inputs[0]) <= GAIN:
            chosen[cast(nn.Conv2d, conv)] = form

    hooks = [conv.register_forward_pre_hook(compare) for conv in forms]
    try:
        network(sample)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # code of users raises anything
        got = f"{sample.dtype} {tuple(sample.shape)}" if isinstance(sample, Tensor) else f"a {type(sample).__name__}"
        reason = described(error)
        raise OptionsError(
            f"load: the network {type(network).__name__} cannot take the sample, {got} ({reason}); allowed: a sample "
            "of images as the network takes them, (N, C, H, W), of its dtype, on its device"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    _check_values(sample)
    return chosen


def _check_values(sample: Tensor) -> None:
    """Check the values of a sample that the network has taken.

    Raises:
        OptionsError: It has no images, or values that are not finite.
    """
    if not isinstance(sample, Tensor) or (sample.numel() and bool(sample.isfinite().all())):
        return
    fault = "holds NaN or infinite values" if sample.numel() else "has no images"
    raise OptionsError(
        f"load: the sample, {sample.dtype} {tuple(sample.shape)}, {fault}; allowed: at least one image of finite "
        "values, (N, C, H, W)"
    )
