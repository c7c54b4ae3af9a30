"""Small networks and data for the tests of the pipeline."""

import os
import sys
import textwrap
from pathlib import Path

import numpy as np
import torch
from torch import nn

SOURCE = '''
from torch import nn


def make(num_classes=4):
    """A 5x5 stem, a depthwise and strided 3x3, normalization with a bias-free convolution, a linear head."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 5, padding=2, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 8, 3, padding="same", groups=8), nn.ReLU(), nn.Conv2d(8, 12, 1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(12, 16, 3, stride=2, padding=1, padding_mode="reflect"), nn.BatchNorm2d(16), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, num_classes),
    )
'''


def tiny_network(classes: int = 4, seed: int = 0) -> nn.Module:
    """The network of ``SOURCE``, with fixed weights."""
    namespace: dict[str, object] = {}
    exec(SOURCE, namespace)
    torch.manual_seed(seed)
    return namespace["make"](classes).eval()  # type: ignore[operator]


def write_module(folder: Path) -> str:
    """Write the network's source as a module; returns its ``module:callable`` reference."""
    (folder / "tiny_net.py").write_text(textwrap.dedent(SOURCE))
    return "tiny_net:make"


def forget_modules(folder: Path) -> None:
    """Drop the loaded modules of a folder; torch registers operators when its own modules are imported, but once."""
    start = f"{folder}{os.sep}"  # paths of thousands of modules would take a tenth of a second
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(start):
            del sys.modules[name]


def write_npz(path: Path, *, train: int = 96, test: int = 61, classes: int = 4, size: int = 12) -> Path:
    """Write images whose class is the colour that is bright (the last: all of them): learnable in a few steps."""
    generator = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", train), ("test", test)):
        labels = generator.permutation(np.arange(count) % classes)
        images = generator.integers(0, 120, (count, size, size, 3))
        for image, label in zip(images, labels, strict=True):
            image[..., label % 3] += 60 * (label < 3)
            if label == 3:
                image += 60
        arrays |= {f"x_{split}": images.astype(np.uint8), f"y_{split}": labels.astype(np.uint8)}
    np.savez(path, **arrays)
    return path


def with_statistics(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every batch normalization values as after training, factors of zero and below zero among them."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(0.3 * torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
            module.weight.data.copy_(torch.randn(module.num_features, generator=generator))
            module.bias.data.copy_(0.3 * torch.randn(module.num_features, generator=generator))
            module.weight.data[0] = 0
    return model
