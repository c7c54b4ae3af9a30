"""Estimate the memory of a run: the activations limit the number of calibration images, the plan shows all parts."""

from collections.abc import Collection
from typing import Final

import torch
from torch import nn

from basis.copying import copy_network
from basis.devices import device_of
from basis.layers import hessian_layers
from basis.modes import evaluating
from basis.patches import MAX_FEATURES
from basis.sampling import DEFAULT_SAMPLING
from pipeline.runtime.tensor_memory import peak_bytes
from quant.float_outputs import ROW_BYTES, layer_row_bytes

ACTIVATION_BYTES: Final = 1_500_000_000
"""Most bytes of activations of the calibration images, which pass through a network at once."""
LIBRARY_BYTES: Final = 1_400_000_000
"""Memory of the libraries (0.9 GB), of batches of input patches (``batch_values``), and of gaps in the heap."""
# Copies of the weights in float32, in a run and for each width: fitted to the peaks of AlexNet (57 million parameters)
# and of a network of 28 million, 2026-11-28.
_COPIES, _COPIES_OF_WIDTH = 12, 5
_TRAINED: Final = 2  # batch normalization of 1x1 feature maps needs more than one image


def images_in_memory(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Return the number of images, (C, H, W), 1 or more, whose activations fit into ``ACTIVATION_BYTES``."""
    return max(1, ACTIVATION_BYTES // max(1, activation_bytes(model, shape, training=False)))


def activation_bytes(model: nn.Module, shape: tuple[int, int, int], *, training: bool) -> int:
    """Measure the activations that exist at once in a forward pass; the network is not changed.

    Args:
        model: The network, on any device.
        shape: (C, H, W) of an image.
        training: True to count the activations that a training step keeps for the backward pass.

    Returns:
        Bytes for one image, in float32.
    """
    network, count = copy_network(model), _TRAINED if training else 1
    network.train(training)
    images = torch.zeros(count, *shape, device=device_of(model))
    with torch.set_grad_enabled(training):
        return peak_bytes(lambda: network(images)) // count


def weight_bytes(model: nn.Module, widths: int) -> int:
    """Return the bytes of all copies of the weights that a run holds: networks, stored results, integers, files.

    Args:
        model: The network.
        widths: Number of bit widths of a config.
    """
    return (_COPIES + _COPIES_OF_WIDTH * widths) * sum(p.nbytes for p in model.parameters())


def sample_bytes(model: nn.Module, series: Collection[str], shape: tuple[int, int, int], count: int) -> int:
    """Return the bytes of the sampled outputs that the fit holds, or the rounding if it holds more.

    Args:
        model: The network, on any device.
        series: Names of the layers that become series. The fit holds the outputs of all of them.
        shape: (C, H, W) of an image.
        count: Number of calibration images.
    """
    network = evaluating(copy_network(model))
    names = hessian_layers(network, MAX_FEATURES)
    images = torch.zeros(_TRAINED, *shape, device=device_of(network))
    sizes = layer_row_bytes(network, names, images, count, DEFAULT_SAMPLING)
    rounding = min(sum(sizes.values()), max(ROW_BYTES, *sizes.values(), 0))
    return max(rounding, sum(size for name, size in sizes.items() if name in series))
