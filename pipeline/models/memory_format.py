"""Networks that compute in contiguous memory alone, such as those that view maps as vectors."""

import torch
from torch import Tensor, nn

from basis.modes import evaluation_mode
from pipeline.models.preparation import plain_copy
from pipeline.runtime.device import contiguous_inputs, placed
from pipeline.runtime.randomness import RandomStream


@torch.no_grad()
def settle_memory_format(model: nn.Module, images: Tensor) -> None:
    """Keep a network in contiguous memory if it fails in channels_last, by a hook that its copies have too.

    ``x.view(len(x), -1)`` of a map fails there, because the channels of a pixel are neighbours.

    Args:
        model: The network; see ``pipeline.runtime.device.placed``.
        images: Some images that it takes in contiguous memory, (N, C, H, W), on its device.
    """
    stream = RandomStream(0, images.device)
    try:
        trial = placed(plain_copy(model), images.device)
        with stream.drawn_from(), evaluation_mode(trial):
            trial(images.to(memory_format=torch.channels_last, copy=True))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        model.register_forward_pre_hook(contiguous_inputs)
