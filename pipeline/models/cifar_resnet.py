"""The CIFAR ResNets of He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), section 4.2."""

from functools import partial
from typing import Final

from torch import Tensor, nn
from torch.nn import functional

BLOCKS: Final = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9, "resnet110": 18}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with an option A shortcut, which has no parameters.

    Args:
        in_planes: Channels of the input.
        planes: Channels of the output.
        stride: Stride of the first convolution; the shortcut takes every ``stride``-th position.
    """

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        """Build the layers."""
        super().__init__()
        self.stride = stride
        self.extra_planes = planes - in_planes
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_planes, H, W) to (N, planes, ceil(H / stride), ceil(W / stride))."""
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x), inplace=True)

    def shortcut(self, x: Tensor) -> Tensor:
        """Subsample the positions and add channels of zeros, half of them on each side (option A of section 4.2).

        Maps (N, in_planes, H, W) to (N, planes, ceil(H / stride), ceil(W / stride)).
        """
        if self.stride == 1 and self.extra_planes == 0:
            return x
        before = self.extra_planes // 2
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.extra_planes - before))


class CifarResNet(nn.Module):
    """ResNet of 6n + 2 layers for small images: a 3x3 stem, three stages of n blocks, one linear layer.

    Args:
        blocks: Blocks per stage, n in the paper.
        classes: Number of outputs.
    """

    def __init__(self, blocks: int, classes: int) -> None:
        """Build the layers with Kaiming's initialization."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to logits (N, classes)."""
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def _stage(in_planes: int, planes: int, blocks: int, *, stride: int) -> nn.Sequential:
    rest = [BasicBlock(planes, planes, 1) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(in_planes, planes, stride), *rest)


BUILDERS: Final = {name: partial(CifarResNet, blocks) for name, blocks in BLOCKS.items()}
"""Network name -> callable that takes the number of classes and returns the network."""
