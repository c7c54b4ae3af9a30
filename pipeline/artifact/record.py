"""Record the tensors of a compressed network, and build the dense network from the record."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from basis.computed import ComputedConv2d
from basis.least_squares import Size2d, reconstruct
from basis.modes import evaluating
from basis.parametric.evaluation import reconstruct as reconstruct_parametric
from pipeline.artifact.batchnorm import COARSE_BITS, NormalizationRecord, normalization_error, record_normalizations
from pipeline.artifact.vectors import record_bias
from pipeline.errors import DataError
from quant.minifloat import MinifloatTensor
from quant.schemes import FixedTensor, StoredTensor
from quant.stepped import SteppedTensor

_MANTISSA: Final = 3
"""Bits by which integers are wider than the mantissas of floats with about the same error."""
EXACT_ERROR: Final = 2.0**-18
"""Largest error of batch normalizations that are compared with the original; see ``normalization_error``."""


@dataclass(frozen=True)
class LayerRecord:
    """A quantized layer.

    Attributes:
        name: Name of the module in the network.
        values: Stored values, (O, I, nh, nw) for a series, (O, I, 1, P) for a parametric family; otherwise of the shape
            of the weight.
        basis: A choice of ``--basis``; None if the stored values are the weight itself.
        order: Order of the series, (nh, nw); None without a series.
        kernel: Size of the kernel, (kh, kw); None without a basis.
        bias: The bias, (O,), with one step; None for no bias, or for one among ``NetworkRecord.floats``.
        named_tensor: True if ``name`` is the name of the tensor itself, False if the tensor is ``NAME.weight``.
    """

    name: str
    values: StoredTensor
    basis: str | None = None
    order: Size2d | None = None
    kernel: Size2d | None = None
    bias: SteppedTensor | None = None
    named_tensor: bool = False

    @property
    def tensor_name(self) -> str:
        """Return the name of the dense weight in the network."""
        return self.name if self.named_tensor else f"{self.name}.weight"

    @property
    def is_parametric(self) -> bool:
        """Return True if the stored values are parameters of a parametric family."""
        return self.basis is not None and self.order is None

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Return the shape of the dense weight."""
        shape = tuple(self.values.integers.shape)
        return shape if self.kernel is None else (*shape[:2], *self.kernel)

    def weight(self) -> Tensor:
        """Return the dense float32 weight, bit-identical on every machine."""
        values = self.values.dequantize()
        if self.basis is None or self.kernel is None:
            return values
        if self.order is None:
            return reconstruct_parametric(values, self.basis, self.kernel)
        return reconstruct(values, self.basis, self.kernel, portable=True)


@dataclass(frozen=True)
class NetworkRecord:
    """A network as an artifact stores it.

    Attributes:
        layers: Quantized layers, in the order of the network.
        floats: Name -> tensor, for every parameter and persistent buffer outside ``layers`` and ``normalizations``.
        normalizations: Batch normalizations as scale and shift.
    """

    layers: tuple[LayerRecord, ...]
    floats: dict[str, Tensor]
    normalizations: tuple[NormalizationRecord, ...] = ()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and value of every tensor of the dense network; computes one weight at a time."""
        yield from self.floats.items()
        for normalization in self.normalizations:
            yield from normalization.tensors().items()
        for layer in self.layers:
            yield layer.tensor_name, layer.weight()
            if layer.bias is not None:
                yield f"{layer.name}.bias", layer.bias.dequantize()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name -> shape of every tensor of the dense network, without computing weights."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.floats.items()}
        for normalization in self.normalizations:
            shapes |= {name: tuple(tensor.shape) for name, tensor in normalization.tensors().items()}
        for layer in self.layers:
            shapes[layer.tensor_name] = layer.weight_shape
            if layer.bias is not None:
                shapes[f"{layer.name}.bias"] = tuple(layer.bias.integers.shape)
        return shapes


def record_network(
    model: nn.Module, quantized: Mapping[str, StoredTensor], *, bits_per_value: float | None = None
) -> NetworkRecord:
    """Record the tensors of a trained network; biases and batch normalizations are rounded.

    Args:
        model: The network. The weights of quantized layers are not read from it.
        quantized: Layer or parameter name -> stored values; empty for an artifact in float, in which no tensor is
            changed.
        bits_per_value: Bits per value, on which the error of batch normalizations depends; see
            ``batchnorm.normalization_error``. None counts the largest fixed width; no width is coarse.
    """
    if not quantized:
        return _record(model, quantized, ())
    if bits_per_value is None:
        widths = [_width(values) for values in quantized.values() if not isinstance(values, SteppedTensor)]
        bits_per_value = max(max(widths, default=8) - 1, COARSE_BITS)
    normalizations = record_normalizations(model, normalization_error(bits_per_value))
    return _record(model, quantized, normalizations)


def _width(values: FixedTensor) -> int:
    """Return the width of integers with about the error of a layer's values."""
    return values.format.bits + (_MANTISSA if isinstance(values, MinifloatTensor) else 0)


