"""The network whose layers the tests of users' layers change, and its images."""

import torch
from torch import nn
from torch.nn import functional

IMAGES = functional.avg_pool2d(torch.randn(64, 3, 14, 14, generator=torch.Generator().manual_seed(1)), 3, stride=1) * 3


class Net(nn.Module):
    """Two convolutions and a classifier; subclasses change one thing."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)

    def features(self, x):
        return self.two(self.conv(x).relu()).relu().mean((2, 3))

    def forward(self, x):
        return self.fc(self.features(x))
