"""What an artifact holds of a network, and the ordinary network built from it."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from basis.conv import SeriesConv2d
from basis.fit import Size2d, reconstruct
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

    def weight(self) -> Tensor:
        """The layer's dense float32 weight."""
        values = self.values.dequantize()
        return values if self.basis is None or self.kernel is None else reconstruct(values, self.basis, self.kernel)


@dataclass(frozen=True)
class NetworkRecord:
    """A network as it is stored: the layers in few bits and the tensors that stay float.

    Attributes:
        layers: Quantized layers in network order.
        floats: Name -> tensor, for every other parameter and persistent buffer.
    """

    layers: tuple[LayerRecord, ...]
    floats: dict[str, Tensor]


def record_network(model: nn.Module, quantized: dict[str, StoredTensor]) -> NetworkRecord:
    """Take from a trained network what its artifact needs.

    Args:
        model: A network without fake quantizers' help: ``quantized`` has the stored values.
        quantized: Layer name -> stored values; empty for an artifact in float.
    """
    layers = tuple(_record_layer(name, model.get_submodule(name), values) for name, values in quantized.items())
    skipped = tuple(f"{name}.{part}" for name in quantized for part in ("weight", "coefficients", "parametrizations."))
    floats = {name: t.detach().cpu() for name, t in _stored_tensors(model) if not name.startswith(skipped)}
    return NetworkRecord(layers, floats)


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
    stored = {**record.floats, **{f"{layer.name}.weight": layer.weight() for layer in record.layers}}
    own = dict(_stored_tensors(model))
    if differing := sorted(own.keys() ^ stored.keys()):
        raise DataError(f"artifact: tensor {differing[0]!r} is in only one of file and architecture; allowed: the same")
    for name, tensor in own.items():
        if tensor.shape != stored[name].shape:
            raise DataError(f"artifact: {name!r} has shape {tuple(stored[name].shape)}; allowed: {tuple(tensor.shape)}")
        with torch.no_grad():
            tensor.copy_(stored[name])
    return model.eval()


def _stored_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers, shared ones once, without the batch counters that only training reads."""
    persistent = model.state_dict().keys()
    yield from model.named_parameters()
    for name, buffer in model.named_buffers():
        if name in persistent and not name.endswith("num_batches_tracked"):
            yield name, buffer
