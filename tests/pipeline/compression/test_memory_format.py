"""``compress`` of a network in channels_last: its result computes in contiguous memory, as the loaded file does."""

import pytest
import torch
from torch import Tensor, nn

from pipeline import compress, load
from tests.pipeline.compression.two_convolutions import IMAGES, Net


class Depthwise(Net):
    """Its last bits depend on the memory format."""

    def __init__(self) -> None:
        super().__init__()
        self.two = nn.Conv2d(8, 8, 7, padding=3, groups=8)

    def features(self, x: Tensor) -> Tensor:
        return self.two(self.conv(x).relu()).relu().amax((2, 3))


@pytest.mark.parametrize("options", [{"config": "dense", "bits": 4}, {"target_mb": 0.0009}], ids=str)
def test_a_loaded_file_gives_the_outputs_of_the_result(tmp_path, options):
    network = Depthwise().to(memory_format=torch.channels_last)
    result = compress(network, IMAGES, **options)
    loaded = load(result.save(tmp_path / "a.safetensors"), network=Depthwise)
    with torch.no_grad():
        assert torch.equal(loaded(IMAGES), result.network(IMAGES))
    assert network.conv.weight.is_contiguous(memory_format=torch.channels_last)
