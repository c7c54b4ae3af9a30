"""Assign an order to every layer that a config compresses, and a reason to every layer that is kept."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Literal, cast

from torch import nn

from basis.computed import ComputedConv2d
from basis.least_squares import Size2d
from basis.regular import irregularity
from basis.swap import compressible_convolutions
from pipeline.errors import OptionsError
from pipeline.options.orders import Config
from quant.other_weights import other_weights, weights_by_kind
from reports.text import quantity


@dataclass(frozen=True)
class LayerPlan:
    """Decision for one layer.

    Attributes:
        name: As in ``named_modules`` of the network.
        kernel: Taps (kh, kw), or None for a linear layer.
        order: Terms kept (nh, nw), or None for a kept layer and for a parametric family.
        status: ``compressed`` (fewer terms than taps, or parameters), ``full`` (as many terms: an exact change of
            basis) or ``kept``.
        reason: Explanation for the report.
        float_bytes: Bytes of a weight that every file holds in floating point; 0 for a quantized one.
    """

    name: str
    kernel: Size2d | None
    order: Size2d | None
    status: Literal["compressed", "full", "kept"]
    reason: str
    float_bytes: int = 0


def plan_layers(model: nn.Module, config: Config, model_name: str | None = None) -> list[LayerPlan]:
    """Plan every layer of a network that holds a weight, in network order; a shared layer appears once.

    Args:
        model: The network.
        config: Orders per stage or per run of blocks, ``dense``, ``auto`` for the full order of every kernel, or
            ``all`` for parametric families.
        model_name: Name of the network in error messages; its class by default.

    Returns:
        One entry per ``nn.Conv2d`` and ``nn.Linear``, and then one per other weight, such as that of a transposed
        convolution.

    Raises:
        OptionsError: The number of orders or blocks does not fit the network, an order exceeds its kernel, or the
            network has no spatial convolution and the config is neither ``dense`` nor ``auto``.
    """
    orders = _orders(model, config, model_name or type(model).__name__)
    for name in orders.keys() - compressible_convolutions(model).keys():
        del orders[name]
    return [
        orders[name] if name in orders else LayerPlan(name, _kernel(layer), None, "kept", _why_kept(layer, config))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ] + list(_other_plans(model))


def _other_plans(model: nn.Module) -> Iterator[LayerPlan]:
    """Plan the weights outside convolutions and linear layers: rounded to nearest if they are large, or kept."""
    rounded = other_weights(model)
    for name, weight in (rounded | weights_by_kind(model, of_layers=True)).items():
        kind = type(model.get_submodule(name.rpartition(".")[0])).__name__
        if name in rounded:
            yield LayerPlan(name, None, None, "kept", f"{kind}, {weight.numel():,} values rounded to nearest")
        else:
            size = weight.numel() * weight.element_size()
            yield LayerPlan(name, None, None, "kept", f"{kind}, {size:,} bytes in floating point", size)


def orders_of(plan: Sequence[LayerPlan]) -> dict[str, Size2d]:
    """Return the orders of a plan: layer name -> (nh, nw), for the compressed and the full layers."""
    return {layer.name: layer.order for layer in plan if layer.order is not None}


def shape_text(sizes: Sequence[int] | None) -> str:
    """Format sizes for a table or a message.

    Args:
        sizes: For example a kernel (kh, kw), an order (nh, nw) or a tensor's shape.

    Returns:
        The sizes joined by ``x``, such as ``7x7``; ``-`` if there are none.
    """
    return "x".join(map(str, sizes)) if sizes else "-"


def spatial_convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Return the convolutions with a kernel larger than 1x1 by name, in definition order; a shared one appears once."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and not isinstance(module, ComputedConv2d) and max(module.kernel_size) > 1
    }


def stages_of(model: nn.Module) -> dict[str, dict[str, nn.Conv2d]]:
    """Group the spatial convolutions by stage: the top-level child that contains them, in definition order.

    Convolutions that cannot be replaced count, too.

    Returns:
        Stage name -> layer name -> convolution.
    """
    stages: dict[str, dict[str, nn.Conv2d]] = {}
    for name, conv in spatial_convolutions(model).items():
        stage = name.split(".")[0] or "the convolution itself"
        stages.setdefault(stage, {})[name] = conv
    return stages


def _orders(model: nn.Module, config: Config, model_name: str) -> dict[str, LayerPlan]:
    """Plan every spatial convolution, also those that cannot be replaced: the config counts them.

    A target (``auto``) rounds the other layers of a network without a convolution that can be replaced.
    """
    convs = spatial_convolutions(model)
    compressible = compressible_convolutions(model)
    if config.kind == "dense" or (config.kind == "auto" and not compressible):
        return {}
    if not compressible:
        name = next(iter(convs), None)
        reason = f" that a series can replace ({name}: {irregularity(convs[name])})" if name is not None else ""
        dense = "'dense' with another basis" if config.kind == "all" else "'dense'"
        raise OptionsError(
            f"config {config.text!r} compresses nothing, because {model_name} has no spatial convolution{reason}; "
            f"allowed: {dense}, or a network with convolutions larger than 1x1"
        )
    if config.kind == "auto":
        return {
            name: LayerPlan(name, _size(conv), _size(conv), "full", "no largest order") for name, conv in convs.items()
        }
    if config.kind == "all":
        return {
            name: LayerPlan(name, _size(conv), None, "compressed", "kernels of a parametric family")
            for name, conv in convs.items()
        }
    planned = _by_stage(model, config, model_name) if config.kind == "stages" else _by_block(convs, config, model_name)
    return {layer.name: layer for layer in planned}


def _by_stage(model: nn.Module, config: Config, model_name: str) -> Iterator[LayerPlan]:
    stages = stages_of(model)
    kernels = [max((_size(conv) for conv in convs.values()), key=max) for convs in stages.values()]
    if len(config.orders) != len(stages):
        given = [*config.orders, *repeat(config.orders[-1], len(stages))]
        example = ",".join(str(min(order, max(kernel))) for order, kernel in zip(given, kernels, strict=False))
        raise OptionsError(
            f"config {config.text!r} gives {quantity(len(config.orders), 'order')}, but {model_name} has "
            f"{quantity(len(stages), 'stage')}: {', '.join(stages)}; allowed: one order for each, such as {example!r}"
        )
    for order, largest, (stage, convs) in zip(config.orders, kernels, stages.items(), strict=True):
        if order > max(largest):
            raise OptionsError(
                f"config {config.text!r} gives order {order} to stage {stage}, whose largest kernel is "
                f"{shape_text(largest)}; allowed: 1 to {max(largest)}"
            )
        yield from (_planned(name, _size(conv), order, f"stage {stage}") for name, conv in convs.items())


def _by_block(convs: Mapping[str, nn.Conv2d], config: Config, model_name: str) -> Iterator[LayerPlan]:
    depthwise = {name: conv for name, conv in convs.items() if conv.groups == conv.in_channels > 1}
    if sum(config.repeats) != len(depthwise):
        raise OptionsError(
            f"config {config.text!r} covers {quantity(sum(config.repeats), 'block')}, but {model_name} has "
            f"{quantity(len(depthwise), 'depthwise spatial convolution')}"
            + ("" if depthwise else "; allowed here: one order per stage, such as '6,3,3,2,2'")
        )
    orders = (order for order, count in zip(config.orders, config.repeats, strict=True) for _ in range(count))
    for block, (order, (name, conv)) in enumerate(zip(orders, depthwise.items(), strict=True), start=1):
        kernel = _size(conv)
        if order > max(kernel):
            raise OptionsError(
                f"config {config.text!r} gives order {order} to block {block} ({name}), whose kernel is "
                f"{shape_text(kernel)}; allowed: 1 to {max(kernel)}"
            )
        yield _planned(name, kernel, order, f"block {block}")


def _planned(name: str, kernel: Size2d, order: int, where: str) -> LayerPlan:
    clipped = (min(order, kernel[0]), min(order, kernel[1]))
    reason = f"order {order} of {where}" + (", clipped to its kernel" if order > min(kernel) else "")
    if clipped == kernel:
        return LayerPlan(name, kernel, clipped, "full", f"{reason}: an exact change of basis")
    return LayerPlan(name, kernel, clipped, "compressed", reason)


def _why_kept(layer: nn.Conv2d | nn.Linear, config: Config) -> str:
    if config.kind == "dense":
        return "uncompressed row"
    if isinstance(layer, ComputedConv2d):
        return "already compressed"
    if reason := irregularity(layer):
        return reason
    if isinstance(layer, nn.Linear):
        return "linear layer, no spatial kernel"
    if max(_size(layer)) == 1:
        return "1x1 kernel, nothing to leave out"
    return "not depthwise, and the config counts depthwise blocks"


def _kernel(layer: nn.Conv2d | nn.Linear) -> Size2d | None:
    return _size(layer) if isinstance(layer, nn.Conv2d) else None


def _size(conv: nn.Conv2d) -> Size2d:
    return cast(Size2d, tuple(conv.kernel_size))
