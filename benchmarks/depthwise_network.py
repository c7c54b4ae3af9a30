"""A network of 5x5 and depthwise convolutions for 32x32 images, for `--model benchmarks/depthwise_network.py:make`."""

from collections import OrderedDict

from torch import Tensor, nn

WIDTHS = (16, 32, 64)
BLOCKS = 2
"""Residual blocks of each stage."""


def normalized(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels))


class DepthwiseBlock(nn.Module):
    """A residual block: a depthwise 5x5 convolution, then two of 1x1 with twice the channels between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = normalized(nn.Conv2d(channels, channels, 5, padding=2, groups=channels, bias=False))
        self.widen = normalized(nn.Conv2d(channels, 2 * channels, 1, bias=False))
        self.narrow = normalized(nn.Conv2d(2 * channels, channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(self.widen(self.depthwise(x)).relu())


def make(num_classes: int = 10) -> nn.Sequential:
    """Return the network: three stages, each of a 5x5 convolution and depthwise blocks, with random weights."""
    stages, channels = OrderedDict[str, nn.Module](), 3
    for number, width in enumerate(WIDTHS, 1):
        first = normalized(nn.Conv2d(channels, width, 5, stride=1 if number == 1 else 2, padding=2, bias=False))
        stages[f"stage{number}"] = nn.Sequential(first, nn.ReLU(), *(DepthwiseBlock(width) for _ in range(BLOCKS)))
        channels = width
    head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
    return nn.Sequential(OrderedDict([*stages.items(), ("head", head)]))
