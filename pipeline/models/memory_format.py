"""Networks that compute in contiguous memory alone, such as those that view maps as vectors."""

from typing import Final

import torch
from torch import Tensor, nn

from basis.modes import evaluation_mode
from pipeline.models.preparation import plain_copy
from pipeline.runtime.device import contiguous_inputs, placed
from pipeline.runtime.randomness import RandomStream

_SAFE_CHANNELS: Final = 8
"""Fewest input channels of a strided 1x1 convolution whose gradient PyTorch computes within its memory."""


@torch.no_grad()
def settle_memory_format(model: nn.Module, images: Tensor) -> None:
    """Keep a network in contiguous memory if it fails in channels_last, by a hook that its copies have too.

    ``x.view(len(x), -1)`` of a map fails there, because the channels of a pixel are neighbours. In PyTorch 2.14 on a
    CPU, the weight's gradient of a strided 1x1 convolution of few channels is written beyond its memory there. This
    ends the process with a segmentation fault, for example for the stem of RepVGG, so it is not tried.

    Args:
        model: The network; see ``pipeline.runtime.device.placed``.
        images: Some images that it takes in contiguous memory, (N, C, H, W), on its device.
    """
    if images.device.type == "cpu" and any(map(_is_unsafe, model.modules())):
        model.register_forward_pre_hook(contiguous_inputs)
        return
    stream = RandomStream(0, images.device)
    try:
        trial = placed(plain_copy(model), images.device)
        with stream.drawn_from(), evaluation_mode(trial):
            trial(images.to(memory_format=torch.channels_last, copy=True))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        model.register_forward_pre_hook(contiguous_inputs)


def _is_unsafe(layer: nn.Module) -> bool:
    weight = getattr(layer, "weight", None) if isinstance(layer, nn.Conv2d) else None
    if not isinstance(weight, Tensor) or weight.shape[2:] != (1, 1):
        return False
    strides = torch.atleast_1d(torch.as_tensor(layer.stride))  # a number in place of a pair is allowed
    return weight.shape[1] < _SAFE_CHANNELS and int(strides.max()) > 1
