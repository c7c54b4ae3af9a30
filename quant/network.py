"""Quantize a whole network: select its tensors, round them, and attach fake quantizers."""

from collections.abc import Mapping

from torch import Tensor, nn

from basis.layers import stored_layers, stored_values
from quant.backends import Backend
from quant.fake_quantizer import FakeQuantizer, attach, attached
from quant.formats import term_factors
from quant.nearest import quantize_nearest
from quant.other_weights import other_weights, set_weights
from quant.schemes import FixedTensor, Format, StoredTensor
from quant.term_factors import TermScaledFakeQuantizer


def quantize_network(
    model: nn.Module, format: Format, backend: Backend, rounded: Mapping[str, FixedTensor] | None = None
) -> dict[str, StoredTensor]:
    """Compute the stored values of all coefficients, kernels and other weights; the network is not changed.

    A layer with a fake quantizer gets exactly the values that it was trained with. Any other layer is rounded to
    nearest; see ``quant.formats.nearest_scale`` for the scale of integers.

    Args:
        model: The network, with or without fake quantizers.
        format: The number format.
        backend: Brevitas or torch.ao.
        rounded: Layer name -> stored values that are known already.

    Returns:
        Layer name -> stored values, in network order, and then parameter name -> stored values of
        ``quant.other_weights``. A tensor that several layers share appears once.

    Raises:
        CompressionError: The backend lacks the format.
        NumericalError: A value is not finite.
    """
    found: Mapping[str, StoredTensor] = rounded or {}
    layers = {
        name: found[name] if name in found else _stored(module, format, backend)
        for name, module in stored_layers(model).items()
    }
    return layers | nearest_weights(model, format, backend)


def nearest_weights(model: nn.Module, format: Format, backend: Backend) -> dict[str, StoredTensor]:
    """Round the weights of ``quant.other_weights`` to nearest: parameter name -> stored values."""
    return {name: backend.quantize(weight.detach(), format) for name, weight in other_weights(model).items()}


def _stored(module: nn.Module, format: Format, backend: Backend) -> StoredTensor:
    trained = attached(module)
    if trained is None:
        return quantize_nearest(module, format, backend)
    quantizer, weight = trained
    return quantizer.quantized(weight)


def attach_fake_quantizers(
    model: nn.Module, format: Format, backend: Backend, rounded: Mapping[str, FixedTensor] | None = None
) -> nn.Module:
    """Attach fake quantizers for quantization-aware training, in place; weights stay float, scales are learned.

    A frozen weight has a frozen scale. The weights of ``quant.other_weights`` get their stored values and are not
    trained.

    Args:
        model: The network.
        format: The number format.
        backend: Brevitas or torch.ao.
        rounded: Layer name -> stored values from which training starts; other layers start from nearest.

    Returns:
        The network.

    Raises:
        CompressionError: The backend lacks the format.
        NumericalError: A value is not finite.
    """
    set_weights(model, {name: each.dequantize() for name, each in nearest_weights(model, format, backend).items()})
    quantizers: dict[int, FakeQuantizer] = {}
    for name, module in stored_layers(model).items():
        weight, start = stored_values(module), (rounded or {}).get(name)
        if start is not None:
            weight.data.copy_(start.dequantize())
        quantizer = _fake_quantizer(weight, format, backend, start)
        quantizers[id(weight)] = quantizer.requires_grad_(weight.requires_grad)
    attach(model, quantizers)
    return model


def _fake_quantizer(weight: Tensor, format: Format, backend: Backend, start: FixedTensor | None) -> FakeQuantizer:
    """Create a fake quantizer that starts from the stored values; without them, from rounding to nearest."""
    if start is None or start.terms is None:
        return backend.fake_quantizer(weight, format, None if start is None else start.scale)
    divided = weight / term_factors(start.terms).to(weight.device)
    quantizer = backend.fake_quantizer(divided, format, start.scale)
    return TermScaledFakeQuantizer(quantizer, start.terms, weight.device)
