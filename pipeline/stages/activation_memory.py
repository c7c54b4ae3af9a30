"""Estimate the memory of activations, which bounds the calibration images and is part of the plan."""

import copy
from typing import Final

import torch
from torch import nn

from pipeline.runtime.tensor_memory import peak_bytes

ACTIVATION_BYTES: Final = 1_500_000_000
"""Most bytes of activations of the calibration images, which pass through a network at once."""
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
    network, count = copy.deepcopy(model).train(training), _TRAINED if training else 1
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    images = torch.zeros(count, *shape, device=device)
    with torch.set_grad_enabled(training):
        return peak_bytes(lambda: network(images)) // count
