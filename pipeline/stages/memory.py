"""Estimate the memory of activations, which bounds the calibration images and is part of the plan."""

import copy
from typing import Final

import torch
from torch import nn

from basis.modes import evaluation_mode
from pipeline.runtime.memory import peak_bytes

ACTIVATION_BYTES: Final = 1_500_000_000
"""Most bytes of activations of the calibration images, which pass through a network at once."""
_TRAINED: Final = 2  # batch normalization of 1x1 feature maps needs more than one image


def images_in_memory(model: nn.Module, image_size: tuple[int, int], channels: int = 3) -> int:
    """Return the number of images, 1 or more, whose activations fit into ``ACTIVATION_BYTES``."""
    return max(1, ACTIVATION_BYTES // max(1, evaluation_bytes(model, image_size, channels)))


def evaluation_bytes(model: nn.Module, image_size: tuple[int, int], channels: int = 3) -> int:
    """Measure the activations that exist at once in a forward pass; the network is not changed.

    Args:
        model: The network, on any device.
        image_size: Height and width in pixels.
        channels: Channels of the images.

    Returns:
        Bytes for one image, in float32.
    """
    with evaluation_mode(model), torch.no_grad():
        images = _images(model, 1, image_size, channels)
        return peak_bytes(lambda: model(images))


def training_bytes(model: nn.Module, image_size: tuple[int, int], channels: int = 3) -> int:
    """Measure the activations that a training step keeps for the backward pass; the network is not changed.

    Args:
        model: The network, on any device.
        image_size: Height and width in pixels.
        channels: Channels of the images.

    Returns:
        Bytes for one image, in float32.
    """
    network = copy.deepcopy(model).train()
    images = _images(network, _TRAINED, image_size, channels)
    return peak_bytes(lambda: network(images)) // _TRAINED


def _images(model: nn.Module, count: int, image_size: tuple[int, int], channels: int) -> torch.Tensor:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    return torch.zeros(count, channels, *image_size, device=device)
