"""What an artifact holds of a network, and the ordinary network built from it."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from basis.conv import SeriesConv2d
from basis.least_squares import Size2d, reconstruct
from pipeline.artifact.batchnorm import NormalizationRecord, record_normalizations
from pipeline.errors import DataError
from quant.schemes import StoredTensor


@dataclass(frozen=True)
class LayerRecord:
    """One layer in few bits; basis, order and kernel are None where the stored values are the weight itself."""

    name: str
    values: StoredTensor
    basis: str | None = None
    order: Size2d | None = None
    kernel: Size2d | None = None

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the dense weight."""
        shape = tuple(self.values.integers.shape)
        return shape if self.kernel is None else (*shape[:2], *self.kernel)

    def weight(self) -> Tensor:
        """The layer's dense float32 weight, the same on every machine, bit for bit."""
        values = self.values.dequantize()
        if self.basis is None or self.kernel is None:
            return values
        return reconstruct(values, self.basis, self.kernel, portable=True)


@dataclass(frozen=True)
class NetworkRecord:
    """A network as it is stored: the layers in few bits and the tensors that stay float.

    Attributes:
        layers: Quantized layers in network order.
        floats: Name -> tensor, for every other parameter and persistent buffer.
        normalizations: Batch normalizations as scale and shift; their tensors are not in ``floats``.
    """

    layers: tuple[LayerRecord, ...]
    floats: dict[str, Tensor]
    normalizations: tuple[NormalizationRecord, ...] = ()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Name -> value of every tensor of the dense network, each computed when it is asked for."""
        yield from self.floats.items()
        for normalization in self.normalizations:
            yield from normalization.tensors().items()
        yield from ((f"{layer.name}.weight", layer.weight()) for layer in self.layers)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every tensor of the dense network."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.floats.items()}
        for normalization in self.normalizations:
            shapes |= {name: tuple(tensor.shape) for name, tensor in normalization.tensors().items()}
        return shapes | {f"{layer.name}.weight": layer.weight_shape for layer in self.layers}


def record_network(model: nn.Module, quantized: dict[str, StoredTensor]) -> NetworkRecord:
    """Take from a trained network what its artifact needs.

    Args:
        model: A network without fake quantizers' help: ``quantized`` has the stored values.
        quantized: Layer name -> stored values; empty for an artifact in float, which keeps every tensor as it is.
    """
    layers = tuple(_record_layer(name, model.get_submodule(name), values) for name, values in quantized.items())
    normalizations = record_normalizations(model) if quantized else ()
    skipped = tuple(f"{name}.{part}" for name in quantized for part in ("weight", "coefficients", "parametrizations."))
    held = {name for normalization in normalizations for name in normalization.tensors()}
    floats = {
        name: tensor.detach().cpu()
        for name, tensor in stored_tensors(model)
        if not name.startswith(skipped) and name not in held
    }
    return NetworkRecord(layers, floats, normalizations)


def _record_layer(name: str, module: nn.Module, values: StoredTensor) -> LayerRecord:
    values = values.cpu()
    if not isinstance(module, SeriesConv2d):
        return LayerRecord(name, values)
    return LayerRecord(name, values, module.basis, module.order, (module.kernel_size[0], module.kernel_size[1]))


def build_network(record: NetworkRecord, model: nn.Module) -> nn.Module:
    """Fill an ordinary network with a record's tensors, in place.

    Args:
        record: What was stored.
        model: The uncompressed architecture; every value it holds is replaced.

    Returns:
        The network, in evaluation mode, with dense convolutions only.

    Raises:
        DataError: The record lacks a tensor of the architecture, has one too many, or one of another shape.
    """
    # A weight computed by a parametrization is stored as the plain tensor that it came to.
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module) and any(layer.name == name for layer in record.layers):
            parametrize.remove_parametrizations(module, "weight")
    check_shapes(record, model)
    own = dict(stored_tensors(model))
    with torch.no_grad():
        for name, tensor in record.tensors():
            own[name].copy_(tensor)
    return model.eval()


def check_shapes(record: NetworkRecord, model: nn.Module) -> None:
    """Compare a record with an architecture, which may be on the meta device, before anything is computed.

    Raises:
        DataError: A tensor is in only one of the two, or has two shapes.
    """
    stored, own = record.shapes(), {name: tuple(tensor.shape) for name, tensor in stored_tensors(model)}
    if differing := sorted(own.keys() ^ stored.keys()):
        raise DataError(f"artifact: tensor {differing[0]!r} is in only one of file and architecture; allowed: the same")
    for name, shape in own.items():
        if shape != stored[name]:
            raise DataError(f"artifact: {name!r} has shape {stored[name]}; allowed: {shape}")


def stored_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers, shared ones once, without the batch counters that only training reads."""
    persistent = model.state_dict().keys()
    yield from model.named_parameters()
    for name, buffer in model.named_buffers():
        if name in persistent and not name.endswith("num_batches_tracked"):
            yield name, buffer