def exact_record(model: nn.Module) -> NetworkRecord:
    """Record a network in float, but with its batch normalizations as scale and shift of small steps.

    A network that is built from the record computes the same outputs, except where other code reads the statistics.
    """
    return _record(model, {}, record_normalizations(model, EXACT_ERROR))


def _record(
    model: nn.Module, quantized: Mapping[str, StoredTensor], normalizations: tuple[NormalizationRecord, ...]
) -> NetworkRecord:
    tensors = {name: tensor.detach().cpu() for name, tensor in stored_tensors(model)}
    modules = dict(model.named_modules())
    layers = tuple(
        _record_layer(name, modules[name], values, tensors.get(f"{name}.bias"))
        if name in modules
        else LayerRecord(name, values.cpu(), named_tensor=True)
        for name, values in quantized.items()
    )
    computed = tuple(f"{name}.parametrizations." for name in quantized)
    held = {f"{name}.{part}" for name in quantized for part in ("weight", "coefficients")}
    held |= {f"{layer.name}.bias" for layer in layers if layer.bias is not None}
    held |= {layer.name for layer in layers if layer.named_tensor}
    held |= {name for normalization in normalizations for name in normalization.tensors()}
    floats = {name: tensor for name, tensor in tensors.items() if not name.startswith(computed) and name not in held}
    return NetworkRecord(layers, floats, normalizations)


def _record_layer(name: str, module: nn.Module, values: StoredTensor, bias: Tensor | None) -> LayerRecord:
    values = values.cpu()
    rounded = record_bias(bias) if bias is not None and bias.shape == values.integers.shape[:1] else None
    if not isinstance(module, ComputedConv2d):
        return LayerRecord(name, values, bias=rounded)
    kernel = (module.kernel_size[0], module.kernel_size[1])
    return LayerRecord(name, values, module.basis, module.order, kernel, rounded)


def build_network(record: NetworkRecord, model: nn.Module) -> nn.Module:
    """Copy the tensors of a record into a network, in place.

    Args:
        record: The record.
        model: The uncompressed architecture; all its values are replaced.

    Returns:
        The network, in evaluation mode, with dense convolutions only.

    Raises:
        DataError: A tensor is missing in the record or in the architecture, or has two shapes.
    """
    check_shapes(record, model)
    own = dict(stored_tensors(model))
    with torch.inference_mode():  # a network that was built in this mode can be written in no other
        for name, tensor in record.tensors():
            own[name].copy_(tensor)
    return evaluating(model)


def check_shapes(record: NetworkRecord, model: nn.Module) -> None:
    """Check that a record and an architecture have the same tensors, without computing any.

    Args:
        record: The record.
        model: The architecture; may be on the meta device.

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
    """Yield parameters and persistent buffers, shared ones once, without ``num_batches_tracked`` of training."""
    persistent = model.state_dict().keys()
    yield from model.named_parameters()
    for name, buffer in model.named_buffers():
        if name in persistent and not name.endswith("num_batches_tracked"):
            yield name, buffer
