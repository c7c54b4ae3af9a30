"""Test that a layer that gets a part of the batch at a time is fitted to all images, as if it had got them at once."""

import copy

import pytest
import torch
from torch import Tensor, nn

from basis.activations import fit_activations
from basis.routing import routed_layers
from basis.sampling import SamplingConfig
from basis.swap import swap_convolutions

IMAGES = torch.randn(18, 3, 12, 12, generator=torch.Generator().manual_seed(0))
FEW = SamplingConfig(positions=18 * 50, batch_values=2**12, chunk_pixels=4 * 3 * 144, min_chunk_share=0)
SPLITS = {
    "split": lambda x: x.split(8),
    "chunk": lambda x: x.chunk(4),
    "uneven": lambda x: x.tensor_split(4),
    "images": lambda x: x.split(1),
    "slices": lambda x: (x[: len(x) // 2], x[len(x) // 2 :]),
}


class Net(nn.Module):
    """Two convolutions; the second one gets parts, and the first one too if ``everything`` is set."""

    def __init__(self, split=lambda x: (x,), *, everything: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3)
        self.split, self.everything = split, everything

    def forward(self, x: Tensor) -> Tensor:
        if self.everything:
            return torch.cat([self.two(self.one(part).relu_()) for part in self.split(x)])
        return torch.cat([self.two(part) for part in self.split(self.one(x).relu_())])


def fitted(network: nn.Module) -> tuple[nn.Module, dict[str, float]]:
    series = swap_convolutions(copy.deepcopy(network), {"one": (2, 2), "two": (2, 2)}, "cosine")
    return series, fit_activations(series, network.eval(), IMAGES, sampling=FEW)


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
def test_the_fit_is_that_of_the_whole_batch(split, everything):
    found, errors = fitted(Net(split, everything=everything))
    wanted, whole = fitted(Net())
    assert errors == pytest.approx(whole, rel=1e-4)
    torch.testing.assert_close(found.state_dict(), wanted.state_dict(), rtol=1e-4, atol=1e-4)


def test_an_expert_and_the_other_images_are_no_parts_of_a_batch():
    network = Net(lambda x: (x[x[:, 0, 0, 0] > 0], x[x[:, 0, 0, 0] <= 0])).eval()
    with torch.no_grad():
        lengths = [int((network.one(IMAGES).relu()[:, 0, 0, 0] > 0).sum())]
    runs = {"two": [lengths[0], len(IMAGES) - lengths[0]]}
    assert 0 < lengths[0] < len(IMAGES)
    assert routed_layers(network, runs, IMAGES, len(IMAGES)) == {"two"}
