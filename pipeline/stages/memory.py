"""Estimate the memory of activations, which bounds the calibration images and is part of the plan."""

import copy
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn
from torch.nn import functional

from basis.modes import evaluation_mode
from pipeline.runtime.memory import peak_bytes

ACTIVATION_BYTES: Final = 2_000_000_000
"""Most bytes of activations of the calibration images, which pass through a network at once."""
_TRAINED: Final = 2  # batch normalization of small feature maps needs more than one image


@dataclass(frozen=True)
class ImageMemory:
    """Bytes that a network's activations need for one image.

    Attributes:
        evaluation: Largest size of the activations that exist at once in a forward pass.
        training: Size of the activations that a training step keeps, in float32.
    """

    evaluation: int
    training: int

    @property
    def images(self) -> int:
        """Number of images, 1 or more, whose activations fit into ``ACTIVATION_BYTES``."""
        return max(1, ACTIVATION_BYTES // max(1, self.evaluation))


def bytes_per_image(model: nn.Module, image_size: tuple[int, int]) -> int:
    """Measure the activations of one image in a forward pass; the network is not changed.

    Args:
        model: The network, on any device.
        image_size: Height and width in pixels.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    image = torch.zeros(1, 3, *image_size, device=device)
    with evaluation_mode(model), torch.no_grad():
        return peak_bytes(lambda: model(image))


def image_memory(model: nn.Module, image_size: tuple[int, int]) -> ImageMemory:
    """Measure both figures of a network; see ``bytes_per_image``."""
    network = copy.deepcopy(model).train()
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    images = torch.zeros(_TRAINED, 3, *image_size, device=device)

    def step() -> None:
        functional.log_softmax(network(images), dim=1).sum().backward()

    weights = sum(parameter.nbytes for parameter in network.parameters() if parameter.requires_grad)
    training = max(0, peak_bytes(step) - weights) // _TRAINED
    return ImageMemory(bytes_per_image(model, image_size), training)
