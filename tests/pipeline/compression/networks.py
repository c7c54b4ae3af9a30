"""Networks and images in memory for the tests of ``compress``."""

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Three convolutions on one channel, with a residual sum and normalization; logits by default."""

    def __init__(self, outputs: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 5, padding=2)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.last = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.head = nn.Linear(12, outputs)

    def features(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.last(x + self.block(x)).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class Maps(Net):
    """Fully convolutional: its output is a map, (N, 12, H / 2, W / 2)."""

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)


class Named(Net):
    """Its output is a dict."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"logits": super().forward(x), "features": self.features(x)}


def seeded(kind: type[Net] = Net, seed: int = 0) -> Net:
    """Return a network with fixed weights, and the running statistics of ``images``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = kind()
    with torch.no_grad():
        for _ in range(40):
            network(images(96))
    return network


def images(count: int = 48, side: int = 10, seed: int = 1) -> Tensor:
    """Smooth images, as a network sees them: noise that neighbours share."""
    noise = torch.randn(count, 1, side + 2, side + 2, generator=torch.Generator().manual_seed(seed))
    return nn.functional.avg_pool2d(noise, 3, stride=1) * 3


def labels_of(x: Tensor) -> Tensor:
    """The brightest quarter of each image: a class that can be learned."""
    return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1).argmax(1)


def difference(network: nn.Module, original: nn.Module) -> float:
    """The relative error of a network's outputs on images that it was not fitted to."""
    with torch.no_grad():
        x, training = images(32, seed=9), original.training
        wanted = original.eval()(x)
        original.train(training)
        return float((network(x) - wanted).norm() / wanted.norm())


def without_work(patch):
    """Take away what computes a compressed network, so that only the checks before it can run."""
    for name in ("compress_to_size", "fit_series", "rounded_network"):
        patch.setattr(f"pipeline.compression.compress.{name}", None)
