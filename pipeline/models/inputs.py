"""Find the inputs that a network takes: its number of channels, and the normalization that its library publishes."""

from collections.abc import Mapping
from typing import Any, Final

from torch import nn
from torch.nn.modules.conv import _ConvNd

from pipeline.models import torchvision_models
from pipeline.models.preparation import unwrapped
from pipeline.models.registry import takes_images

_ATTRIBUTES: Final = ("in_chans", "in_channels", "input_channels", "num_channels")
_CONFIGS: Final = ("pretrained_cfg", "default_cfg")

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel, for values in 0..1."""


def input_channels(model: nn.Module, available: int, image_size: tuple[int, int]) -> int:
    """Return the number of channels of the images that a network takes, by running it.

    The data's own number is tried first, except for gray images, which some networks broadcast to their channels. The
    next candidates are the channels of the first convolution and of the network's attributes.

    Args:
        model: The network; its modes, buffers and gradients do not change. Lazy modules get their shapes.
        available: Number of channels of the data.
        image_size: Height and width of the images, in pixels.

    Returns:
        The first candidate with which the network runs. If it runs with none: the channels of its first convolution, or
        without a convolution the channels of the data.
    """
    convolutions = (module.in_channels for module in model.modules() if isinstance(module, _ConvNd))
    first = next((channels for channels in convolutions if channels), available)  # a lazy convolution has 0 at first
    named = [value for name in _ATTRIBUTES if isinstance(value := getattr(model, name, None), int) and value > 0]
    own = [first, *named]
    candidates = dict.fromkeys([*own, available, 3] if available == 1 else [available, *own, 3, 1])
    return next((each for each in candidates if takes_images(model, each, image_size)), first)


def published_statistics(model: nn.Module, name: str, weights: str) -> Statistics | None:
    """Return the input normalization that a network's library publishes for its weights; None if it is not known.

    torchvision publishes it with its weights. timm's networks have it in their attribute ``pretrained_cfg``.

    Args:
        model: The network.
        name: Its name, see ``pipeline.models.registry.build_model``.
        weights: The weights' name; for a name that torchvision does not know, its default weights count.
    """
    if torchvision_models.includes(name):
        return torchvision_models.statistics(name, weights)
    model = unwrapped(model)
    for attribute in _CONFIGS:
        config = getattr(model, attribute, None)
        mean, std = _entry(config, "mean"), _entry(config, "std")
        if mean and std and len(mean) == len(std) and min(std) > 0:
            return mean, std
    return None


def _entry(config: Any, name: str) -> tuple[float, ...]:
    value = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
    try:
        return tuple(map(float, value)) if isinstance(value, list | tuple) else ()
    except (TypeError, ValueError):
        return ()
