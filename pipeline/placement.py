"""Where a network computes, and in which layout: the last bits of what it gives follow from both."""

from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def placed(model: Network, device: torch.device) -> Network:
    """Move a network, in place, to a device and to channels_last, the layout that images come in."""
    return model.to(device).to(memory_format=torch.channels_last)
