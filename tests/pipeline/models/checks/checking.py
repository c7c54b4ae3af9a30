"""A small network for the tests of the check before any work, and that check."""

import torch
from torch import nn
from torch.nn import functional

from basis.regular import irregularity
from pipeline.artifact.record import build_network, exact_record
from pipeline.models.checks.network import check_network

IMAGES = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Base(nn.Module):
    """Two convolutions and a classifier; subclasses change one thing."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 4)

    def features(self, x):
        return functional.relu(self.norm(self.conv2(functional.relu(self.conv1(x)))))

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))


def check(make, *, trained=True, output=None, classes=4):
    def rebuild(model):
        return build_network(exact_record(model), make())

    torch.manual_seed(7)
    return check_network(
        make(), IMAGES, classes=classes, output=output, basis="cosine", trained=trained, rebuild=rebuild
    )


def kept(model):
    return {name: reason for name, module in model.named_modules() if (reason := irregularity(module)) is not None}
